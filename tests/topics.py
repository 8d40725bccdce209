"""A corpus that every Python carries: the topics of `help()`, about 80 documents, chunked."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from pydoc_data import topics as source

from ragstone.corpus import Chunk, Document, Heading
from ragstone.corpus.chunk import chunk

UNDERLINED = re.compile(r"^(\S[^\n]*)\n([*=~-])\2{2,}$", re.MULTILINE)
LEVELS = "*=-~"


@cache
def topics() -> tuple[Chunk, ...]:
    """The chunks of all topics."""
    return tuple(passage for name, text in sorted(source.topics.items()) for passage in chunk(_document(name, text), 180))


def flood(folder: Path, count: int = 400) -> None:
    """So many text files, no two alike: what reads and encodes them is busy for a while."""
    folder.mkdir()
    named = sorted(source.topics.items())
    for row in range(count):
        name, text = named[row % len(named)]
        (folder / f"{name}-{row}.txt").write_text(f"Edition {row}\n\n{text}")


def _document(name: str, text: str) -> Document:
    headings = tuple(Heading(match.start(), LEVELS.index(match.group(2)) + 1, match.group(1)) for match in UNDERLINED.finditer(text))
    return Document(f"{name}.txt", "", headings[0].title if headings else name, text, headings)
