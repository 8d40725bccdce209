"""What runs an embedding model: texts in, unit vectors out. A module here is an engine; a model's card names the one that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ragstone.connect import connector
from ragstone.model.card import Card

Vectors = NDArray[np.float32]
"""Shape [n, dimensions], each row of length 1."""

Done = Callable[[int], None]
"""Told how many texts are encoded."""


class Engine(Protocol):
    """A model that runs. `tests/conformance/test_engine.py` is the contract; safe to use from several threads."""

    def encode(self, texts: Sequence[str], done: Done) -> Vectors:
        """One unit vector for each text, float32 [n, dimensions]. On a CPU it does not depend on the other texts, to the last bit."""

    def tokens(self, text: str) -> int:
        """How many tokens of the text the model reads."""


def build(folder: Path, card: Card) -> None:
    """Put what runs into the folder, where the engine needs more than the weights. Raises `WeightsError`."""
    connector("engine", card.engine).build(folder, card)


def open(folder: Path, card: Card, threads: int) -> Engine:
    """The engine of a complete model folder, on at most so many threads. Raises `WeightsError` when it can't run."""
    engine: Engine = connector("engine", card.engine).open(folder, card, threads)
    return engine
