"""A text as keyword search reads it: English stems in lower case, in their order, and pairs of characters where no spaces are written."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from ragstone.words import WIDE

STOP_WORDS = frozenset(
    """a about also am an and any are as at be been but by can could did do does for from had has have how i if in into is it its my no not
    of on or our than that the their then there these they this to was we were what when where which who whom whose why will with would
    you your""".split()  # noqa: SIM905  a list of words reads better as prose
)
"""What keyword search leaves out, in a chunk and in a question: grammar, and the words that questions are put in."""


class Analyser:
    """Gives the stems of a text, which is split at all that is neither a letter nor a digit."""

    def __init__(self) -> None:
        from tantivy import Filter, TextAnalyzerBuilder, Tokenizer

        builder = TextAnalyzerBuilder(Tokenizer.simple()).filter(Filter.remove_long(60)).filter(Filter.lowercase())
        builder = builder.filter(Filter.custom_stopword(sorted(STOP_WORDS))).filter(Filter.stemmer("english"))
        self._tantivy: Any = builder.build()

    def analyze(self, text: str) -> list[str]:
        """The stems.

        >>> Analyser().analyze("The pumps of 离心泵 stopped")
        ['pump', '离心', '心泵', 'stop']
        """
        stems: list[str] = self._tantivy.analyze(spaced(text))
        return stems


def spaced(text: str) -> str:
    """The text with each run of Chinese, Japanese or Korean characters as its pairs of neighbours, which stand for words there.

    >>> spaced("Python语言的 泵")
    'Python 语言 言的   泵 '
    """
    return text if text.isascii() else WIDE.sub(_pairs, text)


def _pairs(run: re.Match[str]) -> str:
    return f" {' '.join(map(''.join, pairwise(run[0]))) or run[0]} "
