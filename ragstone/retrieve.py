"""From a question to scored hits: search both lists, fuse them, collapse duplicates, calibrate. It knows no prompt and no generator.

Two numbers per hit, with two jobs: `fused` orders the hits of one question; `score` says how likely a hit is relevant, on one
scale for every question, model and release, and is what `similarity_threshold` cuts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragstone.corpus import Chunk
from ragstone.embedder import Embedder
from ragstone.errors import IndexingError
from ragstone.index import Candidate, Index, Query

Features = tuple[float, float]
"""What `score` rests on: the cosine, and BM25 per content word of the question (a word that the chunk lacks adds nothing)."""


@dataclass(frozen=True)
class Hit:
    """A chunk found for a question. `dense` is the cosine, `keyword` BM25, `fused` the order, `score` the calibrated P(relevant)."""

    chunk: Chunk
    dense: float
    keyword: float
    fused: float
    score: float


@dataclass(frozen=True)
class Calibration:
    """From a hit's features to P(relevant): a logistic. `coefficients` are the intercept, then one weight for each feature.

    >>> Calibration((-4.0, 8.0, 0.0)).probability((0.5, 0.0))
    0.5
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.coefficients) != 3 or not all(map(math.isfinite, self.coefficients)):
            raise IndexingError(f"a calibration has 3 finite coefficients, not {self.coefficients!r}", "ragstone up")

    @classmethod
    def default(cls) -> Calibration:
        """For a corpus too small to fit one of its own."""
        return cls((-6.0, 10.0, 0.5))

    def probability(self, features: Features) -> float:
        """P(relevant), between 0 and 1."""
        intercept, *weights = self.coefficients
        return _logistic(intercept + sum(weight * value for weight, value in zip(weights, features, strict=True)))


def features(question: str, dense: float, keyword: float) -> Features:
    """The features of one question and chunk, from the chunk's raw scores."""
    return dense, keyword / max(1, len(content_words(question)))


def content_words(question: str) -> frozenset[str]:
    """The distinct words of the question that carry meaning, lower case."""
    return frozenset(re.findall(r"\w+", question.lower()))


def fuse(candidates: Sequence[Candidate], dense_weight: float) -> list[tuple[Candidate, float]]:
    """Candidates with their fused score, best first: each list is scaled to [0, 1] by its own members, absence counts 0, weights sum to 1."""
    dense = _scale([candidate.dense for candidate in candidates if candidate.in_dense])
    keyword = _scale([candidate.keyword for candidate in candidates if candidate.in_keyword])
    raise NotImplementedError(dense, keyword)


class Retriever:
    """Search of one index with the model that encoded it. Safe to use from several threads."""

    def __init__(self, index: Index, embedder: Embedder, calibration: Calibration, *, candidates: int = 200, dense_weight: float = 0.4) -> None:
        self.index = index
        self.embedder = embedder
        self.calibration = calibration
        self.candidates = candidates
        self.dense_weight = dense_weight

    def search(self, question: str, groups: tuple[str, ...], limit: int, filter: Mapping[str, str] = {}) -> list[Hit]:
        """At most `limit` hits that the groups may see, best first by `fused`; chunks with the same text are one hit. No threshold is applied."""
        query = Query(question, self.embedder.queries([question])[0], groups, self.candidates, filter)
        raise NotImplementedError(query, limit)


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """The least value, and what to multiply the rest above it with to reach 1."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return low, 1.0 / (high - low) if high > low else 0.0


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
