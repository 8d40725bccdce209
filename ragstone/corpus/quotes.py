"""Where quoted passages lie in the corpus. It compares words, so white space, case and punctuation may differ; it knows no labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from ragstone.corpus import Chunk
from ragstone.corpus.pairs import words

SIZE = 4
"""Words that are compared at a time: long enough that two passages seldom share one by chance."""
WHOLE = 0.8
"""A chunk holds a quote, or lies in one, when so much of the shorter is in the other …"""
LEAST = 0.5
"""… and, where no chunk does, the best one is taken if it has so much of the quote: the rest may be in its neighbour."""

Runs = frozenset[tuple[str, ...]]


def find(quotes: Iterable[str], chunks: Sequence[Chunk]) -> dict[str, tuple[str, ...]]:
    """The ids of the chunks that hold each quote or lie in it, in the corpus's order; a quote that is nowhere is left out.

    Several are found when the corpus says the same in several places, or when the quote is longer than a chunk.
    """
    wanted = {quote: found for quote in quotes if (found := runs(quote))}
    owners: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for quote, its in wanted.items():
        for run in its:
            owners[run].append(quote)
    whole: defaultdict[str, list[str]] = defaultdict(list)
    best: dict[str, tuple[float, str]] = {}
    for chunk in chunks:
        own = runs(chunk.text)
        for quote, shared in Counter(quote for run in own for quote in owners.get(run, ())).items():
            held = shared / len(wanted[quote])
            if held >= WHOLE or (shared >= SIZE and shared >= WHOLE * len(own)):
                whole[quote].append(chunk.id)
            elif held > best.get(quote, (LEAST, ""))[0]:
                best[quote] = held, chunk.id
    return {quote: tuple(whole[quote]) or (best[quote][1],) for quote in wanted if whole.get(quote) or quote in best}


def runs(text: str) -> Runs:
    """Every row of four words in the text, lower case; of a shorter text the one row that it is.

    >>> sorted(runs("Open the drain valve slowly."))
    [('open', 'the', 'drain', 'valve'), ('the', 'drain', 'valve', 'slowly')]
    """
    said = words(text)
    return frozenset(tuple(said[at : at + SIZE]) for at in range(max(1, len(said) - SIZE + 1))) if said else frozenset()
