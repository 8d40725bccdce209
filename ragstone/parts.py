"""A batch encoded in parts, so that a training step keeps to a memory bound, with the gradients that it has as a whole.

What a part leaves behind for the backward pass is kept as long as there is room. The other parts leave nothing: once the gradient at
their vectors is known they are encoded again, one at a time (gradient caching, arXiv 2101.06983), and drop out the same units, as their
random state is restored. PyTorch's checkpoints do both. It knows nothing of the loss.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from ragstone.encoder import Encoder

ROWS = 8
"""Texts in a part on the CPU. Which parts there are does not depend on the bound as long as so many fit: only which are kept does."""

WIDTH = 16
"""Parts are padded to a multiple of this many tokens: of each width, what a text takes is measured once, and oneDNN plans its products
once. A step took 5.6 s of CPU then, 7.4 without, and 8.0 as a whole (MiniLM, 32 pairs, one thread, one run each)."""


FLOOR = int(0.75 * 2**30)
SPARE = 1.1
"""What MiniLM's first steps added to a process whose room was 0, and to one with room, over that room (peak resident memory; bfloat16, 32
pairs, a hard negative each, texts of 128 tokens): 1.07 GiB with a room of 0, 1.78 with 1, 2.5 to 2.7 with the 1.8 that all would take. A
token is 220 KiB of it (270 in float32), a short text's 130."""

GROWTH = FLOOR / 3
"""Bytes that a process grows by before it gives back again: what is in use stays, and asking before each part takes long."""

FREE = 0.7
"""The share of a GPU's free memory that is planned with: chosen to be careful, measured on none."""

STATES = 4
"""Gradients, AdamW's two moments, and the best weights so far: each as large as what is trained."""

RESIDENT = 2**30
"""Bytes that a process is taken to hold where the system does not say."""


def room(memory: float, device: torch.device, trained: Sequence[Tensor]) -> int:
    """Bytes for what the backward pass needs, when the process may take `memory` GiB in all; on a GPU, of what is free there."""
    states = STATES * sum(weight.nbytes for weight in trained)
    if device.type == "cuda":
        return int((torch.cuda.mem_get_info(device)[0] - states) * FREE)
    return int((memory * 2**30 - trim() - FLOOR - states) / SPARE)


def trim() -> int:
    """Give freed memory back to the system; the bytes that the process still holds.

    glibc keeps it for later, in holes that texts of other lengths do not fit: eight steps under a bound of 4 GiB came to 4.6.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    return _resident()


def _resident() -> int:
    """Bytes of memory that this process holds, as far as the system says."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return RESIDENT


@dataclass(frozen=True)
class _Part:
    """Some texts of one list, of like length."""

    rows: Tensor
    ids: Tensor
    mask: Tensor
    size: int
    """Bytes that the backward pass needs of it."""


class Parts:
    """An encoder that takes no more than `room` bytes for what the backward pass needs, or what one text takes.

    Where the process may take `memory` GiB, the room of a batch is what is left of them by then: the libraries' own caches grow during a
    run. A process that comes near to the bound gives back what is free before each part.
    """

    def __init__(self, encoder: Encoder, room: int, memory: float = math.inf) -> None:
        self.encoder, self.room = encoder, room
        self._bound = self._limit = memory * 2**30 - FLOOR
        self._sizes: dict[int, int] = {}

    def encode(self, *asked: tuple[Sequence[str], int]) -> list[Tensor]:
        """The vectors of each list of texts, cut to so many tokens. Without gradients nothing is dropped out.

        The longest list comes first: the parts that are encoded last are kept, as the backward pass is done with them first.
        """
        lists = [list(self._split(texts, tokens)) for texts, tokens in asked]
        left, kept = self._left(), set[int]()
        for part in (part for parts in reversed(lists) for part in reversed(parts)):
            left -= part.size
            if left >= 0:
                kept.add(id(part))
        return [self._joined([self._vectors(part, id(part) in kept) for part in parts], parts) for parts in lists]

    def _left(self) -> int:
        """Bytes that this batch may keep for the backward pass."""
        if self._bound == math.inf or not torch.is_grad_enabled() or self.encoder.device.type == "cuda":
            return self.room
        return min(self.room, int((self._bound - self._held()) / SPARE))

    def _held(self) -> int:
        """Bytes that the process holds, what is free given back."""
        held = trim()
        self._limit = max(self._bound, held + GROWTH)
        return held

    def _split(self, texts: Sequence[str], tokens: int) -> Iterator[_Part]:
        """The parts of a list, the longest texts first, so that little is padded."""
        if not texts:
            return
        ids, mask = self.encoder.read(texts, tokens)
        lengths, order = mask.sum(1).cpu().sort(descending=True, stable=True)
        start = 0
        while start < len(texts):
            width = min(-(-int(lengths[start]) // WIDTH) * WIDTH, ids.shape[1])
            size = self._size(width)
            rows = order[start : start + self._most(size)]
            yield _Part(rows, ids[rows, :width], mask[rows, :width], size * len(rows))
            start += len(rows)

    def _most(self, size: int) -> int:
        """How many texts of this size make a part. A GPU is fastest with as many as there is room for."""
        fitting = max(1, self.room // max(1, size))
        return fitting if self.encoder.device.type == "cuda" else min(ROWS, fitting)

    def _vectors(self, part: _Part, kept: bool) -> Tensor:
        if kept or not torch.is_grad_enabled():
            return self._encoded(part.ids, part.mask)
        found: Tensor = checkpoint(self._encoded, part.ids, part.mask, use_reentrant=False)
        return found

    def _encoded(self, ids: Tensor, mask: Tensor) -> Tensor:
        if _resident() > self._limit:
            self._held()
        return self.encoder.vectors(ids, mask, self.encoder.dropout if torch.is_grad_enabled() else 0.0)

    def _joined(self, vectors: Sequence[Tensor], parts: Sequence[_Part]) -> Tensor:
        """The vectors in the order of their texts."""
        if not parts:
            return torch.zeros((0, self.encoder.card.dimensions), device=self.encoder.device)
        return torch.cat(list(vectors))[torch.cat([part.rows for part in parts]).argsort().to(self.encoder.device)]

    def _size(self, width: int) -> int:
        """Bytes that the backward pass needs of a text of so many tokens: what a second one adds to the first."""
        if not torch.is_grad_enabled():
            return 0
        if width not in self._sizes:
            devices = [self.encoder.device] if self.encoder.device.type == "cuda" else []
            with torch.random.fork_rng(devices):  # a resumed run measures again
                self._sizes[width] = self._saved(2, width) - self._saved(1, width)
        return self._sizes[width]

    def _saved(self, texts: int, tokens: int) -> int:
        """Bytes that the backward pass needs of so many texts of so many tokens, with what it needs of the weights."""
        ids = torch.zeros((texts, tokens), dtype=torch.long, device=self.encoder.device)
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # an operation that keeps its own result would keep itself alive

        with saved_tensors_hooks(note, lambda tensor: tensor):
            _alive = self.encoder.vectors(ids, torch.ones_like(ids, dtype=torch.bool), self.encoder.dropout)  # no address is used twice
        return sum(sizes.values())
