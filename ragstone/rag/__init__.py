"""Orchestration: from a conversation to an answer that rests on cited evidence, or an honest abstention."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ragstone import release as releases
from ragstone.access import Principal
from ragstone.config import Settings
from ragstone.connect import connector, scheme
from ragstone.errors import ReleaseError
from ragstone.release import Release
from ragstone.retrieve import Hit, Retriever, Search
from ragstone.serve import Message, Sampling, Usage
from ragstone.show import Show
from ragstone.store import Store

LOCAL = "local"
"""The `rag.url` of the release's own index."""

Basis = Literal["generated", "quoted", "abstained"]
"""What the text is: the generator's sentences, each checked against its evidence; quotations of the evidence; or a refusal."""


@dataclass(frozen=True)
class Options:
    """What a caller may ask of one answer. None takes the release's setting."""

    top_k: int | None = None
    similarity_threshold: float | None = None
    filter: Mapping[str, str] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class Grounds:
    """All that an answer will rest on, known before a token is generated."""

    release: str
    question: str
    """The question as searched: rewritten from the conversation when it leans on it."""
    rewritten: bool
    evidence: tuple[Hit, ...]
    """The hits at or above the threshold, best first; empty means abstention."""
    best: float
    """The best hit's calibrated score, 0 when nothing was found."""
    threshold: float
    messages: tuple[Message, ...]
    """The prompt."""
    etag: str
    """Digest of evidence in order, generator version, prompt and sampling: the answer's HTTP validator, quoted."""
    service: str = ""
    """The service version that will generate, `name/version`."""
    filter: Mapping[str, str] = field(default_factory=dict)
    """What the search was narrowed to."""


@dataclass(frozen=True)
class Citation:
    """`[number]` in the text: a passage of a document. `start` and `end` are character offsets into the document's text.

    `score` is the calibrated P(relevant), `fused` what the passage was ordered by.
    """

    number: int
    chunk: str
    document: str
    title: str
    path: tuple[str, ...]
    start: int
    end: int
    score: float
    text: str
    fused: float = 0.0


@dataclass(frozen=True)
class Answer:
    """A finished answer; every `[n]` in `text` is a citation in `citations`."""

    text: str
    citations: tuple[Citation, ...]
    basis: Basis
    finish: str
    usage: Usage
    grounds: Grounds
    reused: str = ""
    """The question that it was made for, where that was another one."""


class Rag(Protocol):
    """The orchestrator of one release. `tests/conformance/test_rag.py` is the contract."""

    def prepare(self, conversation: Sequence[Message], principal: Principal, options: Options) -> Grounds:
        """Retrieval only: what the answer would rest on. Synchronous and CPU-bound (milliseconds). Raises `RequestError`."""

    def answer(self, grounds: Grounds, options: Options) -> AsyncGenerator[str | Answer, None]:
        """The text, sentence by sentence as each is found to be grounded, then the `Answer`. Raises `GeneratorError`.

        The pieces of text add up to `Answer.text`. Closing it stops the generation.
        """


def search(release: Release, retriever: Retriever) -> Search:
    """What finds the passages of a release: its own index, or what its `rag` names. Raises `ConfigError`."""
    if not release.rag:
        return retriever
    found: Search = connector("rag", release.rag).search(release.rag, retriever)
    return found


def make(settings: Settings, store: Store, snapshot: str, show: Show) -> str:
    """The `rag` of a release: nothing for the index, else the URL of what was made of the snapshot, elsewhere. Raises `IndexingError`."""
    if scheme(settings.rag.url) == LOCAL:
        return ""
    return str(connector("rag", settings.rag.url).make(settings, store, snapshot, show))


def explain(settings: Settings, store: Store, snapshot: str) -> str:
    """What `make` would send, and with what questions would be asked, for a person to read; nothing is sent."""
    if scheme(settings.rag.url) == LOCAL:
        cut = f"top_k {settings.retrieve.top_k}, similarity_threshold {settings.retrieve.similarity_threshold:g}"
        return f"# passages are found by the release's own index: {cut}, a calibrated P(relevant); no service is called"
    return str(connector("rag", settings.rag.url).explain(settings, store, snapshot))


def remove(store: Store, url: str) -> None:
    """The end of what `make` made elsewhere; one that is gone is no error. Raises `IndexingError`; `ReleaseError` while it is needed."""
    needed = [id for id in releases.reachable(store) if releases.load(store, id).rag == url]
    if needed:
        raise ReleaseError(f"the release {needed[0]} finds its passages there, and is in force or could be again", "ragstone release list")
    connector("rag", url).remove(store, url)
