"""What a model reads of a chunk: the whole, then windows of it. It knows nothing of models.

A vector of 180 words speaks of what they have in common; a question asks for one thing in them. Windows keep that thing, also past the
tokens where a model stops reading. `Embedder.passages` makes one vector of all views.
"""

from __future__ import annotations

import json

from ragstone.corpus import Chunk
from ragstone.corpus.chunk import WORD

WINDOW, STEP = 60, 40
"""Words of a window, and from the start of one to the next."""


def views(chunk: Chunk) -> list[str]:
    """The chunk's context, then its windows under the same title and headings; no windows for a chunk that is not longer than one.

    >>> long = Chunk("", "", "Pump", (), 0, 0, " ".join(map(str, range(100))))
    >>> [(view.split()[0], view.split()[1], view.split()[-1]) for view in views(long)]
    [('Pump', '0', '99'), ('Pump', '0', '59'), ('Pump', '40', '99')]
    """
    return _views(_head(chunk), chunk.text)


def passage(chunk: Chunk) -> str:
    """The chunk as one text, for an engine that asks for its vector: `of_passage` makes the same views of it.

    >>> passage(Chunk("", "", "Pump", (), 0, 0, "Prime it."))
    '["Pump\\\\n", "Prime it."]'
    """
    return json.dumps([_head(chunk), chunk.text], ensure_ascii=False)


def of_passage(passage: str) -> list[str]:
    """The views of the chunk that `passage` was made of. Raises `ValueError` on any other text.

    >>> of_passage('["Pump\\\\n", "Prime it."]')
    ['Pump\\nPrime it.']
    """
    parts = json.loads(passage)
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts) or not parts[1]:
        raise ValueError("not a title with headings, and a text")
    return _views(*parts)


def as_passage(text: str) -> str:
    """`text` where a chunk was made into it; else the same of a chunk that has neither title nor headings.

    >>> as_passage("Prime it."), as_passage('["Pump ", "Prime it."]')
    ('["", "Prime it."]', '["Pump ", "Prime it."]')
    """
    try:
        of_passage(text)
    except ValueError:
        return json.dumps(["", text], ensure_ascii=False)
    return text


def _head(chunk: Chunk) -> str:
    """What stands above the text in the chunk's context."""
    return chunk.context.removesuffix(chunk.text)


def _views(head: str, text: str) -> list[str]:
    spans = [match.span() for match in WORD.finditer(text)]
    if len(spans) <= WINDOW:
        return [head + text]
    starts = range(0, len(spans) - (WINDOW - STEP), STEP)
    return [head + text, *(head + text[spans[at][0] : spans[min(at + WINDOW, len(spans)) - 1][1]] for at in starts)]
