"""Keywords: what a question and a chunk are compared by in words, and how rare they are. Every index scores them by the same rule.

The score is BM25 (k1 1.2, b 0.75) over stems and pairs of stems, as a share of its ceiling: what a chunk would get that holds all of
the question's, again and again. `docs/retrieve.md` has why.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

MAX_TERMS = 256
"""Distinct words of a question that are searched; a longer one is a pasted text, of which the most repeated words are taken."""

Terms = Mapping[tuple[str, str], float]
"""Field (`WORDS` or `PAIRS`) and term -> weight."""

WORDS, PAIRS = "text", "pairs"


def pairs(stems: Sequence[str]) -> list[str]:
    """Every two stems in a row, as one term."""
    return list(map("_".join, itertools.pairwise(stems)))


def asked(stems: Sequence[str], bigram_weight: float) -> Terms:
    """The stems and the pairs of a question with their weights: how often each is there, a pair's times `bigram_weight`."""
    words, two = (Counter(dict(Counter(terms).most_common(MAX_TERMS))) for terms in (stems, pairs(stems)))
    weights = {(WORDS, word): float(count) for word, count in words.items()}
    return weights | {(PAIRS, pair): bigram_weight * count for pair, count in two.items() if bigram_weight}


def rarity(chunks: int, having: int) -> float:
    """The inverse document frequency of a term that `having` of the `chunks` have, as Lucene and tantivy define it."""
    return math.log1p((chunks - having + 0.5) / (having + 0.5))
