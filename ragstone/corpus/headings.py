"""Headings of plain text: where they start, their level and their words. Markdown and reStructuredText; offsets index into the text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ragstone.corpus import Heading

Line = tuple[int, str]
"""Where a line starts in the text, and the line without its end."""

ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*")
SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*")
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
BLOCK = re.compile(r" {0,3}(?:[-*+>|]|\d+[.)]\s)|\s{4}|\t")
"""The start of a line that is a list, quote, table or code block: no heading, also when underlined."""
ADORNED = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*")
"""A line of one repeated punctuation character: reStructuredText's underlines and overlines."""
FRONT = re.compile(r"---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


def markdown(text: str) -> tuple[Heading, ...]:
    """The ATX and setext headings outside code and front matter.

    >>> markdown("# Pump\\n\\nHow it runs\\n-----------\\n")
    (Heading(start=0, level=1, title='Pump'), Heading(start=8, level=2, title='How it runs'))
    """
    return tuple(_markdown(text))


def front_matter(text: str) -> tuple[int, dict[str, str]]:
    """Where the body starts, and the simple `key: value` lines above it (none: 0 and nothing).

    >>> front_matter("---\\ntitle: 'Pump'\\n---\\nBody")
    (22, {'title': 'Pump'})
    """
    match = FRONT.match(text)
    if not match:
        return 0, {}
    pairs = re.findall(r"^(\w[\w-]*):[ \t]*(.+?)[ \t]*$", match[1], re.MULTILINE)
    return match.end(), {key.lower(): value.strip("'\"") for key, value in pairs}


def restructured(text: str) -> tuple[Heading, ...]:
    """The underlined titles; levels in the order in which their adornments first appear.

    >>> restructured("Pump\\n====\\n\\nStart\\n-----\\n")
    (Heading(start=0, level=1, title='Pump'), Heading(start=11, level=2, title='Start'))
    """
    lines = list(_lines(text))
    seen: list[tuple[str, bool]] = []
    found = []
    for number in range(1, len(lines)):
        start, title = lines[number - 1]
        under = lines[number][1].rstrip()
        if not title.strip() or not ADORNED.fullmatch(under) or ADORNED.fullmatch(title) or len(under) < len(title.rstrip()):
            continue
        over = number > 1 and lines[number - 2][1].rstrip() == under
        if not over and (title[0].isspace() or (number > 1 and lines[number - 2][1].strip())):
            continue
        style = (under[0], over)
        if style not in seen:
            seen.append(style)
        found.append(Heading(lines[number - 2][0] if over else start, seen.index(style) + 1, title.strip()))
    return tuple(found)


def _markdown(text: str) -> Iterator[Heading]:
    body, _ = front_matter(text)
    fence = open_ended = ""
    before: list[Line] = [(body, ""), (body, "")]
    for start, line in _lines(text, body):
        opened = FENCE.match(line)
        if fence:
            closed = opened and opened[1][0] == fence[0] and len(opened[1]) >= len(fence) and not line[opened.end() :].strip()
            fence = "" if closed else fence
            line = ""
        elif opened and opened[1][0] not in open_ended:
            fence = opened[1]
            if not re.compile(rf"^ {{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*$", re.MULTILINE).search(text, start + len(line)):
                open_ended += fence[0]  # one forgotten end must not cost all headings after it
                fence = ""
            line = ""
        elif (match := ATX.fullmatch(line)) and _words(match[2] or ""):
            yield Heading(start, len(match[1]), _words(match[2]))
            line = ""
        elif (under := SETEXT.fullmatch(line)) and _underlined(before):
            yield Heading(before[1][0], 1 if under[1][0] == "=" else 2, _words(before[1][1]))
            line = ""
        before = [before[1], (start, line)]


def _underlined(before: list[Line]) -> bool:
    """Whether the line above is a one-line paragraph: text with a blank line over it."""
    return not before[0][1].strip() and bool(before[1][1].strip()) and not BLOCK.match(before[1][1])


def _words(title: str) -> str:
    """The title without its inline markup. Underscores stay: they are more often a name's than an emphasis.

    >>> _words("The `spam` **module** [docs](x.html) of __init__")
    'The spam module docs of __init__'
    """
    title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
    title = re.sub(r"\*\*(?=\S)(.+?)(?<=\S)\*\*", r"\1", title)
    title = re.sub(r"(?<![\w*])\*(?=\S)(.+?)(?<=\S)\*(?![\w*])", r"\1", title)
    return " ".join(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", title.replace("`", "")).split())


def _lines(text: str, start: int = 0) -> Iterator[Line]:
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield start, text[start:end]
        start = end + 1
