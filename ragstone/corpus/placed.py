"""What labels mean in a corpus: the chunks that answer a question, found by their name, their document's or their words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ragstone.corpus import Chunk, quotes
from ragstone.corpus.labels import Label, Labels, Target, Unusable
from ragstone.corpus.pairs import words

LEAST_WORDS = 8
"""A shorter passage that is nowhere in the corpus teaches nothing."""


@dataclass(frozen=True)
class Answer:
    """What answers a question, or does not: any one of `chunks` alike; where the corpus has it nowhere, the passage `text`."""

    chunks: tuple[str, ...] = ()
    text: str = ""
    grade: float = 1.0


@dataclass(frozen=True)
class Asked:
    """A labelled question over a corpus."""

    text: str
    answers: tuple[Answer, ...]
    wrong: tuple[Answer, ...] = ()
    apart: tuple[Answer, ...] = ()
    """What answers it too but is not trained on, as it answers a held-out question."""
    held_out: bool = False


def place(labels: Labels, chunks: Sequence[Chunk]) -> tuple[tuple[Asked, ...], tuple[Unusable, ...]]:
    """The labelled questions with what they mean in the corpus, and what means nothing there."""
    found = _Places(chunks, [target.text for label in labels.labels for target in label.targets])
    unusable: list[Unusable] = []
    asked = tuple(one for label in labels.labels if (one := _place(label, found, unusable)))
    return asked, tuple(unusable)


class _Places:
    """Where the things that labels name are in a corpus."""

    def __init__(self, chunks: Sequence[Chunk], texts: Iterable[str]) -> None:
        self.chunks = {chunk.id: chunk for chunk in chunks}
        self.documents: defaultdict[str, list[str]] = defaultdict(list)
        self.copies: defaultdict[str, list[str]] = defaultdict(list)
        for chunk in chunks:
            self.documents[chunk.document].append(chunk.id)
            self.copies[chunk.text].append(chunk.id)
        self.short = _short_names(self.documents)
        self.quotes = quotes.find({text for text in texts if text not in self.chunks and not self.document(text)}, chunks)

    def find(self, target: Target) -> tuple[str, ...]:
        """The chunks that the target means, every copy of them included."""
        ids = self.named(target.name) or self.named(target.text) or self.quotes.get(target.text, ())
        return tuple(dict.fromkeys(copy for id in ids for copy in self.copies[self.chunks[id].text]))

    def seen(self, ids: Iterable[str], groups: Sequence[str]) -> tuple[str, ...]:
        """Those of the chunks that these groups may read; all where no groups are known."""
        return tuple(id for id in ids if not groups or {*groups} & {*self.chunks[id].groups})

    def named(self, name: str) -> tuple[str, ...]:
        """The chunk with this id, or the chunks of the document with this id, path or unmistakable end of a path."""
        return (name,) if name in self.chunks else tuple(self.documents.get(self.document(name), ()))

    def document(self, name: str) -> str:
        """The id of the document that goes by this name; empty when there is none."""
        parts = name.split("/")
        ends = ("/".join(parts[at:]) for at in range(len(parts)))
        return next((end if end in self.documents else self.short[end] for end in ends if end in self.documents or end in self.short), "")


def _short_names(documents: Iterable[str]) -> dict[str, str]:
    """Documents by their file's name, with and without its ending, where only one has it."""
    found = defaultdict(list)
    for document in documents:
        name = document.rsplit("/", 1)[-1]
        for short in {name, name.rsplit(".", 1)[0]} - {document, ""}:
            found[short].append(document)
    return {name: its[0] for name, its in found.items() if len(its) == 1}


def _place(label: Label, places: _Places, unusable: list[Unusable]) -> Asked | None:
    """The question with its answers; None when it keeps none."""
    right: list[Answer] = []
    wrong: list[Answer] = []
    for target in label.targets:
        try:
            (right if target.grade > 0 else wrong).append(_meant(target, places))
        except ValueError as error:
            unusable.append(Unusable(target.where, str(error)))
    return Asked(label.question, _distinct(right), tuple(wrong), held_out=label.held_out) if right else None


def _meant(target: Target, places: _Places) -> Answer:
    """What the target means. Raises `ValueError` when that is nothing, or nothing that its asker may read."""
    said = (target.name or target.text)[:60]
    found = places.find(target)
    seen = places.seen(found, target.groups)
    if found and not seen:
        raise ValueError(f"{said!r} is not for {', '.join(target.groups)}")
    if not found and len(words(target.text)) < LEAST_WORDS:
        raise ValueError(f"the corpus has no chunk, document or passage {said!r}")
    return Answer(seen, "" if seen else "\n".join(filter(None, (target.title, target.text))), target.grade)


def _distinct(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """The answers, best first, a chunk in the first that has it: no chunk counts twice."""
    taken: set[str] = set()
    kept = []
    for answer in sorted(answers, key=lambda answer: -answer.grade):
        left = tuple(id for id in answer.chunks if id not in taken)
        taken |= set(left)
        if left or answer.text:
            kept.append(replace(answer, chunks=left))
    return tuple(kept)
