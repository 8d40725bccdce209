"""`ragstone build` killed with SIGKILL at some moment, and what must hold of its store then."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ragstone import config, release, store
from ragstone.manifest import NAME
from ragstone.store import Store

ROOT = Path(__file__).parent.parent


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
