"""What a model reads of a chunk: the whole, then windows of it. It knows nothing of models.

A vector of 180 words speaks of what they have in common; a question asks for one thing in them. Windows keep that thing, also past the
tokens where a model stops reading. `Embedder.passages` makes one vector of all views.
"""

from __future__ import annotations

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
    spans = [match.span() for match in WORD.finditer(chunk.text)]
    if len(spans) <= WINDOW:
        return [chunk.context]
    head = chunk.context.removesuffix(chunk.text)
    starts = range(0, len(spans) - (WINDOW - STEP), STEP)
    return [chunk.context, *(head + chunk.text[spans[at][0] : spans[min(at + WINDOW, len(spans)) - 1][1]] for at in starts)]
