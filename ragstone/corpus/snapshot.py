"""Snapshots: a listing's files parsed and chunked, under a digest that is known before anything is parsed.

What was read out of a file is kept by its content (`parsed/…`), so only new content is parsed. A snapshot is published whole, as
`corpora/<digest>/{documents,chunks,failures}.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, overload

import numpy as np
import orjson

from ragstone.config import Corpus, GroupRule
from ragstone.corpus import PUBLIC, Chunk, Document, Failure, Heading, Snapshot, parse
from ragstone.corpus.chunk import chunk
from ragstone.corpus.sandbox import Sandbox, unpack
from ragstone.corpus.stage import File, Listing, blob
from ragstone.errors import CorpusError, ParseError
from ragstone.store import Store, fetch, publish, published

Progress = Callable[[int, int, str], None]
"""Called with how many files were read, how many there are, and the one whose turn it is; at the end with none."""
Failed = Callable[[Failure], None]
"""Called with each file that could not be read, when that is known."""

VERSION = "1"
"""Raised when the same documents would be chunked differently."""

CHUNKS = "chunks.jsonl"
DOCUMENTS = "documents.jsonl"


@dataclass(frozen=True)
class Entry:
    """One file of a listing as a snapshot sees it."""

    path: str
    sha256: str
    groups: tuple[str, ...]
    parser: str
    """What reads it; "" when nothing does."""


@dataclass(frozen=True)
class Size:
    """How many documents and chunks a snapshot has, and which files could not become a document."""

    documents: int
    chunks: int
    failures: tuple[Failure, ...]


def build(store: Store, listing: Listing, settings: Corpus, progress: Progress | None = None, failed: Failed | None = None) -> str:
    """The digest of the listing's snapshot, which is in the store when this returns; one that is there already costs no parsing.

    A file that can't be parsed is in the snapshot's `failures`. Raises `CorpusError` when `settings.strict` and there is one, or
    when no document is left.
    """
    entries = [_entry(path, file, settings.groups) for path, file in sorted(listing.files.items())]
    name = digest(entries, listing.failures, settings)
    if not published(store, prefix(name)):
        with tempfile.TemporaryDirectory(prefix="ragstone-") as folder:
            _fill(Path(folder), store, listing, entries, settings, progress, failed)
            publish(store, prefix(name), Path(folder))
    if settings.strict:
        _refuse(failures(fetch(store, prefix(name))))
    return name


def load(store: Store, digest: str) -> Snapshot:
    """The snapshot by its digest. Raises `NotFound` when the store has none."""
    folder = fetch(store, prefix(digest))
    documents = tuple(document_of(parts) for parts in _lines(folder / DOCUMENTS))
    chunks = tuple(chunk_of(parts) for parts in _lines(folder / CHUNKS))
    return Snapshot(digest, documents, chunks, failures(folder))


def size(store: Store, digest: str) -> Size:
    """How large the snapshot is; no document is held for that. Raises `NotFound` when the store has none."""
    folder = fetch(store, prefix(digest))
    return Size(_count(folder / DOCUMENTS), _count(folder / CHUNKS), failures(folder))


def chunks(store: Store, digest: str) -> Chunks:
    """The chunks of a snapshot, not read yet. Raises `NotFound` when the store has none."""
    return Chunks(fetch(store, prefix(digest)) / CHUNKS)


class Chunks(Sequence[Chunk]):
    """The chunks of a file in the order of their ids, read as they are asked for: a million of them are 30 MB here."""

    def __init__(self, path: Path) -> None:
        ids, starts = list[bytes](), array("q", [0])
        with path.open("rb") as file:
            for line in file:
                ids.append(str(orjson.loads(line)["id"]).encode())
                starts.append(starts[-1] + len(line))
            self._file = os.dup(file.fileno())  # read, not mapped: a map's pages would count as this process' memory
        weakref.finalize(self, os.close, self._file)
        self._starts, named = np.array(starts, np.int64), np.array(ids, np.bytes_)
        self._order = np.argsort(named, kind="stable")
        self.ids = named[self._order]

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, at: int) -> Chunk: ...
    @overload
    def __getitem__(self, at: slice) -> list[Chunk]: ...
    def __getitem__(self, at: int | slice) -> Chunk | list[Chunk]:
        if isinstance(at, slice):
            return [self._read(row) for row in self._order[at]]
        return self._read(self._order[at])

    def sample(self, most: int) -> list[Chunk]:
        """All of them as they stand in the file, or so many of more: those of the first ids, which are digests and so a fair draw."""
        return [self._read(row) for row in np.sort(self._order[:most])]

    def _read(self, row: np.intp) -> Chunk:
        start, end = self._starts[row : row + 2].tolist()
        return chunk_of(orjson.loads(os.pread(self._file, end - start, start)))


def prefix(digest: str) -> str:
    """Where the snapshot is in the store."""
    return f"corpora/{digest}"


def digest(entries: Iterable[Entry], failures: Iterable[Failure], settings: Corpus) -> str:
    """The name of the snapshot that these files and settings make: whatever could change a chunk is in it, times and machines are not."""
    parts = {
        "version": VERSION,
        "files": [asdict(entry) for entry in entries],
        "failures": [asdict(failure) for failure in failures],
        "chunk_words": settings.chunk_words,
        "max_mb": settings.max_mb,
        "max_seconds": settings.max_seconds,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def groups(path: str, rules: Iterable[GroupRule]) -> tuple[str, ...]:
    """Who may read the document: the groups of the last rule whose glob matches its path, else everyone (`public`).

    >>> groups("hr/pay.md", [GroupRule("hr/*", ("hr",))]), groups("index.md", [GroupRule("hr/*", ("hr",))])
    (('hr',), ('public',))
    """
    found: tuple[str, ...] = (PUBLIC,)
    for rule in rules:
        if fnmatchcase(path, rule.match):
            found = rule.groups
    return found


def _entry(path: str, file: File, rules: Iterable[GroupRule]) -> Entry:
    kind = parse.kind(path)
    return Entry(path, file.sha256, groups(path, rules), parse.version(kind) if kind else "")


def _fill(
    folder: Path, store: Store, listing: Listing, entries: list[Entry], settings: Corpus, progress: Progress | None, failed: Failed | None
) -> None:
    """Write the snapshot's files, document by document: none waits for another in memory. Raises `CorpusError` when there is none."""
    failures, count = list(listing.failures), 0

    def fail(failure: Failure) -> None:
        failures.append(failure)
        if failed:
            failed(failure)

    with _lines_to(folder / DOCUMENTS) as documents, _lines_to(folder / CHUNKS) as chunks:
        for count, document in enumerate(_documents(store, listing, entries, settings, fail, progress), 1):  # noqa: B007  counted
            documents(asdict(document))
            for passage in chunk(document, settings.chunk_words):
                chunks(asdict(passage))
    failures.sort(key=lambda failure: failure.path)
    if not count:
        raise _nothing(listing, failures)
    with _lines_to(folder / "failures.jsonl") as lines:
        for failure in failures:
            lines(asdict(failure))


def _documents(
    store: Store, listing: Listing, entries: list[Entry], settings: Corpus, fail: Failed, progress: Progress | None
) -> Iterator[Document]:
    """What can be read, one after the other; `fail` is told what can't."""
    progress = progress or (lambda done, total, path: None)
    with Sandbox(settings.max_seconds) as sandbox:
        for done, entry in enumerate(entries):
            progress(done, len(entries), entry.path)
            try:
                parsed = _parsed(store, sandbox, entry, listing.files[entry.path].size, settings.max_mb)
            except ParseError as error:
                fail(Failure(entry.path, error.message + (f" ({error.hint})" if error.hint else "")))
            else:
                yield _made(entry, parsed)
        progress(len(entries), len(entries), "")


def _parsed(store: Store, sandbox: Sandbox, entry: Entry, size: int, max_mb: float) -> parse.Parsed:
    """What is in the file: from the store if its content was parsed before.

    Plain text is read faster than looked up. Failures aren't kept, as a time limit may be to blame.
    """
    if size > max_mb * 1e6:
        raise ParseError(f"is {size / 1e6:.0f} MB, more than corpus.max_mb = {max_mb:g}")
    key = f"parsed/{entry.sha256}-{entry.parser}.json"
    keep = parse.kind(entry.path) in parse.ENGINES
    if keep and store.stat(key):
        return unpack(json.loads(store.get(key)))
    data = store.get(blob(entry.sha256))
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ParseError(f"its copy in the store is damaged: delete {blob(entry.sha256)} there and stage again")
    parsed = sandbox.parse(data, entry.path)
    if keep:
        store.put(key, json.dumps(asdict(parsed)).encode())
    return parsed


def _made(entry: Entry, parsed: parse.Parsed) -> Document:
    """The document. Without a title of its own it goes by its file's name."""
    facts = {"path": entry.path, "type": PurePosixPath(entry.path).suffix.lower().removeprefix("."), **parsed.metadata}
    title = parsed.title or PurePosixPath(entry.path).stem
    return Document(entry.path, entry.sha256, title, parsed.text, parsed.headings, entry.groups, facts)


@contextmanager
def _lines_to(path: Path) -> Iterator[Callable[[Mapping[str, Any]], object]]:
    """Called with a value, it puts a line of JSON behind the others."""
    with path.open("w", encoding="utf-8") as file:
        yield lambda value: file.write(json.dumps(value, sort_keys=True) + "\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def document_of(parts: dict[str, Any]) -> Document:
    """The document that a line of `documents.jsonl` holds."""
    return Document(**{**parts, "headings": tuple(Heading(**heading) for heading in parts["headings"]), "groups": tuple(parts["groups"])})


def chunk_of(parts: dict[str, Any]) -> Chunk:
    """The chunk that a line of `chunks.jsonl` holds."""
    return Chunk(**{**parts, "path": tuple(parts["path"]), "groups": tuple(parts["groups"])})


def failures(folder: Path) -> tuple[Failure, ...]:
    """What could not become a document, of a snapshot's folder."""
    return tuple(Failure(**parts) for parts in _lines(folder / "failures.jsonl"))


def _refuse(failures: tuple[Failure, ...]) -> None:
    if failures:
        hint = "mend or remove them, or run without --strict to leave them out"
        raise CorpusError(f"{len(failures)} files can't become documents:\n{_named(failures)}", hint)


def _nothing(listing: Listing, failures: list[Failure]) -> CorpusError:
    """Why there is no document, and what to do about it."""
    kinds = ", ".join(sorted({ending.removeprefix(".") for ending in parse.KINDS}))
    if not listing.files and not failures:
        return CorpusError("the source folder is empty", f"put documents into it ({kinds}) and run again")
    found = Counter(PurePosixPath(path).suffix.lower() or "no ending" for path in listing.files)
    seen = ", ".join(f"{count} {ending}" for ending, count in found.most_common(5)) or "none that can be read"
    reason = f"no document among the files of the source folder ({seen}):\n{_named(failures)}"
    return CorpusError(reason, f"add files of these kinds: {kinds}")


def _named(failures: Sequence[Failure], most: int = 10) -> str:
    lines = [f"  {failure.path}: {failure.reason}" for failure in failures[:most]]
    return "\n".join([*lines, f"  and {len(failures) - most} more"] if len(failures) > most else lines)
