"""Text cut into sentences, list items, headings, table rows and code blocks, also while it is still being written.

Where a sentence ends depends on at most `AHEAD` characters after it, so a text that comes piece by piece is cut as the whole text is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["prose", "heading", "code"]

AHEAD = 16
"""Characters to see after a possible end before it is one: enough for a citation mark, a list bullet or a code fence."""
FENCE = "```"
BLOCK = r"(?:[-*+•]\s|\d{1,3}[.)]\s|#{1,6}\s|\||>|```)"
"""How a line begins that is a unit of its own."""
LINE_BLOCK = re.compile(rf"[ \t]*{BLOCK}")
END = re.compile(r"(?:(?<!\d)\.|(?<=\d)\.(?!\d)|[!?])+[\"'”’)\]*`]*(?=\s|$)|[。！？]+[”’」』）\"]*|\n")
MARKS = re.compile(r"(?:[ \t]*\[\d{1,3}(?:\s*,\s*\d{1,3})*\])+\.?")
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|Dr|Mr|Mrs|Ms|Prof|St|Nos?|Figs?|Eq|Sec|Vol|approx|resp|incl|ca|al|Inc|Ltd|Co)|\b[A-Z])\.$"
)
COUNTER = re.compile(r"(?:^|\n)[ \t]*\d{1,3}\.$")


@dataclass(frozen=True)
class Unit:
    """A sentence, list item, heading or code block: `text == whole[start:end]`, without white space at either end."""

    start: int
    end: int
    text: str
    kind: Kind = "prose"


def sentences(text: str) -> list[Unit]:
    """The units of a whole text, in order.

    >>> [unit.text for unit in sentences("It runs, e.g. on Linux. Does it? Yes [1]. ")]
    ['It runs, e.g. on Linux.', 'Does it?', 'Yes [1].']
    """
    return list(_units(text, 0, whole=True))


class Reader:
    """Cuts a text that comes in pieces; the units are those of `sentences` on the whole text."""

    def __init__(self) -> None:
        self.text = ""
        self._seen = 0

    def feed(self, piece: str) -> list[Unit]:
        """The units that this piece shows to be complete."""
        self.text += piece
        return self._take(whole=False)

    def end(self) -> list[Unit]:
        """What is left, once the text is over."""
        return self._take(whole=True)

    @property
    def open(self) -> int:
        """How many characters have come since the last complete unit."""
        return len(self.text) - self._seen

    def _take(self, whole: bool) -> list[Unit]:
        units = list(_units(self.text, self._seen, whole))
        self._seen = units[-1].end if units else self._seen
        return units


def _units(text: str, position: int, whole: bool) -> Iterator[Unit]:
    while True:
        begin = re.compile(r"\s*").match(text, position).end()  # type: ignore[union-attr]  # it matches the empty text
        if begin == len(text) or (not whole and len(text) - begin < AHEAD):
            return
        end = _code_end(text, begin, whole) if text.startswith(FENCE, begin) else _prose_end(text, begin, whole)
        if end is None:
            return
        unit = text[begin:end].rstrip()
        yield Unit(begin, begin + len(unit), unit, _kind(unit))
        position = begin + len(unit)


def _code_end(text: str, begin: int, whole: bool) -> int | None:
    """The end of the line that closes the code block; a block that is never closed ends with the text."""
    closing = re.compile(r"\n[ \t]*```[^\n]*(\n|$)").search(text, begin)
    if closing and (closing[1] or whole):
        return closing.end()
    return len(text) if whole else None


def _prose_end(text: str, begin: int, whole: bool) -> int | None:
    for match in END.finditer(text, begin):
        end = match.end()
        if not whole and len(text) - end < AHEAD:
            return None
        if text[match.start()] == "\n":
            if _breaks(text, begin, end):
                return match.start()
            continue
        marks = MARKS.match(text, end)
        while marks and marks.end() > end:
            end = marks.end()
            if not whole and len(text) - end < AHEAD:
                return None
            marks = MARKS.match(text, end)
        if _ends(text, begin, match.end(), end):
            return end
    return len(text) if whole else None


def _breaks(text: str, begin: int, after: int) -> bool:
    """Whether the line break before `after` ends the unit: a blank line, a new block, or the end of a heading, lead-in or table row."""
    following = text[after : after + AHEAD].lstrip(" \t\r")
    ends = text[begin] in "#|" or text[after - 2] in ":：" or following[:1] in ("", "\n")
    return ends or bool(LINE_BLOCK.match(following))


def _ends(text: str, begin: int, stop: int, after: int) -> bool:
    """Whether the stop that ends at `stop` ends a sentence, given the text after it and its citation marks."""
    before = text[begin:stop]
    if before.endswith(".") and (ABBREVIATION.search(before[-12:]) or COUNTER.search(before[-12:])):
        return False
    following = text[after : after + AHEAD].lstrip()
    return not (following[:1].islower() and text[stop - 1] not in "。！？")


def _kind(unit: str) -> Kind:
    if unit.startswith(FENCE):
        return "code"
    one_line = "\n" not in unit
    return "heading" if one_line and (unit.startswith("#") or unit.endswith((":", "：", ":**"))) else "prose"
