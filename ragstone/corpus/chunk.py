"""From a document to its chunks: passages of at most so many words that keep to a heading's section, with exact offsets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

from ragstone.corpus import Chunk, Document, Heading

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]{1,16}")
"""A word for the sake of length: a CJK character, or up to 16 others without a space. So text without spaces, and a key or address of
a thousand characters, count as what an embedding model has to read, not as one word."""

TINY = 4
"""A section of less than a chunk's length divided by this joins its neighbour: a passage of a line or two says too little by itself."""


@dataclass(frozen=True)
class Section:
    """The text from one heading to the next, and the headings that hold it, outermost first."""

    start: int
    end: int
    path: tuple[str, ...]


def chunk(document: Document, words: int) -> list[Chunk]:
    """The passages of the document in order, each at most `words` long; none is empty.

    A passage keeps within its section, except that a tiny section shares one with its sibling, parent or child; the path is then
    what all of them are below.

    >>> found = chunk(Document("a.md", "", "Pump", "# Pump\\n\\nOpen the valve.", (Heading(0, 1, "Pump"),)), 180)
    >>> [(passage.path, passage.start, passage.end) for passage in found]
    [(('Pump',), 0, 23)]
    """
    passages = []
    for section in merge(document.text, sections(document), words):
        for start, end in _split(document.text, section, words):
            text = document.text[start:end]
            passages.append(
                Chunk(
                    identity(document.id, start, text),
                    document.id,
                    document.title,
                    section.path,
                    start,
                    end,
                    text,
                    document.groups,
                    document.metadata,
                )
            )
    return passages


def length(text: str) -> int:
    """How long the text is, in words.

    >>> length("Open the valve."), length("打开阀门"), length("x" * 160)
    (3, 4, 10)
    """
    return sum(1 for _ in WORD.finditer(text))


def identity(document: str, start: int, text: str) -> str:
    """A chunk's id: 20 hex digits of the digest of where it is and what it says."""
    return hashlib.sha256(f"{document}\0{start}\0{text}".encode()).hexdigest()[:20]


def sections(document: Document) -> list[Section]:
    """The document cut at its headings; what stands before the first has no path.

    >>> sections(Document("a.md", "", "", "Intro\\n# A\\n## B\\n", (Heading(6, 1, "A"), Heading(10, 2, "B"))))
    [Section(start=0, end=6, path=()), Section(start=6, end=10, path=('A',)), Section(start=10, end=15, path=('A', 'B'))]
    """
    cuts = [*(heading.start for heading in document.headings), len(document.text)]
    found = [Section(0, cuts[0], ())]
    above: list[Heading] = []
    for heading, end in zip(document.headings, cuts[1:], strict=True):
        above = [*(outer for outer in above if outer.level < heading.level), heading]
        found.append(Section(heading.start, end, tuple(outer.title for outer in above)))
    return [section for section in found if document.text[section.start : section.end].strip()]


def merge(text: str, found: list[Section], words: int) -> list[Section]:
    """The sections, tiny ones joined to their kin as long as both fit into one chunk.

    A heading right above a long child is left out: it is in the child's path.
    """
    groups: list[list[Section]] = []
    sizes: list[int] = []
    for section in found:
        size = length(text[section.start : section.end])
        tiny = bool(groups) and min(size, sizes[-1]) < words / TINY and size + sizes[-1] <= words
        if tiny and _kin(_union(groups[-1]).path, section.path):
            groups[-1].append(section)
            sizes[-1] += size
            continue
        if groups and _is_heading_of(text, _union(groups[-1]), section):
            groups.pop()
            sizes.pop()
        groups.append([section])
        sizes.append(size)
    return [_union(group) for group in groups]


def _union(group: list[Section]) -> Section:
    """One section for all. A parent and its only child go under the child's path, which names both; siblings under what they share."""
    path = group[-1].path
    if len(group) != 2 or group[0].path != path[: len(group[0].path)]:
        path = reduce(_common, (section.path for section in group))
    return Section(group[0].start, group[-1].end, path)


def _kin(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two sections are siblings, or parent and child."""
    return len(_common(one, other)) >= max(len(one), len(other)) - 1


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return one[:shared]


def _is_heading_of(text: str, parent: Section, child: Section) -> bool:
    """Whether the parent is a heading and nothing else, and the child is below it."""
    lines = [line for line in text[parent.start : parent.end].splitlines() if re.search(r"\w", line)]
    return len(lines) == 1 and bool(parent.path) and child.path[:-1] == parent.path


def _split(text: str, section: Section, words: int) -> Iterator[tuple[int, int]]:
    """Offsets of the section's passages, without the white space around them and without those that hold no word."""
    body = text[section.start : section.end]
    spans = [(0, len(body))] if length(body) <= words else _joined(body, _chunker(words)(body), words)
    for start, end in spans:
        passage = body[start:end]
        if re.search(r"\w", passage):
            left = start + len(passage) - len(passage.lstrip())
            yield section.start + left, section.start + left + len(passage.strip())


def _joined(text: str, spans: list[tuple[int, int]], words: int) -> list[tuple[int, int]]:
    """The spans, tiny ones joined to a neighbour if both fit: the splitter may leave a line by itself between two paragraphs."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        first = joined[-1][0] if joined else 0
        tiny = bool(joined) and min(length(text[start:end]), length(text[slice(*joined[-1])])) < words / TINY
        if tiny and length(text[first:end]) <= words:
            joined[-1] = first, end
        else:
            joined.append((start, end))
    return joined


@cache
def _chunker(words: int) -> Callable[[str], list[tuple[int, int]]]:
    import semchunk

    library: Any = semchunk
    split = library.chunkerify(length, words, memoize=False)

    def spans(text: str) -> list[tuple[int, int]]:
        _, offsets = split(text, offsets=True)
        return list(offsets)

    return spans
