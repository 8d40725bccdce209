"""A text as keyword search reads it: English stems in lower case, in their order."""

from __future__ import annotations

from typing import Any

STOP_WORDS = frozenset(
    """a about also am an and any are as at be been but by can could did do does for from had has have how i if in into is it its my no not
    of on or our than that the their then there these they this to was we were what when where which who whom whose why will with would
    you your""".split()  # noqa: SIM905  a list of words reads better as prose
)
"""What keyword search leaves out, in a chunk and in a question: grammar, and the words that questions are put in."""


def analyser() -> Any:
    """A new tantivy analyser; its `analyze(text)` gives the stems. A text is split at all that is neither a letter nor a digit."""
    from tantivy import Filter, TextAnalyzerBuilder, Tokenizer

    builder = TextAnalyzerBuilder(Tokenizer.simple()).filter(Filter.remove_long(60)).filter(Filter.lowercase())
    return builder.filter(Filter.custom_stopword(sorted(STOP_WORDS))).filter(Filter.stemmer("english")).build()
