"""An index in the making: its vectors in a file that grows, so that a kill costs one part of them, and how far it is, for who asks.

A draft lies in the project's work folder until its index is published. It knows no model and no index.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ragstone.errors import IndexingError
from ragstone.lock import NAME as LOCK
from ragstone.lock import is_held

VECTORS, PROGRESS, INDEX = "vectors.f32", "progress.json", "index"
PREFIX = "index-"

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Progress:
    """How far the index of a snapshot under a model is: `encoded` of its `chunks` have their vectors."""

    index: str
    snapshot: str
    model: str
    chunks: int = 0
    encoded: int = 0
    rate: float = 0.0
    """Chunks a second of the process that last worked on it."""
    running: bool = False
    """Whether a process works on it now."""


class Draft:
    """The folder of one index in the making, for the one process that holds it."""

    def __init__(self, folder: Path, dimensions: int) -> None:
        self.folder = folder
        self._dimensions = dimensions
        self._path = folder / VECTORS
        self._path.touch()
        os.truncate(self._path, len(self) * self._row)  # a kill may have cut the last row off

    def __len__(self) -> int:
        """How many rows it has."""
        return self._path.stat().st_size // self._row

    def add(self, vectors: Vectors) -> None:
        """Put rows [n, dimensions] behind the others, synced to disk."""
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(vectors, np.float32).data)
            file.flush()
            os.fsync(file.fileno())

    @property
    def vectors(self) -> Vectors:
        """All rows, mapped and not read."""
        if not len(self):
            return np.empty((0, self._dimensions), np.float32)
        return np.memmap(self._path, np.float32, "r", shape=(len(self), self._dimensions))

    def tell(self, progress: Progress) -> None:
        """Let everyone know how far it is."""
        fresh = self.folder / f"{PROGRESS}.new"
        fresh.write_text(json.dumps(asdict(progress)), encoding="utf-8")
        fresh.replace(self.folder / PROGRESS)

    def target(self) -> Path:
        """An empty folder for the index; what a killed process left there is gone."""
        shutil.rmtree(self.folder / INDEX, ignore_errors=True)
        (self.folder / INDEX).mkdir()
        return self.folder / INDEX

    @property
    def _row(self) -> int:
        return 4 * self._dimensions


@contextmanager
def held(work: Path, index: str) -> Iterator[Path]:
    """The draft's folder below `work`, with nobody else in it: another process that makes the same index is waited for.

    The system lets a killed process' hold go.
    """
    folder = work / f"{PREFIX}{index[:16]}"
    lock = _lock(folder)
    while not _is_at(lock, folder / LOCK):  # who held it before has removed the folder since
        lock.close()
        lock = _lock(folder)
    with lock:
        yield folder


def remove(folder: Path) -> None:
    """Remove a draft whose index is published."""
    shutil.rmtree(folder, ignore_errors=True)


def progress(work: Path) -> list[Progress]:
    """How far each index in the making below `work` is, the oldest first."""
    told = sorted(work.glob(f"{PREFIX}*/{PROGRESS}"), key=lambda path: path.stat().st_mtime)
    return [found for path in told if (found := _read(path))]


def _read(path: Path) -> Progress | None:
    """What a draft tells; None when it was removed since."""
    with suppress(FileNotFoundError):
        try:
            told = json.loads(path.read_bytes())
            return Progress(**{**told, "running": is_held(path.parent)})
        except (ValueError, TypeError) as error:
            raise IndexingError(f"{path} is damaged: {error}", f"rm -r {path.parent}") from error
    return None


def _lock(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK).open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _is_at(file: IO[str], path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
