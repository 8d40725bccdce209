"""What an index is asked, and what it answers: the words that every index and the retriever share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

UNMADE: NDArray[np.float32] = np.empty(0, np.float32)
"""The vector of a question that an engine makes."""

BIGRAM_WEIGHT = 0.2
"""It lifted questions in a corpus' own phrases by .02 nDCG@10."""


@dataclass(frozen=True)
class Query:
    """What is searched for. `groups` are the caller's: a candidate shares one of them. `filter` must match metadata exactly."""

    text: str
    vector: NDArray[np.float32]
    groups: tuple[str, ...]
    limit: int = 200
    """How many candidates of each list, dense and keyword."""
    filter: Mapping[str, str] = field(default_factory=dict)
    bigram_weight: float = BIGRAM_WEIGHT
    """What two neighbouring words count in the keyword score beside each of them, before rarity."""
    dense_weight: float = 0.5
    """The share of the cosine, the rest is the keyword score's: read where the engine fuses both lists."""


@dataclass(frozen=True)
class Candidate:
    """A chunk found by either list, with both scores. Both mean the same for every question, so they can be added.

    `dense` is the cosine. `keyword` is between 0 and 1: BM25 as a share of what a chunk would get that holds all the question says,
    again and again, words that the corpus lacks included; 0 when no word matches.
    """

    chunk: str
    dense: float
    keyword: float
    in_dense: bool
    """Whether it is among the `limit` best of the dense list, and …"""
    in_keyword: bool
    """… of the keyword list."""
    fused: float | None = None
    """The engine's own order, higher first, where it fuses both lists; then it tells of neither list what it held."""
