"""Training: pairs and a base model in, candidate models out. It knows nothing of the index or the gate, which judge the candidates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ragstone.connect import connector
from ragstone.corpus.pairs import Pair
from ragstone.recipe import Progress, Recipe, Report

__all__ = ["Progress", "Recipe", "Report", "Trainer", "connect"]


class Trainer(Protocol):
    """`tests/conformance/test_train.py` is the contract."""

    def train(self, base: Path, pairs: Sequence[Pair], recipe: Recipe, work: Path, progress: Report) -> dict[float, Path]:
        """Candidate model folders below `work`, by interpolation. Resumes from a checkpoint in `work`. Raises `TrainError`."""


def connect(url: str) -> Trainer:
    """The trainer behind `url`: `local` trains in this process."""
    trainer: Trainer = connector("train", url).connect(url)
    return trainer
