"""The sentences of the evidence that best match a question, word for word: the answer when a generator's words can't be vouched for."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ragstone.sentences import Unit, sentences
from ragstone.words import content

WORDS = 70
"""About how many words are quoted in all."""
QUOTES = 3
CLOSE = 0.75
"""A further quotation must match at least this share as well as the best."""
RANK = 0.9
"""What a match is worth in each further passage: they come best first."""

OPENING = 0.1
"""Bonus of a passage's first sentence, where a full match of words counts 1 and of meaning 1."""
MARK = re.compile(r"\[\d{1,3}\]")
"""A bracketed number in the source, which would be taken for a citation."""
UNSAYABLE = re.compile(r"[|>#]|[-=*_~]{3}")
"""Beginnings of table rows, prompts, headings and rules."""
Place = tuple[int, list[Unit], int]
"""A sentence: its passage's number, that passage's sentences, and which of them it is."""
Similar = Callable[[str, Sequence[str]], Sequence[float]]
"""How near each sentence is to the question in meaning, from -1 to 1."""


@dataclass(frozen=True)
class Quote:
    """`passages[passage][start:end]`, as it stands."""

    passage: int
    start: int
    end: int


def quotes(question: str, passages: Sequence[str], similar: Similar | None = None) -> list[Quote]:
    """The best quotations, at least one while any passage has text; in the order of the passages, neighbours joined.

    >>> quotes("When does pump B stop?", ["Pump A hums. Pump B stops at 6 bar."])
    [Quote(passage=0, start=13, end=35)]
    """
    found = [(passage, units, i) for passage, text in enumerate(passages) for units in [sentences(text)] for i in range(len(units))]
    asked = {word.stem for word in content(question)}
    found = _distinct([one for one in found if _says_something(one[1], one[2], asked)] or found)
    texts = [units[i].text for _, units, i in found]
    nearness = similar(question, texts) if similar and texts else [0.0] * len(texts)
    matches = [match + near + opens for match, near, opens in zip(_matches(asked, texts), nearness, _openings(found), strict=True)]
    ranked = sorted(((value * RANK**found[k][0], k) for k, value in enumerate(matches)), key=lambda pair: (-pair[0], pair[1]))
    chosen: list[Quote] = []
    for value, k in ranked[:QUOTES]:
        length = sum(len(passages[quote.passage][quote.start : quote.end].split()) for quote in chosen)
        if chosen and (value < CLOSE * ranked[0][0] or length + len(texts[k].split()) > WORDS):
            break
        passage, units, i = found[k]
        chosen.append(Quote(passage, units[i].start, _whole(units, i)))
    return _joined(sorted(chosen, key=lambda quote: (quote.passage, quote.start)), passages)


def _distinct(found: list[Place]) -> list[Place]:
    """Without the sentences that an earlier passage has word for word."""
    first: dict[str, Place] = {}
    for place in found:
        first.setdefault(" ".join(place[1][place[2]].text.split()), place)
    return list(first.values())


def _matches(asked: set[str], texts: Sequence[str]) -> list[float]:
    """The share of the question's words in each text, the rarer the heavier."""
    stems = [{word.stem for word in content(text)} for text in texts]
    counts = Counter(stem for found in stems for stem in found & asked)
    weights = {stem: math.log(1 + len(texts) / counts[stem]) if counts[stem] else 0.5 for stem in asked}
    total = sum(weights.values()) or 1.0
    return [sum(weights[stem] for stem in found & asked) / total for found in stems]


def _openings(found: Sequence[Place]) -> list[float]:
    """What stands first in its passage says most often what a thing is."""
    before = [None, *(passage for passage, _, _ in found)]
    return [OPENING if passage != last else 0.0 for (passage, _, _), last in zip(found, before, strict=False)]


def _says_something(units: Sequence[Unit], i: int, asked: set[str]) -> bool:
    """A sentence of some length that says more than the question: not a heading, a table row or a broken-off piece."""
    text = units[i].text
    ends = text[-1:] in ".!?。！？”\"')" or _leads_to_code(units, i)
    return units[i].kind != "code" and ends and not UNSAYABLE.match(text) and not MARK.search(text) and _news(units[i], asked)


def _news(unit: Unit, asked: set[str]) -> bool:
    said = {word.stem for word in content(unit.text)}
    return len(said) >= 3 and not said <= asked


def _leads_to_code(units: Sequence[Unit], i: int) -> bool:
    return units[i].text.endswith(":") and i + 1 < len(units) and units[i + 1].kind == "code"


def _whole(units: Sequence[Unit], i: int) -> int:
    """Where the quotation ends: with the code block that the sentence leads to, if it does."""
    return units[i + 1].end if _leads_to_code(units, i) else units[i].end


def _joined(chosen: Sequence[Quote], passages: Sequence[str]) -> list[Quote]:
    joined: list[Quote] = []
    for quote in chosen:
        last = joined[-1] if joined else None
        if last and last.passage == quote.passage and not passages[quote.passage][last.end : quote.start].strip():
            joined[-1] = Quote(last.passage, last.start, max(last.end, quote.end))
        else:
            joined.append(quote)
    return joined
