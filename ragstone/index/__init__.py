"""Indexes: dense and keyword search over the chunks of a snapshot, filtered by groups and metadata inside the search."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ragstone import address, config
from ragstone.address import PLACE as PLACE
from ragstone.connect import connector
from ragstone.corpus import Chunk
from ragstone.corpus.snapshot import Chunks
from ragstone.embedder import Vectors as Vectors
from ragstone.errors import IndexingError
from ragstone.query import BIGRAM_WEIGHT as BIGRAM_WEIGHT
from ragstone.query import Candidate as Candidate
from ragstone.query import Query as Query

SLAB = 8192
"""Rows of vectors that are read at a time while an index is built: 12 MB at 384 dimensions."""


class Index(Protocol):
    """An opened index: immutable, safe to search from several threads. `tests/conformance/test_index.py` is the contract."""

    digest: str

    def __len__(self) -> int:
        """How many chunks it holds."""

    def search(self, query: Query) -> list[Candidate]:
        """The union of the dense and the keyword list, each at most `query.limit` long; unordered."""

    def chunks(self, ids: Sequence[str]) -> list[Chunk]:
        """The chunks with these ids, in the order asked. Raises `IndexingError` on an id that is not there."""

    def close(self) -> None:
        """Release files and connections."""

    def encoded(self, chunks: Sequence[Chunk]) -> dict[str, NDArray[np.float32]]:
        """The unit vectors, by id, of those of the chunks that are in here with the same context: they need not be encoded again."""


class Place(Protocol):
    """Where indexes are built and opened: what a connector's `connect` gives."""

    identity: tuple[object, ...]
    """What of the place and of its format decides what an index is: part of its digest."""

    def check(self) -> None:
        """Raises `IndexingError` when an index can't be built here: before anything is encoded for it."""

    def build(self, folder: Path, digest: str, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Make the index of `chunks`, row by row with `vectors`; the fresh `folder` gets it, or where it is. Raises `IndexingError`.

        Chunks may be read from a file each time that they are asked for, and vectors mapped: neither is to be held whole.
        """

    def open(self, folder: Path, digest: str) -> Index:
        """The index that `build` made. Raises `IndexingError` when it is missing or damaged."""

    def point(self, folder: Path, channel: str) -> None:
        """Let the channel's name stand for this index where people outside look at it; nothing in Ragstone reads it."""


def connect(settings: config.Index) -> Place:
    """The place that `index.url` names."""
    place: Place = connector("index", settings.url).connect(settings)
    return place


def place(folder: Path, settings: config.Index) -> Place:
    """Where the index of this folder was built, whatever `index.url` is by now: a rollback finds the old one.

    Credentials go to the address that the settings name, and to no other.
    """
    url = address.url(folder) or "local"
    if urlsplit(url)[:3] == urlsplit(settings.url)[:3]:
        return connect(settings)
    return connect(config.Index(url=url))


def open(folder: Path, digest: str, settings: config.Index) -> Index:
    """The index of a release. Raises `IndexingError` when it is missing or damaged."""
    return place(folder, settings).open(folder, digest)


def check(chunks: Sequence[Chunk], vectors: Vectors) -> NDArray[np.bytes_]:
    """The ids of the chunks, row by row.

    Raises `IndexingError`, naming the chunk, when these can't be indexed: none, not as many vectors, a broken one, one id twice.
    """
    if not chunks:
        raise IndexingError("there are no chunks to index", "ragstone stage <folder>")
    if vectors.ndim != 2 or len(vectors) != len(chunks):
        raise IndexingError(f"{len(chunks)} chunks need as many vectors, not an array of shape {vectors.shape}")
    ids = chunks.ids if isinstance(chunks, Chunks) else np.array([chunk.id.encode() for chunk in chunks])
    for start, rows in slabs(vectors, np.arange(len(ids))):
        broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(broken):
            id = ids[start + broken[0]].decode()
            raise IndexingError(f"the vector of chunk {id!r} is not finite: the model is broken", "ragstone train")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise IndexingError(f"chunk {unique[counts > 1][0].decode()!r} is there twice")
    return ids


def slabs(vectors: Vectors, order: NDArray[np.intp]) -> Iterator[tuple[int, Vectors]]:
    """The rows in this order, so many at a time, each slab with the place of its first row in the order.

    What was read of a mapped file is let go: else all of it would count as this process' memory in the end.
    """
    source: object = vectors.base
    for start in range(0, len(order), SLAB):
        yield start, np.ascontiguousarray(vectors[order[start : start + SLAB]], np.float32)
        if isinstance(source, mmap.mmap):
            source.madvise(mmap.MADV_DONTNEED)
