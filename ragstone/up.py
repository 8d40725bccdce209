"""`ragstone up`: build what is missing, keep origin and edge running, train in the background, until Ctrl-C."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragstone import access, config, project, runs
from ragstone.children import Kept, interruptible, spawn, stop
from ragstone.config import ENGINE, Settings
from ragstone.errors import AccessError, ConfigError, RagstoneError
from ragstone.listen import address
from ragstone.show import Show
from ragstone.store import Store
from ragstone.sync import sync

START = 90.0
"""Seconds that origin and edge may take until they answer; on two busy cores it was 2 to 20."""

LOCAL_KEY = "local.token"


def up(settings: Settings, store: Store, show: Show) -> None:
    """Serve until interrupted. Raises `ConfigError` when a port is taken, `RagstoneError` when a process does not start."""
    began = time.monotonic()
    for section, host, port in (("api", settings.api.host, settings.api.port), ("edge", settings.edge.host, settings.edge.port)):
        _must_be_free(section, host, port)
    asked = settings.index.inference == ENGINE
    release = None if asked else sync(settings, store, show)
    token = local_key(settings, store)
    with interruptible(), _running(settings, show) as kept:
        if release is None:  # the engine asks this origin for vectors while the index is made
            _wait(settings, kept, "healthz")
            release = sync(settings, store, show)
        _wait(settings, kept, "readyz")
        show.say(f"ready after {time.monotonic() - began:.0f} s: {settings.project.channel} is {release.id}\n")
        show.say(_greeting(settings, token))
        _tend(settings, kept, show)


def local_key(settings: Settings, store: Store) -> Path:
    """The file with this machine's own API key, an administrator's, made when there is none that still works. It may read every group."""
    path = settings.keys_folder / LOCAL_KEY
    groups = project.groups(settings)
    if path.is_file() and _works(store, path.read_text().strip(), groups):
        return path
    limits = settings.access
    token, _ = access.create(
        settings.keys_folder, store, tenant="local", groups=groups, rpm=limits.rpm, tpm=limits.tpm, expires=0, admin=True
    )
    temporary = path.with_suffix(".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(token)
    temporary.replace(path)
    return path


def _works(store: Store, token: str, groups: tuple[str, ...]) -> bool:
    try:
        principal = access.Verifier(store).verify(token)
        return principal.admin and principal.groups == groups
    except AccessError:
        return False


def _must_be_free(section: str, host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            hint = f"RAGSTONE_{section.upper()}_PORT={port + 100} ragstone up"
            raise ConfigError(f"{section}.port = {port} on {host} can't be used: {error.strerror}", hint) from error


@contextmanager
def _running(settings: Settings, show: Show) -> Iterator[tuple[Kept, Kept]]:
    """Origin and edge as processes; both are stopped, the edge first so that it drains, whatever happens."""
    origin_log, edge_log = settings.origin_log, settings.origin_log.with_name("edge.log")
    source = config.environment(settings, "project")  # what the console syncs is the folder that was named here
    origin = Kept(["serve", "--port", str(settings.api.port)], origin_log, settings.folder, source)
    origin_url = f"http://{settings.api.host}:{settings.api.port}"
    edge = Kept(["edge", "--port", str(settings.edge.port), "--origin", origin_url], edge_log, settings.folder)
    try:
        origin.tend()
        edge.tend()
        yield origin, edge
    except KeyboardInterrupt:
        show.say("\nstopping")
    finally:
        edge.stop()
        origin.stop()
        runs.end_detached(settings.work_folder)


def _wait(settings: Settings, kept: tuple[Kept, Kept], route: str) -> None:
    """Until both answer there."""
    until = time.monotonic() + START
    edge = address(settings.edge.host, settings.edge.port, bool(settings.edge.certificate))
    urls = (f"{address(settings.api.host, settings.api.port)}/{route}", f"{edge}/{route}")
    for child, url in zip(kept, urls, strict=True):
        while not _answers(url):
            died = child.process is not None and child.process.poll() is not None
            if died or time.monotonic() > until:
                why = "ended" if died else f"does not answer on {url} after {START:.0f} s"
                raise RagstoneError(f"`ragstone {child.arguments[0]}` {why}: {_last_line(child.log)}", f"less {child.log}")
            time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5, context=_unnamed()) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _unnamed() -> ssl.SSLContext:
    """For our own edge, by an address that its certificate need not name. Nothing secret is asked."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _last_line(log: Path | None) -> str:
    lines = [line for line in (log.read_text(errors="replace") if log else "").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _tend(settings: Settings, kept: tuple[Kept, Kept], show: Show) -> None:
    """Restart what dies, and train beside it once, until interrupted."""
    trainer = None
    if settings.train.minutes > 0:
        show.say("training in the background; questions are answered by the model in force meanwhile")
        limits = ["--minutes", str(settings.train.minutes), "--epochs", str(settings.train.epochs)]
        trainer = spawn(["train", *limits], None, background=True, folder=settings.folder)
    try:
        while True:
            for child in kept:
                status = child.tend()
                if status is not None:
                    show.say(f"`ragstone {child.arguments[0]}` ended with status {status} and was started again; see {child.log}")
            if trainer is not None and trainer.poll() is not None:
                if trainer.returncode:
                    show.say(f"training ended with status {trainer.returncode}; the model in force stays. Go on with: ragstone train")
                trainer = None
            time.sleep(0.5)
    finally:
        if trainer is not None:
            stop(trainer)


def _greeting(settings: Settings, token: Path) -> str:
    url = address(settings.edge.host, settings.edge.port, bool(settings.edge.certificate))
    body = json.dumps({"model": settings.project.channel, "messages": [{"role": "user", "content": "YOUR QUESTION"}]})
    return (
        f"{url}/v1 speaks OpenAI's API. Try:\n\n"
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f'    -H "Authorization: Bearer $(cat {token})" \\\n'
        f"    -d '{body}'\n\n"
        f"The console is at {url}/console. Sign in with the key in {token}\n"
    )
