"""The Worker's runtime on this machine. Without Node and the packages of `ragstone/worker/package.json` a test that needs it is skipped."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ragstone import npm
from ragstone.edge.cloudflare import RUNTIME, SOURCE
from tests.packages import packages as had


def packages() -> Path:
    """The folder of the Worker's packages, installed once into the cache. Skips the test, with the reason, when they can't be had."""
    return had(SOURCE / "package.json", "the Worker")


@contextmanager
def running(main: Path, folder: Path) -> Iterator[str]:
    """The URL of a Worker without bindings whose entry is `main`."""
    with serving({"main": str(main), "compatibility_date": RUNTIME}, folder) as (url, _):
        yield url


@contextmanager
def serving(config: Mapping[str, object], folder: Path) -> Iterator[tuple[str, int]]:
    """The URL of the Worker that this configuration names, and the id of the process that starts workerd."""
    installed = packages()
    path = folder / "wrangler.jsonc"
    path.write_text(json.dumps(config))
    command: list[str | Path] = [npm.node(installed), SOURCE / "serve.mjs", installed, path, "127.0.0.1", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin
        assert worker.stdout
        url = worker.stdout.readline().strip()
        assert url, "the Worker did not start"
        yield url, worker.pid
        worker.stdin.close()
