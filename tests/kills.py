"""Processes that are killed with SIGKILL at some moment of their work, and what must hold of the store then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ragstone import config, release, store
from ragstone.config import Settings
from ragstone.manifest import NAME
from ragstone.store import Store

ROOT = Path(__file__).parent.parent

KILL = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from ragstone import config, indexing, project, store
from ragstone.show import Silence

class Killer(Silence):
    @contextmanager
    def bar(self, label, total=None):
        def advance(done, total=None, note="", left=None, figures=None):
            if label == sys.argv[4] and done >= int(sys.argv[5]):
                os.kill(os.getpid(), signal.SIGKILL)
        if label == "index" == sys.argv[4]:
            os.kill(os.getpid(), signal.SIGKILL)
        yield advance

settings = config.load(Path(sys.argv[1]), {})
indexing.index(settings, store.connect(settings.store_url), sys.argv[2], sys.argv[3], Killer())
"""


def build(folder: Path, seconds: float | None = None) -> str:
    """The id that `ragstone build` prints in a project folder; nothing when it was killed before its end, after so many seconds."""
    command = [sys.executable, "-m", "ragstone", "build", "docs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, told = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return ""
    assert process.returncode == 0, told
    return out.strip()


def index(settings: Settings, snapshot: str, model: str, bar: str, at: int = 0) -> None:
    """Index in a process that is killed when that bar has come so far."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILL, str(settings.folder), snapshot, model, bar, str(at)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL


def opened(folder: Path) -> Store:
    """The store of a project folder."""
    return store.connect(config.load(folder, {}).store_url)


def check(at: Store) -> int:
    """How many folders are published; every file of each is checked, and every part of every release that was ever in force."""
    published = {stat.key.removesuffix(f"/{NAME}") for stat in at.list("") if stat.key.endswith(f"/{NAME}")}
    for prefix in published:
        store.fetch(at, prefix)
    records = release.history(at, "production")
    assert [record.number for record in records] == list(range(1, len(records) + 1))
    for record in records:
        assert parts(at, record.release) <= published
    return len(published)


def parts(at: Store, id: str) -> set[str]:
    """The published folders that a release is made of."""
    made = release.load(at, id)
    return {f"corpora/{made.snapshot}", f"models/{made.model}", f"indexes/{made.index}"}


def left(folder: Path) -> Iterator[Path]:
    """What killed writers left in the store of a project folder."""
    return (folder / ".ragstone" / "store").rglob(".tmp-*")
