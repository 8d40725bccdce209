"""The index as an immutable folder: 4-bit codes and fp16 vectors for the dense list, tantivy for BM25, SQLite for the chunks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ragstone.corpus import Chunk
from ragstone.index import Candidate, Query, Vectors


class LocalIndex:
    """An opened folder. Safe to search from several threads."""

    def __init__(self, folder: Path, digest: str) -> None:
        raise NotImplementedError

    digest: str

    def __len__(self) -> int:
        raise NotImplementedError

    def search(self, query: Query) -> list[Candidate]:
        raise NotImplementedError

    def chunks(self, ids: Sequence[str]) -> list[Chunk]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def build(folder: Path, chunks: Sequence[Chunk], vectors: Vectors) -> None:
    """Write the index of `chunks`, row by row with `vectors`, into the fresh `folder`, synced to disk. Raises `IndexingError`."""
    raise NotImplementedError


def open(folder: Path, digest: str) -> LocalIndex:
    """The index that `build` wrote. Raises `IndexingError`, naming the file, when one is missing or damaged."""
    return LocalIndex(folder, digest)
