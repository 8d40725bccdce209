"""The retrievers that a gain is claimed over, exact and untrained: BM25, cosine of whole documents, and both fused by rank or by score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ragstone import terms

Scores = NDArray[np.float64]
"""[questions, documents]."""
DEPTH = 200
"""Of each list, what fusion takes."""


def ways(documents: Sequence[str], questions: Sequence[str], cosines: Scores) -> Mapping[str, Scores]:
    """Every retriever's scores, by its name. `cosines` are the base model's, of whole documents."""
    words = bm25(documents, questions)
    return {
        "BM25": words,
        "dense": cosines,
        "RRF": reciprocal(words) + reciprocal(cosines),
        "convex 0.4": 0.4 * scaled(cosines) + 0.6 * scaled(words),
    }


def bm25(documents: Sequence[str], questions: Sequence[str], k1: float = 1.2, b: float = 0.75) -> Scores:
    """Okapi BM25 over English stems, without stop words."""
    counted = terms.count(documents)
    having = Counter(word for counts in counted for word in counts)
    length = sum(sum(counts.values()) for counts in counted) / len(counted)
    postings: dict[str, list[tuple[int, float]]] = {}
    for row, counts in enumerate(counted):
        size = k1 * (1 - b + b * sum(counts.values()) / length)
        for word, times in counts.items():
            rarity = math.log1p((len(counted) - having[word] + 0.5) / (having[word] + 0.5))
            postings.setdefault(word, []).append((row, rarity * times * (k1 + 1) / (times + size)))
    scores = np.zeros((len(questions), len(documents)))
    for line, counts in zip(scores, terms.count(questions), strict=True):
        for word, times in counts.items():
            for row, score in postings.get(word, []):
                line[row] += times * score
    return scores


def reciprocal(scores: Scores, k: int = 60) -> Scores:
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    found: Scores = 1 / (k + ranks + 1)
    return found


def scaled(scores: Scores) -> Scores:
    """Each question's best, from 0 to 1 by their least and greatest; 0 for the others."""
    found = np.zeros_like(scores)
    for line, to in zip(scores, found, strict=True):
        best = np.argsort(-line, kind="stable")[:DEPTH]
        low, high = line[best[-1]], line[best[0]]
        to[best] = (line[best] - low) / (high - low) if high > low else 1.0
    return found
