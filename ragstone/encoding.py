"""From the chunks of a snapshot to the vectors of a draft, part by part: what an index knows is taken from it, the rest is encoded.

It knows no store and no place of indexes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ragstone.corpus import Chunk
from ragstone.corpus.views import views
from ragstone.draft import Draft, Progress
from ragstone.errors import IndexingError
from ragstone.index import Index
from ragstone.show import Advance

FIRST, MOST = 1024, 32_768
"""Chunks of the first part, and of a part at most: their texts and vectors are in memory at a time, about 150 MB."""
LONG = 30.0
"""Seconds after which parts do not grow any more: what a kill costs. Short ones would cost workers that start for each."""

Vector = NDArray[np.float32]
Encode = Callable[[Sequence[Sequence[str]], Callable[[int], None]], Sequence[Vector]]
"""The vector of each chunk from its views; it tells how many views are done."""


class Known:
    """The vectors of an index that is there already. One that fails is asked no more: its chunks must not stay out of another."""

    def __init__(self, index: Index | None) -> None:
        self._index = index

    def __call__(self, chunks: Sequence[Chunk]) -> Mapping[str, Vector]:
        """Those that it has, by chunk id."""
        if self._index is None:
            return {}
        try:
            return self._index.encoded(chunks)
        except IndexingError:
            self.close()
            return {}

    def close(self) -> None:
        """Let the index go."""
        if self._index is not None:
            self._index.close()
        self._index = None


class ByRow:
    """The vectors that an index knows, by the row of a chunk. Rows are asked for in order: those of one part are held."""

    def __init__(self, chunks: Sequence[Chunk], known: Known) -> None:
        self._chunks, self._known = chunks, known
        self._rows, self._vectors = range(0), list[Vector | None]()
        self.fresh = 0
        """How many rows without a vector were asked for."""

    def __call__(self, row: int) -> Vector | None:
        if row not in self._rows:
            part = self._chunks[row : row + FIRST]
            found = self._known(part)
            self._rows, self._vectors = range(row, row + len(part)), [found.get(chunk.id) for chunk in part]
        vector = self._vectors[row - self._rows.start]
        self.fresh += vector is None
        return vector


def fill(draft: Draft, chunks: Sequence[Chunk], known: Known, encode: Encode, told: Progress, advance: Advance) -> int:
    """How many chunks were encoded until the draft has a row for each, in their order. It begins where the draft ends."""
    fresh, size, pace = 0, FIRST, _Pace(len(draft), len(chunks), advance)
    while len(draft) < len(chunks):
        began, part = time.monotonic(), chunks[len(draft) : len(draft) + size]
        rows, encoded = _rows(part, known, encode, pace.within(len(draft), len(part)))
        draft.add(rows)
        fresh += encoded
        draft.tell(replace(told, encoded=len(draft), rate=round(pace.tell(len(draft)), 1)))
        if time.monotonic() - began < LONG:
            size = min(2 * size, MOST)
    return fresh


def _rows(part: Sequence[Chunk], known: Known, encode: Encode, tell: Callable[[float], None]) -> tuple[NDArray[np.float32], int]:
    """A row for each chunk, and how many of them were encoded. `tell` hears which share of the work is done."""
    found = dict(known(part))
    fresh = [chunk for chunk in part if chunk.id not in found]
    seen = [views(chunk) for chunk in fresh]
    whole = sum(map(len, seen))
    encoded = encode(seen, lambda done: tell(done / whole)) if fresh else ()
    found |= {chunk.id: vector for chunk, vector in zip(fresh, encoded, strict=True)}
    return np.stack([found[chunk.id] for chunk in part]), len(fresh)


class _Pace:
    """What the bar shows: chunks a second since this process began, and the time left at that pace.

    Chunks come in the order of their ids, which are digests, so what is known already is spread evenly.
    """

    def __init__(self, before: int, total: int, advance: Advance) -> None:
        self._before, self._total, self._advance = before, total, advance
        self._began = time.monotonic()
        advance(before, total)

    def within(self, start: int, many: int) -> Callable[[float], None]:
        """What tells which share of the `many` chunks from `start` on is done."""

        def tell(share: float) -> None:
            self.tell(start + share * many)

        return tell

    def tell(self, done: float) -> float:
        """The pace, which the bar shows now."""
        pace = (done - self._before) / max(time.monotonic() - self._began, 0.001)
        left = (self._total - done) / pace if pace else None
        self._advance(int(done), self._total, f"{pace:.0f} docs/s" if pace >= 10 else f"{pace:.1f} docs/s", left)
        return pace
