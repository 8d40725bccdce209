"""Is a model better, and is a question ours? Ranking metrics, the paired bootstrap, the gate, and the fit of the calibration.

The gate judges the retriever as it is deployed, both lists fused, on questions from documents that training never saw. It knows
nothing of how a candidate was trained.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from ragstone.config import Retrieve
from ragstone.corpus import Chunk
from ragstone.corpus.pairs import Mined, Question
from ragstone.embedder import Embedder
from ragstone.index import Index, Vectors
from ragstone.retrieve import Calibration, Features, Hit, Retriever, features

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
class Verdict:
    """What the gate says of a training run, as it is stored with the model. `str()` is the line that a person reads."""

    promoted: bool
    base: float = 0.0
    tuned: float = 0.0
    gain: float = 0.0
    low: float = 0.0
    high: float = 0.0
    questions: int = 0
    share: float = 0.0
    """The interpolation that was judged: the share of the tuned weights."""
    wins: int = 0
    """Questions that the tuned model answers better, and …"""
    losses: int = 0
    """… those it answers worse."""
    metric: str = "nDCG@10"
    reason: str = ""
    """Why nothing was judged; empty when something was."""

    def __str__(self) -> str:
        outcome = "promoted" if self.promoted else "the base model stays"
        if self.reason:
            return f"{self.reason}: {outcome}"
        interval = f"{_signed(self.gain)} [{_plain(self.low)}, {_plain(self.high)}]"
        return f"{self.metric} on held-out questions {self.base:.2f} -> {self.tuned:.2f}, {interval}: {outcome}"


@dataclass(frozen=True)
class Fit:
    """A calibration and what it does at the threshold that it was fitted for."""

    calibration: Calibration
    answered: float
    """The share of the corpus's own questions that reach the threshold."""
    refused: float
    """The share of foreign questions that do not."""
    questions: int
    foreign: int


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
    a: Sequence[float], b: Sequence[float], *, draws: int = 10_000, seed: int = 17, level: float = 0.95, clusters: Sequence[str] = ()
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
    limit: int = 6_000,
    seed: int = 17,
) -> Verdict:
    """Whether the best candidate beats the incumbent by more than `margin`, at the lower bound, over the held-out questions.

    Every candidate is judged on all questions; for having chosen the best of n the interval is widened to the level 1 - 0.05 / n
    (Bonferroni), which costs less width than keeping half of the questions for the choice. A corpus of more than `limit` chunks is
    judged on the relevant ones and a sample of the others.
    """
    raise NotImplementedError


def fit_calibration(
    retriever: Retriever, own: Sequence[str], foreign: Sequence[str] = (), *, threshold: float = 0.75, seed: int = 17
) -> Fit:
    """The calibration of a corpus: P(relevant) of its own questions reaches `threshold`, that of foreign ones does not.

    `foreign` defaults to the shipped general questions and as much word salad.
    """
    raise NotImplementedError


def foreign_questions(seed: int = 17) -> list[str]:
    """General questions of everyday life and other fields, and as many rows of their words in no order."""
    text = resources.files("ragstone.corpus").joinpath("foreign.txt").read_text(encoding="utf-8")
    questions = [line for line in text.splitlines() if line]
    bag = [word for question in questions for word in question.rstrip("?").split()]
    random.Random(f"salad {seed}").shuffle(bag)
    return questions + [" ".join(bag[start::len(questions)]) for start in range(len(questions))]


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"


def _plain(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"
