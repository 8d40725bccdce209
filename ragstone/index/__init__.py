"""Indexes: dense and keyword search over the chunks of a snapshot, filtered by groups and metadata inside the search."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ragstone import address, config
from ragstone.address import PLACE as PLACE
from ragstone.connect import connector
from ragstone.corpus import Chunk
from ragstone.corpus.snapshot import Chunks
from ragstone.embedder import Vectors as Vectors
from ragstone.errors import ConfigError, IndexingError
from ragstone.inference import Model as Model
from ragstone.query import BIGRAM_WEIGHT as BIGRAM_WEIGHT
from ragstone.query import UNMADE as UNMADE
from ragstone.query import Candidate as Candidate
from ragstone.query import Query as Query
from ragstone.show import Done as Done
from ragstone.show import counted as counted
from ragstone.show import ignored as ignored
from ragstone.store import Store, fetch

SLAB = 8192
"""Rows of vectors that are read at a time while an index is built: 12 MB at 384 dimensions."""


Known = Callable[[int], NDArray[np.float32] | None]
"""The vector of the chunk in a row, where it is there already."""


class Index(Protocol):
    """An opened index: immutable, safe to search from several threads. `tests/conformance/test_index.py` is the contract."""

    digest: str
    encodes: bool
    """Whether it makes the vector of a question itself: that of a query is not read, and may be `UNMADE`."""

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

    def build(self, folder: Path, digest: str, chunks: Sequence[Chunk], vectors: Vectors, progress: Done = ignored) -> None:
        """Make the index of `chunks`, row by row with `vectors`; the fresh `folder` gets it, or where it is. Raises `IndexingError`.

        `progress` is told how many chunks are done.
        Chunks may be read from a file each time that they are asked for, and vectors mapped: neither is to be held whole.
        """

    def open(self, folder: Path, digest: str) -> Index:
        """The index that `build` made. Raises `IndexingError` when it is missing or damaged."""

    def point(self, folder: Path, channel: str) -> None:
        """Let the channel's name stand for this index where people outside look at it; nothing in Ragstone reads it."""

    def remove(self, name: str) -> None:
        """The end of the index of this name outside the store; no error when there is none."""


@runtime_checkable
class Encoding(Place, Protocol):
    """A place whose engine makes the vectors of chunks and questions itself, by Ragstone's `/v1/embeddings`."""

    def prepare(self, model: Model) -> None:
        """Let the engine know the model and today's key. Raises `IndexingError` when it gets no vectors of it, before any work."""

    def ingest(
        self,
        folder: Path,
        digest: str,
        chunks: Sequence[Chunk],
        known: Known,
        model: Model,
        progress: Done,
    ) -> None:
        """As `build`; the engine makes the vectors that are not `known`, which is asked row by row in order.

        `progress` is told how many chunks are sent.
        """


def connect(settings: config.Index) -> Place:
    """The place that `index.url` names. Raises `ConfigError` when it can't make vectors and `index.inference` says that it does."""
    if settings.inference not in (config.CLIENT, config.ENGINE):
        raise ConfigError(f"index.inference = {settings.inference!r} is neither {config.CLIENT} nor {config.ENGINE}")
    place: Place = connector("index", settings.url).connect(settings)
    if settings.inference == config.ENGINE and not isinstance(place, Encoding):
        raise ConfigError(f"index.inference = {config.ENGINE!r} needs an engine; index.url = {settings.url!r} is none that makes vectors")
    return place


def place(folder: Path, settings: config.Index) -> Place:
    """Where the index of this folder was built, whatever `index.url` is by now: a rollback finds the old one.

    Credentials go to the address that the settings name, and to no other.
    """
    return _at(address.url(folder) or "local", settings)


def point(store: Store, digest: str, channel: str, settings: config.Index) -> None:
    """Let the channel's name stand for the index where it is outside the store; nothing to do for one inside. Raises `IndexingError`."""
    prefix = f"indexes/{digest}"
    if store.stat(f"{prefix}/{PLACE}"):
        folder = fetch(store, prefix)
        place(folder, settings).point(folder, channel)


def remove(note: Mapping[str, str], settings: config.Index) -> None:
    """The end of what a `PLACE` file names, outside the store. Raises `IndexingError`."""
    _at(note["url"], settings).remove(note["index"])


def _at(url: str, settings: config.Index) -> Place:
    if urlsplit(url)[:3] == urlsplit(settings.url)[:3]:
        return connect(settings)
    return connect(config.Index(url=url))


def explain(settings: config.Index, digest: str, chunks: int, model: Model) -> list[str]:
    """What building the index would send elsewhere, request by request, for a person to read; nothing is sent."""
    told = getattr(connect(settings), "explain", None)
    return list(told(digest, chunks, model)) if told else [f"# index.url = {settings.url!r} calls no service"]


def open(folder: Path, digest: str, settings: config.Index) -> Index:
    """The index of a release. Raises `IndexingError` when it is missing or damaged."""
    return place(folder, settings).open(folder, digest)


def check(chunks: Sequence[Chunk], vectors: Vectors) -> NDArray[np.bytes_]:
    """The ids of the chunks, row by row.

    Raises `IndexingError`, naming the chunk, when these can't be indexed: none, not as many vectors, a broken one, one id twice.
    """
    ids = check_chunks(chunks)
    if vectors.ndim != 2 or len(vectors) != len(chunks):
        raise IndexingError(f"{len(chunks)} chunks need as many vectors, not an array of shape {vectors.shape}")
    for start, rows in slabs(vectors, np.arange(len(ids))):
        broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(broken):
            id = ids[start + broken[0]].decode()
            raise IndexingError(f"the vector of chunk {id!r} is not finite: the model is broken", "ragstone train")
    return ids


def check_chunks(chunks: Sequence[Chunk]) -> NDArray[np.bytes_]:
    """The same for chunks that have no vectors yet."""
    if not chunks:
        raise IndexingError("there are no chunks to index", "ragstone stage <folder>")
    ids = chunks.ids if isinstance(chunks, Chunks) else np.array([chunk.id.encode() for chunk in chunks])
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
