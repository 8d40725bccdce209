"""Documents and chunks: what a snapshot is made of, as values. Parsing, chunking and pair mining are the modules of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PUBLIC = "public"


@dataclass(frozen=True)
class Heading:
    """A heading of a document: where it starts in the text (in characters), its level from 1, and its words."""

    start: int
    level: int
    title: str


@dataclass(frozen=True)
class Document:
    """One parsed document. `id` is its path below the source, `digest` the SHA-256 of its bytes, `text` what was read out of it."""

    id: str
    digest: str
    title: str
    text: str
    headings: tuple[Heading, ...] = ()
    groups: tuple[str, ...] = (PUBLIC,)
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Facts to filter on: `path`, `type` (the file's ending without its dot), and what the parser found (author, language, …)."""


@dataclass(frozen=True)
class Chunk:
    """A passage of a document: `text == document.text[start:end]`.

    `id` is a digest of the document's id, the offsets and the text, so an unchanged passage keeps its id from one snapshot to the next.
    `path` holds the headings above it, outermost first.
    """

    id: str
    document: str
    title: str
    path: tuple[str, ...]
    start: int
    end: int
    text: str
    groups: tuple[str, ...] = (PUBLIC,)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def context(self) -> str:
        """What is embedded and indexed: the title and headings, then the text."""
        head = " > ".join(filter(None, dict.fromkeys((self.title, *self.path))))
        return f"{head}\n{self.text}" if head else self.text


@dataclass(frozen=True)
class Failure:
    """A file that could not become a document, and why, in words for its owner."""

    path: str
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """An immutable list of documents and their chunks, named by its digest."""

    digest: str
    documents: tuple[Document, ...]
    chunks: tuple[Chunk, ...]
    failures: tuple[Failure, ...] = ()
