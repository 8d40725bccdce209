"""From a question to scored hits: search both lists, fuse them, collapse duplicates, calibrate. It knows no prompt and no generator.

Two numbers per hit, with two jobs: `fused` orders the hits of one question; `score` says how likely a hit is relevant, on one
scale for every question, model and release, and is what `similarity_threshold` cuts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from ragstone import phrasing
from ragstone.config import Retrieve
from ragstone.corpus import Chunk
from ragstone.embedder import Embedder
from ragstone.errors import IndexingError
from ragstone.index import BIGRAM_WEIGHT, UNMADE, Candidate, Index, Query

NO_FILTER: Mapping[str, str] = MappingProxyType({})

READ = 10
"""Passages in which a question's phrasing is looked up: the best ones, however few are wanted."""

POOL = 4
"""Hits looked at for each one wanted: the threshold may let a later one pass where an earlier one fails."""

HALF = 0.5
"""The share of the best hit's fused score below which a hit is scored down."""

Features = tuple[float, float, float, float]
"""What `score` rests on: a hit's cosine and keyword score; and for all hits of a question `phrasing.features`."""


@dataclass(frozen=True)
class Hit:
    """A chunk found for a question: `dense` and `keyword` as in `Candidate`, `fused` the order, `score` the calibrated P(relevant)."""

    chunk: Chunk
    dense: float
    keyword: float
    fused: float
    score: float
    features: Features


@dataclass(frozen=True)
class Calibration:
    """From a hit's features to P(relevant): a logistic. `coefficients` are the intercept, then one weight for each feature.

    >>> Calibration((-4.0, 8.0, 0.0, 0.0, 0.0)).probability((0.5, 0.0, 0.0, 0.0))
    0.5
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.coefficients) != 5 or not all(map(math.isfinite, self.coefficients)):
            raise IndexingError(f"a calibration has 5 finite coefficients, not {self.coefficients!r}", "ragstone up")

    @classmethod
    def default(cls) -> Calibration:
        """Where none was fitted: the middle of those of five judged collections (MiniLM)."""
        return cls((-6.0, 12.0, 3.0, 2.0, 1.0))

    def probability(self, features: Features) -> float:
        """P(relevant), between 0 and 1."""
        intercept, *weights = self.coefficients
        return _logistic(intercept + sum(weight * value for weight, value in zip(weights, features, strict=True)))


def fuse(candidates: Sequence[Candidate], dense_weight: float) -> list[tuple[Candidate, float]]:
    """Candidates with their fused score between 0 and 1, best first: `dense_weight` x cosine + the rest x keyword score.

    Neither is scaled by the other candidates. So a long question, of which no chunk holds much, is ordered by meaning, and one whose
    words stand together in a chunk by words (`docs/retrieve.md` has what that is worth). What an engine has fused keeps its order.
    """
    fused = [(one, _sum(one, dense_weight) if one.fused is None else one.fused) for one in candidates]
    return sorted(fused, key=lambda pair: (-pair[1], -pair[0].dense, pair[0].chunk))


def _sum(one: Candidate, dense_weight: float) -> float:
    return dense_weight * max(0.0, one.dense) + (1 - dense_weight) * one.keyword


def weighed(weights: Retrieve, model: Embedder) -> Retrieve:
    """The weights of the settings, and over them those that the model learned from labels."""
    if not model.card.fusion:
        return weights
    dense, bigram = model.card.fusion
    return replace(weights, dense_weight=dense, bigram_weight=bigram)


class Search(Protocol):
    """What finds passages for a question: the release's own index, or a system elsewhere. `score` is its word for what a threshold cuts."""

    @property
    def index(self) -> Index:
        """Where the chunks are that it finds."""

    @property
    def embedder(self) -> Embedder:
        """What tells how alike two texts are."""

    def search(self, question: str, groups: tuple[str, ...], limit: int, filter: Mapping[str, str] = NO_FILTER) -> list[Hit]:
        """At most `limit` hits that the groups may see, best first. No threshold is applied."""

    def found(self, question: str, groups: tuple[str, ...], top_k: int, threshold: float, filter: Mapping[str, str]) -> list[Hit]:
        """Hits among which are the `top_k` best that reach the threshold; where none does, how near they came."""


class Retriever:
    """Search of one index with the model that encoded it. Safe to use from several threads."""

    def __init__(
        self,
        index: Index,
        embedder: Embedder,
        calibration: Calibration,
        *,
        candidates: int = 200,
        dense_weight: float = 0.5,
        bigram_weight: float = BIGRAM_WEIGHT,
    ) -> None:
        self.index = index
        self.embedder = embedder
        self.calibration = calibration
        self.candidates = candidates
        self.dense_weight = dense_weight
        self.bigram_weight = bigram_weight

    @classmethod
    def of(cls, index: Index, embedder: Embedder, calibration: Calibration, weights: Retrieve) -> Retriever:
        """The search with these weights."""
        return cls(
            index,
            embedder,
            calibration,
            candidates=weights.candidates,
            dense_weight=weights.dense_weight,
            bigram_weight=weights.bigram_weight,
        )

    def search(self, question: str, groups: tuple[str, ...], limit: int, filter: Mapping[str, str] = NO_FILTER) -> list[Hit]:
        """At most `limit` hits that the groups may see, best first by `fused`; equal texts are one hit. No threshold is applied."""
        vector = UNMADE if self.index.encodes else self.embedder.queries([question])[0]
        query = Query(question, vector, groups, max(limit, self.candidates), filter, self.bigram_weight, self.dense_weight)
        found = self._distinct(fuse(self.index.search(query), self.dense_weight), max(limit, READ) if limit else 0)
        asked = phrasing.features(question, [chunk.context for chunk, _, _ in found[:READ]])
        best = max((fused for _, _, fused in found), default=0.0)
        return [self._hit(chunk, candidate, fused, best, asked) for chunk, candidate, fused in found[:limit]]

    def found(self, question: str, groups: tuple[str, ...], top_k: int, threshold: float, filter: Mapping[str, str]) -> list[Hit]:
        """The best hits, some more than are wanted: the order is not that of the scores."""
        return self.search(question, groups, POOL * top_k, filter)

    def _distinct(self, ranked: Sequence[tuple[Candidate, float]], limit: int) -> list[tuple[Chunk, Candidate, float]]:
        """The first of the candidates with their chunks, at most `limit`, no text twice."""
        found: dict[str, tuple[Chunk, Candidate, float]] = {}
        for start in range(0, len(ranked), max(1, limit)):
            if len(found) >= limit:
                break
            some = ranked[start : start + limit]
            for chunk, (candidate, fused) in zip(self.index.chunks([candidate.chunk for candidate, _ in some]), some, strict=True):
                found.setdefault(chunk.text, (chunk, candidate, fused))
        return list(found.values())[:limit]

    def _hit(self, chunk: Chunk, candidate: Candidate, fused: float, best: float, asked: tuple[float, float]) -> Hit:
        """A good question lifts all its hits alike, so what lies far behind the best of them is scored down by how far."""
        features = (candidate.dense, candidate.keyword, *asked)
        near = min(1.0, fused / (HALF * best)) if best > 0 else 1.0
        return Hit(chunk, candidate.dense, candidate.keyword, fused, near * self.calibration.probability(features), features)


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
