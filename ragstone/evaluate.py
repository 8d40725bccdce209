"""Is a model better? Ranking metrics, the paired bootstrap and the gate.

The gate judges the retriever as it is deployed, both lists fused, on questions from documents that training never saw; a candidate that
wins there must not fall on the guards. It knows nothing of how a candidate was trained.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragstone.config import Retrieve
from ragstone.corpus import Chunk
from ragstone.corpus.pairs import Mined, Question
from ragstone.corpus.views import views
from ragstone.embedder import Embedder
from ragstone.guard import Guard
from ragstone.index import Index, Vectors
from ragstone.retrieve import Calibration, Retriever, weighed

Floats = NDArray[np.float64]
Build = Callable[[Sequence[Chunk], Vectors], Index]
"""Makes an opened index of chunks and their vectors, row by row; the gate closes it."""


@dataclass(frozen=True)
class Interval:
    """A mean difference and where it lies, at the level that was asked for."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Guarded:
    """What a guard says of a candidate: nDCG@10 under the incumbent and under it, and where the difference lies."""

    guard: str
    way: str
    """`dense`: by the cosine alone; `shipped`: by the whole retriever."""
    base: float
    tuned: float
    gain: float
    low: float
    high: float
    questions: int
    held: bool
    """False when it fell by more than is allowed, and by more than chance."""

    def __str__(self) -> str:
        return f"{self.guard} ({self.way}) fell by {_plain(-self.gain)} [{_plain(-self.high)}, {_plain(-self.low)}]"


@dataclass(frozen=True)
class Change:
    """A held-out question whose answer got better or worse. A rank is that of the first right chunk, from 1; None past the tenth."""

    question: str
    document: str
    rank_before: int | None
    rank_after: int | None
    before: float
    after: float


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a training run, as it is stored with the model. `str()` is the line that a person reads."""

    promoted: bool
    base: float = 0.0
    tuned: float = 0.0
    gain: float = 0.0
    low: float = 0.0
    high: float = 0.0
    margin: float = 0.0
    """What the lower bound had to exceed."""
    questions: int = 0
    share: float = 0.0
    """The interpolation that was chosen: the share of the tuned weights."""
    wins: int = 0
    """Questions that the tuned model answers better, and …"""
    losses: int = 0
    """… those it answers worse."""
    metric: str = "nDCG@10"
    kind: str = ""
    """Of the questions: `labelled` when people asked them."""
    reason: str = ""
    """Why nothing was judged; empty when something was."""
    guards: tuple[Guarded, ...] = ()
    """What the guards say; they are asked of a candidate whose lower bound exceeds the margin, and of no other."""
    changes: tuple[Change, ...] = ()
    """The questions that changed most, wins and losses, the greatest change first."""

    @classmethod
    def load(cls, kept: Mapping[str, Any]) -> Verdict:
        """The verdict that was kept as JSON, also by a version that knew fewer fields."""
        guards = tuple(Guarded(**guard) for guard in kept.get("guards", ()))
        return cls(**{**kept, "guards": guards, "changes": tuple(Change(**change) for change in kept.get("changes", ()))})

    def __str__(self) -> str:
        outcome = "promoted" if self.promoted else "the base model stays"
        if self.reason:
            return f"{self.reason}: {outcome}"
        interval = f"{_signed(self.gain)} [{_plain(self.low)}, {_plain(self.high)}]"
        if 0 < self.low <= self.margin:
            interval += f", no lower bound above {self.margin:g}"
        interval += "".join(f", but {guard}" for guard in self.guards if not guard.held)
        asked = f"held-out {self.kind} questions" if self.kind else "held-out questions"
        return f"{self.metric} on {asked} {self.base:.2f} -> {self.tuned:.2f}, {interval}: {outcome}"


def ndcg(ranked: Sequence[str], relevant: Mapping[str, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first k, between 0 and 1, with linear gains (as trec_eval has it).

    >>> ndcg(["b", "a"], {"a": 1.0})
    0.6309297535714575
    """
    gained = sum(relevant.get(id, 0.0) / math.log2(rank + 2) for rank, id in enumerate(ranked[:k]))
    ideal = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(sorted(relevant.values(), reverse=True)[:k]))
    return gained / ideal if ideal > 0 else 0.0


def recall(ranked: Sequence[str], relevant: Mapping[str, float], k: int = 10) -> float:
    """The share of the relevant that is among the first k."""
    wanted = {id for id, gain in relevant.items() if gain > 0}
    return len(wanted & set(ranked[:k])) / len(wanted) if wanted else 0.0


def mrr(ranked: Sequence[str], relevant: Mapping[str, float], k: int = 10) -> float:
    """One over the rank of the first relevant among the first k, else 0."""
    return next((1.0 / rank for rank, id in enumerate(ranked[:k], 1) if relevant.get(id, 0.0) > 0), 0.0)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, *, draws: int = 10_000, seed: int = 17, level: float = 0.95, clusters: Sequence[str] = ()
) -> Interval:
    """The mean of b - a over questions and its percentile interval.

    `clusters` names each question's document: documents are drawn then, not questions, since those of one document rise and fall
    together and would make the interval too narrow.
    """
    difference = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    if not len(difference):
        return Interval(0.0, 0.0, 0.0)
    _, member = np.unique(np.asarray(clusters) if len(clusters) else np.arange(len(difference)), return_inverse=True)
    sums, counts = np.bincount(member, weights=difference), np.bincount(member)
    generator = np.random.default_rng(seed)
    even = np.full(len(sums), 1.0 / len(sums))
    blocks = [generator.multinomial(len(sums), even, size=min(1000, draws - start)) for start in range(0, draws, 1000)]
    means = np.concatenate([(block @ sums) / (block @ counts) for block in blocks])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference.mean()), float(low), float(high))


def gate(
    incumbent: Embedder,
    candidates: Mapping[float, Embedder],
    mined: Mined,
    build: Build,
    settings: Retrieve,
    margin: float,
    *,
    guards: Sequence[Guard] = (),
    fall: float = 0.05,
    limit: int = 6_000,
    seed: int = 17,
) -> Verdict:
    """Whether a candidate beats the incumbent by more than `margin`, at the lower bound, over the held-out questions, and holds the guards.

    The best of those that do is chosen. Every candidate is judged on all questions; for having chosen among n the interval is widened to
    the level 1 - 0.05 / n (Bonferroni), which costs less width than keeping half of the questions for the choice. A corpus of more than
    `limit` chunks is judged on the relevant ones and a sample of the others. No guard may fall by more than `fall`.
    """
    if mined.unsuitable or not candidates:
        return Verdict(promoted=False, reason=mined.unsuitable or "training gave no candidate")
    chunks, questions = _sample(mined, limit, seed), mined.questions
    known: dict[str, Vectors] = {}

    def shipped(model: Embedder) -> list[list[str]]:
        return rankings(model, chunks, questions, build, weighed(settings, model), known)

    before, after = shipped(incumbent), {share: shipped(candidate) for share, candidate in candidates.items()}
    base, tuned = _scores(before, questions), {share: _scores(ranked, questions) for share, ranked in after.items()}
    refused: list[Verdict] = []
    for share in _best_first(tuned):
        verdict = judge(base, tuned, [question.document for question in questions], margin, seed, share)
        if verdict.promoted:
            found = guarded(incumbent, candidates[share], guards, build, settings, fall, seed)
            verdict = replace(verdict, promoted=all(guard.held for guard in found), guards=found)
        verdict = replace(verdict, changes=changes(questions, before, after[share]))
        if verdict.promoted:
            return verdict
        refused.append(verdict)
    return refused[0]


def judge(
    base: Floats, tuned: Mapping[float, Floats], documents: Sequence[str], margin: float, seed: int = 17, share: float | None = None
) -> Verdict:
    """The verdict on one of some candidates, `share` or the best, from every question's score and document."""
    share = _best_first(tuned)[0] if share is None else share
    interval = paired_bootstrap(base, tuned[share], seed=seed, level=1 - 0.05 / len(tuned), clusters=documents)
    return Verdict(
        promoted=interval.low > margin,
        base=float(base.mean()),
        tuned=float(tuned[share].mean()),
        gain=interval.mean,
        low=interval.low,
        high=interval.high,
        margin=margin,
        questions=len(base),
        share=share,
        wins=int((tuned[share] > base).sum()),
        losses=int((tuned[share] < base).sum()),
    )


def guarded(
    incumbent: Embedder, candidate: Embedder, guards: Sequence[Guard], build: Build, settings: Retrieve, fall: float, seed: int = 17
) -> tuple[Guarded, ...]:
    """What every guard says of a candidate, by the cosine alone and, where it is made from the corpus, by the whole retriever.

    A guard does not hold when its mean fell by more than `fall` and the whole 95 % interval of the difference lies below 0.
    """
    found: list[Guarded] = []
    for guard in guards:
        known: dict[str, Vectors] = {}
        before, after = (_by_way(model, guard, build, settings, known) for model in (incumbent, candidate))
        documents = [question.document for question in guard.questions]
        found += [hold(guard.name, way, before[way], after[way], documents, fall, seed) for way in before]
    return tuple(found)


def hold(guard: str, way: str, base: Floats, tuned: Floats, documents: Sequence[str], fall: float, seed: int = 17) -> Guarded:
    """Whether a guard holds, from every question's score and document."""
    interval = paired_bootstrap(base, tuned, seed=seed, clusters=documents)
    held = interval.mean >= -fall or interval.high >= 0
    return Guarded(
        guard, way, float(base.mean()), float(tuned.mean()), interval.mean, interval.low, interval.high, questions=len(base), held=held
    )


def changes(
    questions: Sequence[Question], before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], limit: int = 200
) -> tuple[Change, ...]:
    """The questions whose score differs between two rankings, the greatest difference first, at most `limit`."""
    each = (
        Change(one.text, one.document, rank(old, one), rank(new, one), answered(old, one), answered(new, one))
        for one, old, new in zip(questions, before, after, strict=True)
    )
    changed = [change for change in each if change.before != change.after]
    return tuple(sorted(changed, key=lambda change: -abs(change.after - change.before))[:limit])


def rank(ranked: Sequence[str], question: Question) -> int | None:
    """The place of the first right chunk, from 1; None when there is none."""
    return next((place for place, id in enumerate(ranked, 1) if id in question.relevant), None)


def rankings(
    embedder: Embedder,
    chunks: Sequence[Chunk],
    questions: Sequence[Question],
    build: Build,
    settings: Retrieve,
    known: dict[str, Vectors],
) -> list[list[str]]:
    """The ids of the ten best chunks for each question under these weights; none for a model whose vectors are no numbers.

    `known` keeps the chunks' plain vectors by encoder: models that differ in their term space alone need them once.
    """
    if embedder.encoder not in known:
        known[embedder.encoder] = embedder.plain([views(chunk) for chunk in chunks])
    vectors = embedder.joined(known[embedder.encoder], [chunk.context for chunk in chunks])
    if not np.isfinite(vectors).all():
        return [[] for _ in questions]
    everyone = tuple(sorted({group for chunk in chunks for group in chunk.groups}))
    with closing(build(chunks, vectors)) as index:
        retriever = Retriever.of(index, embedder, Calibration.default(), settings)
        return [[hit.chunk.id for hit in retriever.search(question.text, everyone, 10)] for question in questions]


def answered(ranked: Sequence[str], question: Question) -> float:
    """nDCG@10 of the ranked chunks for a held-out question; of a target with several chunks the first counts, the others are passed over.

    >>> whole = Question("what?", "d", ("a", "b", "c"), targets=("d", "d", "c"))
    >>> answered(["b", "a", "c"], whole), answered(["c", "x", "a"], whole)
    (1.0, 0.9197207891481876)
    """
    return ndcg(*_by_target(ranked, question))


def reached(ranked: Sequence[str], question: Question) -> float:
    """Recall@10 of the ranked chunks for such a question: the share of its targets of which a chunk is among them.

    >>> reached(["x", "b"], Question("what?", "d", ("a", "b", "c"), targets=("d", "d", "c")))
    0.5
    """
    return recall(*_by_target(ranked, question))


def _by_target(ranked: Sequence[str], question: Question) -> tuple[list[str], dict[str, float]]:
    """What the ranked chunks stand for, each once, and how good an answer each target is."""
    targets = dict(zip(question.relevant, question.targets or question.relevant, strict=True))
    grades = question.grades or (1.0,) * len(question.relevant)
    gains = dict(zip(targets.values(), grades, strict=True))
    return list(dict.fromkeys(targets.get(id, id) for id in ranked)), gains


def _best_first(tuned: Mapping[float, Floats]) -> list[float]:
    return sorted(tuned, key=lambda share: (-float(tuned[share].mean()), share))


def _scores(ranked: Sequence[Sequence[str]], questions: Sequence[Question]) -> Floats:
    return np.array([answered(ids, question) for ids, question in zip(ranked, questions, strict=True)])


def _by_way(model: Embedder, guard: Guard, build: Build, settings: Retrieve, known: dict[str, Vectors]) -> dict[str, Floats]:
    """The scores of a guard's questions, by each way that it is judged by; `known` as in `rankings`."""
    found: dict[str, Floats] = {}
    ways = {"dense": replace(settings, dense_weight=1.0)} | ({"shipped": weighed(settings, model)} if guard.shipped else {})
    for way, weights in ways.items():
        ranked = rankings(model, guard.passages, guard.questions, build, weights, known)
        found[way] = _scores(ranked, guard.questions)
    return found


def _sample(mined: Mined, limit: int, seed: int) -> list[Chunk]:
    """The judged chunks, or of too many the relevant ones and a sample of the others."""
    relevant = {id for question in mined.questions for id in question.relevant}
    others = [chunk.id for chunk in mined.judged if chunk.id not in relevant]
    drawn = random.Random(f"gate {seed}").sample(others, min(len(others), max(0, limit - len(relevant))))
    kept = relevant.union(drawn)
    return [chunk for chunk in mined.judged if chunk.id in kept]


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"


def _plain(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"
