"""From placed labels to what a model is trained and judged on: a split by document, training pairs, held-out questions.

No document that answers a held-out question is a positive in training. It knows nothing of files or models.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ragstone.corpus import Chunk
from ragstone.corpus.labels import Labels, Unusable
from ragstone.corpus.pairs import DEPTH, HELD_OUT, PAIRS, QUESTIONS, Mined, Pair, Question, Search, distil, harden, unit_of, words
from ragstone.corpus.placed import Answer, Asked, place

MOST_QUESTIONS = 600
"""Held-out questions at most: past that, an interval gets hardly narrower and the gate only slower."""
MOST_PAIRS = 6_000
MOST_TAUGHT = 1_200
"""Mined pairs at most that a teacher scores: with 1,900, half of what 1,000 had won on TAT-QA was lost again."""
FEW = 1_000
"""With fewer labelled pairs, mined ones fill up to this number."""


@dataclass(frozen=True)
class Split:
    """Labelled questions for training and for judging."""

    train: tuple[Asked, ...]
    held_out: tuple[Asked, ...] = ()
    """None of its documents is a positive in `train`. Empty when there are too few to judge on."""
    seen: tuple[Asked, ...] = ()
    """Of a `dev` split, the questions whose documents are: they say nothing of unseen documents, and are reported apart."""


@dataclass(frozen=True)
class Material:
    """What a model is trained and judged on. Without labels it is what was mined."""

    mined: Mined
    """Mined pairs, and the held-out questions, labelled ones if there are enough."""
    train: tuple[Asked, ...] = ()
    seen: tuple[Question, ...] = ()
    """Questions of a `dev` split whose documents training knows."""
    unusable: tuple[Unusable, ...] = ()
    """Labels that mean nothing in the corpus."""

    @property
    def judged_by_people(self) -> bool:
        """Whether the held-out questions are labelled ones."""
        return any(question.kind == "label" for question in self.mined.questions)

    def pairs(self, chunks: Sequence[Chunk], search: Search, rank: Search, *, seed: int = 17) -> tuple[Pair, ...]:
        """The training pairs: labelled ones with a hard negative each (`search`), then mined ones as a teacher (`rank`) scores them."""
        known = harden(pairs(self.train, chunks, search, seed=seed), chunks, search, seed=seed) if self.train else ()
        return (*known, *distil(self.mined.pairs[:MOST_TAUGHT], chunks, rank, seed=seed))


def prepare(labels: Labels, mined: Mined, chunks: Sequence[Chunk]) -> Material:
    """The material of a corpus: its labels, and what was mined from it where they are few. No document is on both sides of the split.

    Mined pairs fill up to `FEW`. Held-out labelled questions are asked of the corpus as it is; without them the mined ones judge.
    """
    if not labels.labels:
        return Material(mined)
    asked, unusable = place(labels, chunks)
    documents = _documents(chunks)
    parted = split(asked, chunks)
    if parted.held_out:
        judged = _union((*parted.held_out, *parted.seen), documents)
        others = tuple(pair for pair in mined.pairs if not documents([Answer((pair.chunk,))]) & judged)
        material = _filled(Mined(others, _questions(parted.held_out, documents), tuple(chunks)), parted.train)
        return replace(material, seen=_questions(parted.seen, documents), unusable=unusable)
    train, learned = parted.train, _union(parted.train, documents)
    held_out = tuple(question for question in mined.questions if not documents([Answer(question.relevant)]) & learned)
    if len(held_out) < QUESTIONS:  # rather fewer labels than no verdict
        held_out = mined.questions
        train = _set_apart(train, documents(Answer(question.relevant) for question in held_out), documents)
    return replace(_filled(replace(mined, questions=held_out), train), unusable=unusable)


def split(asked: Sequence[Asked], chunks: Sequence[Chunk]) -> Split:
    """A fifth of the questions held out, at least 60; none when training would keep less than half of them.

    Questions that share a document stay together and are taken in the order of a digest, so a choice stays as labels are added.
    Where all hang together, some documents are cut out, and questions that have answers inside and outside of them are trained on with
    those outside. A `dev` split that has 60 questions of documents unknown to training is used as it is.
    """
    documents = _documents(chunks)
    given = _given(asked, documents)
    if given:
        return given
    whole = [replace(one, held_out=False) for one in asked]
    judged = [one for one in whole if documents(one.answers)]
    room = min(max(int(HELD_OUT * len(judged)), QUESTIONS), MOST_QUESTIONS)
    if 2 * room > len(judged):
        return Split(tuple(whole))
    kept = _chosen(judged, documents, room)
    texts = {one.text for one in kept}
    train = _set_apart([one for one in whole if one.text not in texts], _union(kept, documents), documents)
    return Split(train, tuple(kept)) if 2 * len(train) >= len(whole) else Split(tuple(whole))


def pairs(asked: Sequence[Asked], chunks: Sequence[Chunk], search: Search, *, limit: int = MOST_PAIRS, seed: int = 17) -> tuple[Pair, ...]:
    """Training pairs, one for each answer of each question: its best chunk for the question, with the known negatives.

    `search` ranks the chunks of an answer that has several. Of too many pairs every question keeps its best answers.
    """
    by_id = {chunk.id: chunk for chunk in chunks}
    turns = defaultdict(list)
    for one in random.Random(f"labels {seed}").sample(list(asked), len(asked)):
        for turn, answer in enumerate(one.answers):
            turns[turn].append((one, answer))
    drawn = [pair for turn in sorted(turns) for pair in turns[turn]][:limit]
    return tuple(_pair(one, answer, by_id, search) for one, answer in drawn)


def _filled(mined: Mined, train: tuple[Asked, ...]) -> Material:
    """With as many of the mined pairs as the labelled ones leave room for."""
    labelled = sum(len(one.answers) for one in train)
    kept = mined.pairs[: max(0, FEW - labelled)]
    count = labelled + len(kept)
    lacking = f"labels and corpus give {count} training pairs; {PAIRS} are needed" if count < PAIRS else ""
    return Material(replace(mined, pairs=kept, unsuitable=mined.unsuitable or lacking), train)


Documents = Callable[[Iterable[Answer]], frozenset[str]]


def _documents(chunks: Sequence[Chunk]) -> Documents:
    """The documents that answers lie in; in a corpus of few documents, the sections."""
    unit = unit_of(chunks)
    of = {chunk.id: unit(chunk) for chunk in chunks}
    return lambda answers: frozenset(of[id] for answer in answers for id in answer.chunks)


def _union(asked: Iterable[Asked], documents: Documents) -> frozenset[str]:
    return documents(answer for one in asked for answer in one.answers)


def _given(asked: Sequence[Asked], documents: Documents) -> Split | None:
    """The split that the labels come with; None when they have no `dev` that can judge."""
    train = tuple(one for one in asked if not one.held_out)
    learned, known = _union(train, documents), {one.text for one in train}
    dev = [one for one in asked if one.held_out and documents(one.answers)]
    seen = [one.text in known or bool(documents(one.answers) & learned) for one in dev]
    unseen = tuple(one for one, was in zip(dev, seen, strict=True) if not was)[:MOST_QUESTIONS]
    apart = tuple(one for one, was in zip(dev, seen, strict=True) if was)
    return Split(train, unseen, apart) if train and len(unseen) >= QUESTIONS else None


def _chosen(asked: Sequence[Asked], documents: Documents, room: int) -> list[Asked]:
    """Questions up to the room: those that hang together by their documents whole, while they fit; then some cut out of the rest."""
    kept: list[Asked] = []
    rest: list[Asked] = []
    for members in _together(asked, documents):
        (kept if len(kept) + len(members) <= room else rest).extend(members)
    return kept if len(kept) >= max(QUESTIONS, 0.9 * room) else kept + _cut(rest, documents, room - len(kept))


def _cut(asked: Sequence[Asked], documents: Documents, room: int) -> list[Asked]:
    """About so many questions, all those that a growing set of documents answers, so that as few others as can be lose an answer."""
    near: defaultdict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        for document in documents(one.answers):
            near[document].append(one)
    taken: set[str] = set()
    kept: dict[str, Asked] = {}
    for one in asked:
        if len(kept) >= room:
            break
        fresh = sorted(documents(one.answers) - taken)
        taken.update(fresh)
        kept |= {other.text: other for document in fresh for other in near[document] if documents(other.answers) <= taken}
    return list(kept.values())


def _together(asked: Sequence[Asked], documents: Documents) -> list[list[Asked]]:
    """The questions in groups that share no document, in the order of a digest."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for one in asked:
        first, *others = sorted(documents(one.answers))
        for other in others:
            parent[root(other)] = root(first)
    groups = defaultdict(list)
    for one in sorted(asked, key=lambda one: _order(one.text)):
        groups[root(min(documents(one.answers)))].append(one)
    return sorted(groups.values(), key=lambda members: min(map(_order, _union(members, documents))))


def _order(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _set_apart(asked: Iterable[Asked], judged: frozenset[str], documents: Documents) -> tuple[Asked, ...]:
    """The questions, their answers out of the judged documents set apart; one that has no other answer is left out."""
    found = []
    for one in asked:
        apart = tuple(answer for answer in one.answers if documents([answer]) & judged)
        answers = tuple(answer for answer in one.answers if answer not in apart)
        if answers:
            found.append(replace(one, answers=answers, apart=(*one.apart, *apart)))
    return tuple(found)


def _pair(one: Asked, answer: Answer, by_id: Mapping[str, Chunk], search: Search) -> Pair:
    found = search(one.text, DEPTH) if any(len(each.chunks) > 1 for each in (answer, *one.wrong)) else ()
    own = _best(one.text, answer, by_id, found)
    known = [text for each in (*one.answers, *one.apart) for text in (each.text, *(by_id[id].context for id in each.chunks)) if text]
    wrong = [_best(one.text, each, by_id, found) for each in one.wrong]
    return Pair(
        question=one.text,
        chunk=own.id,
        document=own.document,
        positive=own.context,
        negatives=tuple(dict.fromkeys(chunk.context for chunk in wrong if chunk.context not in known)),
        kind="label",
        answers=tuple(dict.fromkeys(text for text in known if text != own.context)),
    )


def _best(question: str, answer: Answer, by_id: Mapping[str, Chunk], found: Sequence[tuple[str, float]]) -> Chunk:
    """The chunk of the answer that suits the question best: by its ranks in keyword and dense search, else by the words they share."""
    if not answer.chunks:
        return Chunk("", "", "", (), 0, len(answer.text), answer.text)
    near = {id: rank for rank, (id, _) in enumerate(sorted(found, key=lambda pair: -pair[1]))}
    ranks = {id: rank + near[id] for rank, (id, _) in enumerate(found) if id in answer.chunks}
    if ranks:
        return by_id[min(ranks, key=lambda id: (ranks[id], id))]
    asked = Counter(words(question))
    return max((by_id[id] for id in answer.chunks), key=lambda chunk: len(set(asked) & set(words(chunk.context))))


def questions(asked: Sequence[Asked], chunks: Sequence[Chunk]) -> tuple[Question, ...]:
    """Those of the questions that the corpus answers, as a search is judged by them."""
    documents = _documents(chunks)
    return _questions([one for one in asked if documents(one.answers)], documents)


def _questions(asked: Sequence[Asked], documents: Documents) -> tuple[Question, ...]:
    """Held-out questions as the gate asks them; those that share a document are under one name, as they rise and fall together."""
    return tuple(_question(one, min(_union(members, documents))) for members in _together(asked, documents) for one in members)


def _question(one: Asked, document: str) -> Question:
    answers = [answer for answer in one.answers if answer.chunks]
    return Question(
        text=one.text,
        document=document,
        relevant=tuple(id for answer in answers for id in answer.chunks),
        kind="label",
        grades=tuple(answer.grade for answer in answers for _ in answer.chunks),
        targets=tuple(answer.chunks[0] for answer in answers for _ in answer.chunks),
    )
