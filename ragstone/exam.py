"""What a release is worth on questions of the user's own, and whether another one is better. It knows neither the store nor the network.

Retrieval is judged by the passages that questions name; answers by the check that each sentence is carried by what it cites, and by
whether they cite what was named. Two releases are compared question by question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ragstone import ground
from ragstone.access import Principal
from ragstone.corpus import Chunk, labelled
from ragstone.corpus.labels import Label, Labels, Unusable
from ragstone.corpus.pairs import UNITS, Question
from ragstone.corpus.placed import place
from ragstone.corpus.questions import Posed
from ragstone.evaluate import Interval, answered, paired_bootstrap, rank, reached
from ragstone.kept import Kept, digest
from ragstone.rag import Answer, Basis, Citation, Options, Rag
from ragstone.rag.local import INTRODUCTIONS
from ragstone.retrieve import Search
from ragstone.sentences import Unit, sentences
from ragstone.serve import Message
from ragstone.show import Show

DEPTH = 10
"""Hits that recall and nDCG look at, as the gate's do."""
METRICS = {
    "recall": f"recall@{DEPTH}",
    "ndcg": f"nDCG@{DEPTH}",
    "answered": "answered",
    "refused": "refused",
    "generated": "in its own words",
    "groundedness": "groundedness",
    "precision": "citation precision",
}
"""The fields of `Mark` that are averaged, and what a person reads. More is better for each."""


@dataclass(frozen=True)
class Mark:
    """How a release did on one question. None where that can't be said: no passage is named, nothing was answered, nothing cited."""

    recall: float | None = None
    ndcg: float | None = None
    rank: int | None = None
    """The place of the first right chunk among the first ten, from 1."""
    answered: float | None = None
    """1 when a question that has an answer got one, 0 when the release abstained."""
    refused: float | None = None
    """1 when the release abstained from a question that has none."""
    generated: float | None = None
    """1 when all of the generator's sentences passed the check, 0 when quotations stand in for some."""
    groundedness: float | None = None
    precision: float | None = None
    """The share of the cited chunks that the question names."""
    basis: Basis | None = None
    text: str = ""
    document: str = ""
    """The document that the question is about, by which the bootstrap draws."""


@dataclass(frozen=True)
class Candidate:
    """A release that takes the exam, opened."""

    id: str
    chunks: Sequence[Chunk]
    retriever: Search
    rag: Rag
    ask: Callable[[Sequence[Message], Principal, Options], Answer]
    """The finished answer. Raises `GeneratorError`."""


@dataclass(frozen=True)
class Paper:
    """A release's marks, one for each question, and the passages named by questions that it does not have."""

    release: str
    marks: tuple[Mark, ...]
    unusable: tuple[Unusable, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A metric's mean under each release, over the `questions` for which each has it, and how far the second lies from the first."""

    metric: str
    means: tuple[float, ...]
    questions: int
    documents: int = 0
    """That the questions are about."""
    difference: Interval | None = None

    @property
    def verdict(self) -> str:
        """What the 95 % interval says of the second release; nothing where there is one only."""
        if self.difference is None:
            return ""
        if self.documents < UNITS:  # so few can't be drawn in ways that differ enough
            return "too few documents to tell"
        return "better" if self.difference.low > 0 else "worse" if self.difference.high < 0 else "no difference shown"

    def __str__(self) -> str:
        line = f"{self.metric:<18}" + "".join(f"{mean:>16.3f}" for mean in self.means) + f"{self.questions:>11}"
        apart = self.difference
        return f"{line}  {apart.mean:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}] {self.verdict}" if apart else line


@dataclass(frozen=True)
class Report:
    """The exam of one release or two."""

    questions: tuple[Posed, ...]
    papers: tuple[Paper, ...]
    figures: tuple[Figure, ...]

    def json(self) -> dict[str, Any]:
        """All of it as JSON's values: figures, and for each question every release's mark."""
        return {
            "releases": [paper.release for paper in self.papers],
            "figures": [asdict(figure) | {"verdict": figure.verdict} for figure in self.figures],
            "questions": [
                {"question": one.text, "groups": one.groups, "where": one.where, "marks": [asdict(mark) for mark in marks]}
                for one, *marks in zip(self.questions, *(paper.marks for paper in self.papers), strict=True)
            ],
            "unusable": [asdict(one) for one in self.unusable],
        }

    def __str__(self) -> str:
        """A line for each metric: its mean under each release, and what the bootstrap says of the difference."""
        head = f"{'':<18}" + "".join(f"{paper.release:>16}" for paper in self.papers)
        return "\n".join([f"{head}{'questions':>11}".rstrip(), *map(str, self.figures)])

    @property
    def unusable(self) -> tuple[Unusable, ...]:
        """The passages that no release has; what only one of them has is a difference between them."""
        named = [{one.where: one for one in paper.unusable} for paper in self.papers]
        return tuple(one for where, one in named[0].items() if all(where in paper for paper in named))


def sit(candidate: Candidate, questions: Sequence[Posed], options: Options, kept: Kept | None, show: Show) -> Paper:
    """The release's marks. Answers are kept in `kept` as they come, so that a killed exam goes on; without it none is generated."""
    known, unusable = _known(questions, candidate.chunks)
    marks = []
    with show.bar("search", len(questions)) as advance:
        for done, one in enumerate(questions, 1):
            marks.append(_found(candidate, one, known.get(one), options))
            advance(done)
    if kept is not None:
        said = _answers(candidate, [one for one, mark in zip(questions, marks, strict=True) if mark.basis is None], options, kept, show)
        marks = [_marked(mark, said.get(one), known.get(one)) for mark, one in zip(marks, questions, strict=True)]
    return Paper(candidate.id, tuple(marks), unusable)


def _answers(candidate: Candidate, questions: Sequence[Posed], options: Options, kept: Kept, show: Show) -> dict[Posed, dict[str, Any]]:
    """The answers to these questions, those that are kept among them."""
    keys = {digest(candidate.id, one.text, one.groups, asdict(options.sampling)): one for one in questions}
    with show.bar("answer", len(questions)) as advance:
        said = kept.answers(keys, lambda missing: (_said(candidate, one, options) for one in missing), advance)
    return {keys[key]: answer for key, answer in said.items()}


def report(questions: Sequence[Posed], papers: Sequence[Paper]) -> Report:
    """The means of one release or two, and the paired bootstrap of the difference; documents are drawn, as for the gate."""
    figures = [_figure(name, papers) for name in METRICS]
    return Report(tuple(questions), tuple(papers), tuple(figure for figure in figures if figure.questions))


def groundedness(text: str, citations: Sequence[Citation]) -> float | None:
    """The share of a text's claims that a passage carries which they cite, by `ground`'s check; None when it claims nothing."""
    passages = {one.number: ground.Passage(one.text, " > ".join((one.title, *one.path))) for one in citations}
    held = [any(passage.supports(unit).holds for passage in cited) for unit, cited in _claims(text, passages)]
    return sum(held) / len(held) if held else None


def _claims(text: str, passages: Mapping[int, ground.Passage]) -> Iterator[tuple[Unit, list[ground.Passage]]]:
    """Each claim with the passages that it cites: those of the first citation at it or after it."""
    for introduction in INTRODUCTIONS:
        text = text.replace(introduction, "\n\n")
    literals = "\n".join(passage.text for passage in passages.values())
    waiting: list[Unit] = []
    for unit in sentences(text):
        bare = replace(unit, text=unit.text.strip("“” "))
        waiting += [bare] if ground.claims(bare) and unit.kind != "heading" else []
        if numbers := ground.marks(unit.text, literals):
            yield from ((claim, [passages[number] for number in numbers if number in passages]) for claim in waiting)
            waiting = []
    yield from ((claim, []) for claim in waiting)


def _known(questions: Sequence[Posed], chunks: Sequence[Chunk]) -> tuple[dict[Posed, Question], tuple[Unusable, ...]]:
    """What the questions' passages are in a corpus, seen as each question's groups see it, and what is not there."""
    by_groups: defaultdict[tuple[str, ...], dict[str, Posed]] = defaultdict(dict)
    for one in questions:
        if one.targets:
            by_groups[one.groups][one.text] = one
    known: dict[Posed, Question] = {}
    unusable: list[Unusable] = []
    for groups, posed in by_groups.items():
        asked, faults = place(Labels(tuple(_label(one, groups) for one in posed.values())), chunks)
        known |= {posed[found.text]: found for found in labelled.questions(asked, chunks)}
        named = {fault.where for fault in faults}
        lost = [one.where for one in posed.values() if one not in known and one.where not in named]
        unusable += [*faults, *(Unusable(where, "the corpus has nothing of what it names") for where in lost)]
    return known, tuple(unusable)


def _label(one: Posed, groups: tuple[str, ...]) -> Label:
    return Label(one.text, tuple(replace(target, groups=groups, where=one.where) for target in one.targets))


def _found(candidate: Candidate, one: Posed, known: Question | None, options: Options) -> Mark:
    """The mark for what is found; whether it is answered is known from retrieval alone."""
    grounds = candidate.rag.prepare(_messages(one), _principal(one), options)
    mark = Mark(basis=None if grounds.evidence else "abstained", document=known.document if known else "")
    right = float(bool(grounds.evidence) == one.answerable)
    mark = replace(mark, answered=right) if one.answerable else replace(mark, refused=right)
    if known is None:
        return mark
    ranked = [hit.chunk.id for hit in candidate.retriever.search(one.text, one.groups, DEPTH)]
    return replace(mark, recall=reached(ranked, known), ndcg=answered(ranked, known), rank=rank(ranked, known))


def _said(candidate: Candidate, one: Posed, options: Options) -> dict[str, Any]:
    """The answer as it is kept."""
    answer = candidate.ask(_messages(one), _principal(one), options)
    return {
        "text": answer.text,
        "basis": answer.basis,
        "groundedness": groundedness(answer.text, answer.citations),
        "cited": [citation.chunk for citation in answer.citations],
    }


def _marked(mark: Mark, said: Mapping[str, Any] | None, known: Question | None) -> Mark:
    """The mark with what the answer adds, where there is one."""
    if said is None:
        return mark
    right = [chunk in known.relevant for chunk in said["cited"]] if known else []
    return replace(
        mark,
        basis=said["basis"],
        text=said["text"],
        generated=float(said["basis"] == "generated"),
        groundedness=said["groundedness"],
        precision=sum(right) / len(right) if right else None,
    )


def _messages(one: Posed) -> list[Message]:
    return [Message("user", one.text)]


def _principal(one: Posed) -> Principal:
    return Principal("exam", "exam", one.groups, 0, 0, 0)


def _figure(name: str, papers: Sequence[Paper]) -> Figure:
    marks = list(zip(*(paper.marks for paper in papers), strict=True))
    rows = [(values, each[0].document or each[-1].document or str(at)) for at, each in enumerate(marks) if (values := _values(name, each))]
    columns = list(zip(*(values for values, _ in rows), strict=True))
    documents = [document for _, document in rows]
    difference = paired_bootstrap(columns[0], columns[1], clusters=documents) if len(columns) == 2 else None
    return Figure(METRICS[name], tuple(float(np.mean(column)) for column in columns), len(rows), len(set(documents)), difference)


def _values(name: str, marks: Sequence[Mark]) -> tuple[float, ...]:
    """A question's values under each release; none when one lacks it. What only one release's corpus has, the other can't find: 0."""
    found = [getattr(mark, name) for mark in marks]
    if name in ("recall", "ndcg") and any(value is not None for value in found):
        found = [value or 0.0 for value in found]
    return tuple(found) if None not in found else ()
