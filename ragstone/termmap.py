"""A map of a domain's terms under two models: where each stands before and after, its neighbours, and which moved most.

Two models' vectors can't be compared number by number; what can be is which terms are near to which. A term has moved as far as its
cosines to all others have changed. The picture is each model's two main axes, the second turned onto the first.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragstone.corpus.pairs import words

LEAST = 3
"""Characters of a term. A language that is written without spaces has no map: a word is one character there."""
WIDEST, FEW = 0.2, 4
"""The share of the passages that a term is in at most, and passages that it may be in all the same: what is everywhere says nothing."""
NEAR = 5
"""Neighbours that are named."""

Floats = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Floats]
"""Unit vectors of texts, [texts, dimensions]."""


@dataclass(frozen=True)
class Term:
    """A term of the domain in both models."""

    word: str
    before: tuple[float, float]
    after: tuple[float, float]
    moved: float
    """0 where its cosines to the other terms rank and lie as before, 1 where they have nothing to do with it, 2 where they are reversed."""
    near_before: tuple[str, ...]
    near_after: tuple[str, ...]


@dataclass(frozen=True)
class Map:
    """The terms, the one that moved most first, and the share of the spread that both axes show, before and after."""

    terms: tuple[Term, ...]
    shown: tuple[float, float]


def telling(texts: Sequence[str], most: int = 120) -> list[str]:
    """The words that tell the corpus's passages apart and stand in several of them: the highest sum of log(1 + count) x rarity.

    >>> telling(["the pump and the seal", "the pump and the drum", "the drum and the seal", "the crew", "and then"] * 2, 3)
    ['drum', 'pump', 'seal']
    """
    counted = [Counter(words(text)) for text in texts]
    having = Counter(word for counts in counted for word in counts)
    weight: defaultdict[str, float] = defaultdict(float)
    for counts in counted:
        for word, times in counts.items():
            if 1 < having[word] <= max(FEW, WIDEST * len(texts)) and len(word) >= LEAST and not word.isdigit():
                weight[word] += math.log1p(times) * math.log(len(texts) / having[word])
    return sorted(sorted(weight, key=lambda word: (-weight[word], word))[:most])


def draw(terms: Sequence[str], before: Encode, after: Encode) -> Map:
    """The map of four terms or more. Raises `ValueError` on fewer."""
    if len(terms) < FEW:
        raise ValueError(f"{len(terms)} terms make no map")
    first, second = before(terms), after(terms)
    (here, shown), (there, shown_after) = _plane(first), _plane(second)
    there = there @ _turn(there, here)
    near, near_after = first @ first.T, second @ second.T
    moved = _moved(near, near_after)
    made = [
        Term(word, _point(here[row]), _point(there[row]), float(moved[row]), _nearest(terms, near, row), _nearest(terms, near_after, row))
        for row, word in enumerate(terms)
    ]
    return Map(tuple(sorted(made, key=lambda term: -term.moved)), (shown, shown_after))


def _plane(vectors: Floats) -> tuple[Floats, float]:
    """The vectors on their two main axes, scaled to a spread of 1, and the share of the spread that these are."""
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    flat = left[:, :2] * sizes[:2]
    spread = float(np.sqrt((flat**2).sum(axis=1).mean())) or 1.0
    return (flat / spread).astype(np.float32), float((sizes[:2] ** 2).sum() / max(float((sizes**2).sum()), 1e-12))


def _turn(moving: Floats, fixed: Floats) -> Floats:
    """The rotation or reflection that lays one set of points nearest to the other (orthogonal Procrustes)."""
    left, _, right = np.linalg.svd(moving.T @ fixed)
    turned: Floats = left @ right
    return turned


def _moved(before: Floats, after: Floats) -> NDArray[np.float64]:
    """For each term, 1 less the correlation of its cosines to the others before and after."""
    others = ~np.eye(len(before), dtype=bool)
    rows = (np.corrcoef(one[mask], two[mask])[0, 1] for one, two, mask in zip(before, after, others, strict=True))
    return np.array([0.0 if math.isnan(row) else 1.0 - float(row) for row in rows])


def _nearest(terms: Sequence[str], cosines: Floats, row: int) -> tuple[str, ...]:
    order: Iterable[int] = (int(at) for at in np.argsort(-cosines[row], kind="stable") if at != row)
    return tuple(terms[at] for at, _ in zip(order, range(NEAR), strict=False))


def _point(row: Floats) -> tuple[float, float]:
    return round(float(row[0]), 4), round(float(row[1]), 4)
