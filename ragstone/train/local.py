"""Training in this process: PyTorch on the CPU, or on a CUDA device where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ragstone.corpus.pairs import Pair
from ragstone.train import MEMORY, Recipe, Report, Trainer


class LocalTrainer(Trainer):
    """Trains here and now; nothing is kept between calls but the files in `work`."""

    def train(
        self, base: Path, pairs: Sequence[Pair], recipe: Recipe, work: Path, progress: Report, memory: float = MEMORY
    ) -> dict[float, Path]:
        """Candidate model folders below `work`, by interpolation. Resumes from a checkpoint in `work`. Raises `TrainError`."""
        from ragstone.tune import Run

        run = Run(base, pairs, recipe, work, memory=memory)
        run.optimise(progress)
        return run.candidates()


def connect(url: str) -> LocalTrainer:
    """The trainer; `url` says no more than `local`."""
    return LocalTrainer()
