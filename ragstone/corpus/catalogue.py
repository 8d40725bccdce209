"""The documents of a snapshot to look up: their names in a list, the text of each read as it is asked for. It knows no index.

Every question names the groups of who asks; what they may not read is not there for them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import orjson

from ragstone.corpus import Chunk, Document, Failure
from ragstone.corpus.snapshot import CHUNKS, DOCUMENTS, chunk_of, document_of, failures, prefix
from ragstone.errors import NotFound
from ragstone.store import Store, fetch


@dataclass(frozen=True)
class Listed:
    """A document without its text."""

    document: str
    title: str
    type: str
    groups: tuple[str, ...]
    characters: int
    chunks: int


class Catalogue:
    """Of one snapshot's folder. Opening it reads every line once, about a second for 10,000 documents of a few pages."""

    def __init__(self, folder: Path) -> None:
        self.failures: tuple[Failure, ...] = failures(folder)
        self._folder = folder
        self._passages = _passages(folder / CHUNKS)
        self._starts: dict[str, int] = {}
        self._listed: dict[str, Listed] = {}
        for start, line in _lines(folder / DOCUMENTS):
            made = document_of(orjson.loads(line))
            self._starts[made.id], self._listed[made.id] = start, _listed(made, len(self._passages.get(made.id, ())))

    def visible(self, groups: Sequence[str], search: str = "") -> list[Listed]:
        """The documents that the groups may read whose path or title holds `search`, whatever its case, by path."""
        wanted, readers = search.casefold(), set(groups)
        mine = [one for one in self._listed.values() if not readers.isdisjoint(one.groups)]
        return [one for one in mine if wanted in one.document.casefold() or wanted in one.title.casefold()]

    def has(self, document: str, groups: Sequence[str]) -> bool:
        """Whether there is such a document that the groups may read."""
        listed = self._listed.get(document)
        return listed is not None and not set(groups).isdisjoint(listed.groups)

    def read(self, document: str, groups: Sequence[str]) -> tuple[Document, list[Chunk]]:
        """The document and its chunks in their order. Raises `NotFound` when there is none, or none that the groups may read."""
        if not self.has(document, groups):
            raise NotFound(f"there is no document {document[:200]!r} that this key may read")
        with (self._folder / DOCUMENTS).open("rb") as file:
            file.seek(self._starts[document])
            found = document_of(orjson.loads(file.readline()))
        return found, sorted(self._chunks(document), key=lambda chunk: chunk.start)

    def passages(self, groups: Sequence[str], most: int = 20_000) -> Iterator[Chunk]:
        """The chunks of the documents that the groups may read, document by document, so many at most."""
        return islice((chunk for listed in self.visible(groups) for chunk in self._chunks(listed.document)), most)

    def _chunks(self, document: str) -> Iterator[Chunk]:
        with (self._folder / CHUNKS).open("rb") as file:
            for start in self._passages.get(document, ()):
                file.seek(start)
                yield chunk_of(orjson.loads(file.readline()))


def of(store: Store, snapshot: str) -> Catalogue:
    """The catalogue of a snapshot by its digest; the last two are kept. Raises `NotFound` when the store has none."""
    return _opened(fetch(store, prefix(snapshot)))


@lru_cache(maxsize=2)
def _opened(folder: Path) -> Catalogue:
    """Never stale: what is published never changes."""
    return Catalogue(folder)


def _passages(path: Path) -> dict[str, array[int]]:
    """Where the lines of each document's chunks begin."""
    found: dict[str, array[int]] = {}
    for start, line in _lines(path):
        found.setdefault(orjson.loads(line)["document"], array("q")).append(start)
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    start = 0
    with path.open("rb") as file:
        for line in file:
            yield start, line
            start += len(line)


def _listed(made: Document, chunks: int) -> Listed:
    return Listed(made.id, made.title, made.metadata.get("type", ""), made.groups, len(made.text), chunks)
