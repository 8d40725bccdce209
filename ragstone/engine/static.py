"""A static model: a vector for each token, a text is their mean. NumPy alone runs it, on any processor, in a fraction of a millisecond."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragstone.engine import Done, Vectors
from ragstone.model.card import WEIGHTS, Card
from ragstone.model.layout import STATIC
from ragstone.model.tensors import load
from ragstone.model.tokens import tokenizer


class StaticEngine:
    """A table of vectors, loaded."""

    def __init__(self, folder: Path, card: Card) -> None:
        (self.table,) = (tensor for name, tensor in load(folder / WEIGHTS[0]).items() if name in STATIC)
        self._tokenizer = tokenizer(folder, card.max_tokens)

    def encode(self, texts: Sequence[str], done: Done) -> Vectors:
        """The means, one after the other."""
        vectors = np.empty((len(texts), self.table.shape[1]), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._vector(text)
            done(row + 1)
        return vectors

    def tokens(self, text: str) -> int:
        """How many tokens the text has."""
        return len(self._ids(text))

    def _vector(self, text: str) -> NDArray[np.float32]:
        """Of a text without tokens, the vector that is as near to one as to any other."""
        ids = self._ids(text)
        mean = self.table[ids].mean(axis=0) if ids else np.ones(self.table.shape[1], np.float32)
        length = float(np.linalg.norm(mean))
        vector: NDArray[np.float32] = mean / (length or 1.0)
        return vector

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def build(folder: Path, card: Card) -> None:
    """Nothing: the weights are what runs."""


def open(folder: Path, card: Card, threads: int) -> StaticEngine:
    """The engine of a folder; it takes one thread."""
    return StaticEngine(folder, card)
