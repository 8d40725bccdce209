"""Training: pairs and a base model in, candidate models out. It knows nothing of the index or the gate, which judge the candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ragstone.corpus.pairs import Pair


@dataclass(frozen=True)
class Recipe:
    """Every setting that the trained weights depend on; its digest is part of a model's lineage."""

    epochs: int = 3
    minutes: float = 10.0
    batch: int = 32
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    scale: float = 20.0
    query_tokens: int = 48
    document_tokens: int = 128
    interpolations: tuple[float, ...] = (0.5, 0.75)
    """Shares of the tuned weights in each candidate; the rest is the base."""
    seed: int = 17


@dataclass(frozen=True)
class Progress:
    """Where a training run stands, for a progress bar and for the report."""

    step: int
    steps: int
    loss: float
    seconds_left: float


class Trainer(Protocol):
    """`tests/conformance/test_train.py` is the contract."""

    def train(self, base: Path, pairs: Sequence[Pair], recipe: Recipe, work: Path, progress: Callable[[Progress], None]) -> dict[float, Path]:
        """Candidate model folders below `work`, by interpolation. Resumes from the checkpoint in `work` if there is one. Raises `TrainError`."""
