"""Is it put as people put things? How much of a question's word order is known. It knows no model and no index.

Words of a corpus in no order are near to its passages, and share words with them: neither a cosine nor BM25 tells them from a question.
Their order does. The words of a question stand together elsewhere too, in the passages found for it or in how people ask.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib import resources
from itertools import pairwise

from ragstone.corpus.pairs import words

Pair = tuple[str, str]

SHORT, LONG = 3, 40
"""Words between which the length of a question counts; measured up to 76, and more than 40 change nothing."""


def features(question: str, passages: Iterable[str]) -> tuple[float, float]:
    """The logarithms of the known share of the question's order, and of its words: what a score rests on beside the hit itself."""
    return math.log(known(question, passages)), math.log(min(max(len(words(question)), SHORT), LONG))


def known(question: str, passages: Iterable[str]) -> float:
    """The share of the question's neighbouring words that stand together in a passage, or in several of the shipped questions.

    It is (known + 1) / (pairs + 2), so that the order of two or three words says little.

    >>> known("torque of the bonnet", ["The torque of the bonnet bolts is 12 Nm."])
    0.8
    """
    asked = _pairs(question)
    read = {pair for passage in passages for pair in _pairs(passage)}
    return (sum(pair in read or pair in _common() for pair in asked) + 1) / (len(asked) + 2)


@cache
def questions() -> tuple[str, ...]:
    """Shipped questions, statements and searches of everyday life and many fields, short and long."""
    text = resources.files("ragstone.corpus").joinpath("foreign.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


@cache
def _common() -> frozenset[Pair]:
    """The pairs of more than one shipped question: how people ask, whatever they ask about."""
    counts = Counter(pair for question in questions() for pair in set(_pairs(question)))
    return frozenset(pair for pair, count in counts.items() if count > 1)


def _pairs(text: str) -> list[Pair]:
    return list(pairwise(words(text)))
