"""The edge on Cloudflare's network: the Worker of `ragstone/worker/`, rendered from the settings, deployed by wrangler, or run here.

    edge.url = "cloudflare://api.example.com?kv=<namespace id>&name=ragstone-edge"

The host is the Worker's custom domain; without one it is reached at workers.dev, where Cloudflare's cache keeps nothing. The origin
must be reachable from there.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ragstone import npm
from ragstone.children import interruptible
from ragstone.config import Settings
from ragstone.connect import is_here
from ragstone.errors import ConfigError

SOURCE = Path(__file__).parents[1] / "worker"
"""The Worker's source."""
RUNTIME = "2026-07-30"
"""The day whose behaviour of the runtime is asked for: the newest that the pinned workerd knows."""
OPTIONS = ("kv", "name")
QUIET = {"CLOUDFLARE_CF_FETCH_ENABLED": "false", "WRANGLER_SEND_METRICS": "false", "WRANGLER_SEND_ERROR_REPORTS": "false"}
"""Neither wrangler nor miniflare calls home."""


def run(settings: Settings, started: Callable[[str], None] | None = None) -> None:
    """Run the Worker on this machine, in the runtime that Cloudflare runs, until SIGTERM or SIGINT: for trials and tests.

    Raises `ConfigError` without npm, or when the Worker does not start.
    """
    packages = npm.packages(SOURCE / "package.json")
    serve, rendered = str(SOURCE / "serve.mjs"), str(_write(settings))
    command = [str(npm.node(packages)), serve, str(packages), rendered, settings.edge.host, str(settings.edge.port)]
    # the Worker ends when its input does, however this process ends
    with interruptible(), subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()) as worker:
        assert worker.stdin
        assert worker.stdout
        try:
            url = worker.stdout.readline().strip()
            if not url:
                raise ConfigError(f"the Worker did not start on {settings.edge.host}:{settings.edge.port}", "see what it printed above")
            if started:
                started(url)
            worker.wait()
        except KeyboardInterrupt:
            worker.stdin.close()


def deploy(settings: Settings, *, dry_run: bool = False) -> None:
    """Bundle the Worker and put it on Cloudflare's network; with `dry_run`, only check and bundle it, offline.

    wrangler finds its own credentials (CLOUDFLARE_API_TOKEN). Raises `ConfigError` when the origin can't be reached from there, without
    npm, or when wrangler fails.
    """
    if is_here(urlsplit(settings.edge.origin).hostname):
        raise ConfigError(f"edge.origin = {settings.edge.origin!r} is this machine: Cloudflare can't reach it", "set edge.origin")
    rendered = _write(settings)
    bundle = ["--dry-run", "--outdir", str(rendered.parent / "bundle")] if dry_run else []
    _wrangler("deploy", "--minify", "--config", str(rendered), *bundle, folder=rendered.parent)


def tail(settings: Settings) -> None:
    """Print the Worker's requests as Cloudflare tells of them, as JSON, until interrupted; likewise."""
    rendered = _write(settings)
    _wrangler("tail", "--format", "json", "--config", str(rendered), folder=rendered.parent)


def render(settings: Settings) -> dict[str, object]:
    """The Worker's configuration, as wrangler reads it. Raises `ConfigError` on an `edge.url` with an unknown option."""
    domain, options = _address(settings.edge.url)
    objects = {"FLIGHT": "Flight", "BUDGET": "Budget"}
    rendered: dict[str, object] = {
        "name": options.get("name", "ragstone-edge"),
        "main": str(SOURCE / "src" / "index.ts"),
        "compatibility_date": RUNTIME,
        "compatibility_flags": ["enable_request_signal"],
        "keep_names": False,
        "workers_dev": not domain,
        "vars": {
            "ORIGIN": settings.edge.origin.rstrip("/"),
            "TTL": settings.edge.ttl,
            "RELEASE_CHECK": settings.edge.release_check,
            "TIMEOUT": settings.edge.timeout,
            "MAX_BODY": settings.api.max_body_kb * 1024,
            "MAX_TOKENS": settings.serve.max_tokens,
        },
        "durable_objects": {"bindings": [{"name": name, "class_name": kind} for name, kind in objects.items()]},
        "migrations": [{"tag": "v1", "new_sqlite_classes": list(objects.values())}],
    }
    if domain:
        rendered["routes"] = [{"pattern": domain, "custom_domain": True}]
    if "kv" in options:
        rendered["kv_namespaces"] = [{"binding": "ANSWERS", "id": options["kv"]}]
    return rendered


def _address(url: str) -> tuple[str, dict[str, str]]:
    """The custom domain, if there is one, and the options."""
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ConfigError(f"edge.url = {url!r} has an unknown option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    return parts.netloc, options


def _wrangler(*arguments: str, folder: Path) -> None:
    packages = npm.packages(SOURCE / "package.json")
    wrangler = packages / "node_modules" / "wrangler" / "bin" / "wrangler.js"
    command = [str(npm.node(packages)), str(wrangler), *arguments]
    with interruptible(), subprocess.Popen(command, cwd=folder, env=_environment()) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.terminate()  # it tells Cloudflare that nobody listens any more
            raise
    if status:
        raise ConfigError(f"wrangler {arguments[0]} ended with status {status}", "see what it printed above")


def _write(settings: Settings) -> Path:
    path = settings.folder / ".ragstone" / "worker" / "wrangler.jsonc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(render(settings), indent=2) + "\n", encoding="utf-8")
    return path


def _environment() -> dict[str, str]:
    return {**os.environ, **QUIET}
