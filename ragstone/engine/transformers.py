"""Any transformer that the package transformers has, in float32 by PyTorch: on a CUDA device if there is one, else on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ragstone import encoder
from ragstone.engine import Done, Vectors
from ragstone.model.card import Card

BATCH = 32
"""Texts a call on a GPU, of like length, so that little is padded. There a vector depends on its neighbours by rounding, 1e-6."""


class TransformersEngine:
    """A model, loaded."""

    def __init__(self, folder: Path, card: Card, threads: int) -> None:
        self.card = card
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoder = encoder.open(folder, self.device)
        torch.set_num_threads(min(threads, torch.get_num_threads()))

    def encode(self, texts: Sequence[str], done: Done) -> Vectors:
        """On the CPU one text a call, which keeps a vector free of its neighbours; on a GPU in batches, the longest first."""
        vectors = np.empty((len(texts), self.card.dimensions), np.float32)
        size = 1 if self.device.type == "cpu" else BATCH
        order = range(len(texts)) if size == 1 else sorted(range(len(texts)), key=lambda at: -len(texts[at]))
        for start in range(0, len(texts), size):
            rows = list(order[start : start + size])
            with torch.inference_mode():
                vectors[rows] = self._encoder.encode([texts[row] for row in rows], self.card.max_tokens).cpu().numpy()
            done(start + len(rows))
        return vectors

    def tokens(self, text: str) -> int:
        """How many tokens of the text the model reads."""
        return len(self._encoder.tokenizer.encode(text).ids)


def build(folder: Path, card: Card) -> None:
    """Nothing: the weights are what runs."""


def open(folder: Path, card: Card, threads: int) -> TransformersEngine:
    """The engine of a complete model folder."""
    return TransformersEngine(folder, card, threads)
