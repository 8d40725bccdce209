"""What a training run is told and what it tells: the settings that its weights depend on, and how far it is. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

MEMORY = 4.0
"""GiB that a process may take while it trains. No part of the recipe: the weights are the same."""


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
    temperature: float = 0.1
    """Of a teacher's scores: the lower, the more its first counts."""
    query_tokens: int = 48
    document_tokens: int = 128
    interpolations: tuple[float, ...] = (0.5, 1.0)
    """Shares of the tuned weights in each candidate; the rest is the base."""
    held_out: int = 64
    """Pairs at most whose loss is watched and that are not learned from."""
    patience: int = 4
    """Looks at them without a better loss after which the run stops, with the weights of the best; 0 goes to the end, with the last."""
    seed: int = 17
    labels: str = ""
    """The digest of the labels that the pairs were made from; empty without labels."""
    teacher: str = ""
    """What scored the mined pairs: a cross-encoder's digest, or an endpoint and its model; empty where the retriever did."""
    questions: str = ""
    """The digest of who wrote questions and how it was asked; empty where nobody did."""

    @property
    def digest(self) -> str:
        """SHA-256 of the settings, in hex."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def chosen(
    labels: str,
    minutes: float,
    seed: int,
    epochs: int = Recipe.epochs,
    batch: int = Recipe.batch,
    teacher: str = "",
    questions: str = "",
) -> Recipe:
    """The recipe for labels of this digest, or for none.

    Labels are learned from fast and often; what a teacher says of mined questions once and gently, lest the model bend to those.
    """
    told = Recipe(epochs=epochs, minutes=minutes, batch=batch, seed=seed, labels=labels, teacher=teacher, questions=questions)
    return told if labels else replace(told, epochs=1, learning_rate=2e-5, interpolations=(0.5,), patience=0)


@dataclass(frozen=True)
class Progress:
    """Where a training run stands, for a progress bar and for the report."""

    step: int
    steps: int
    loss: float
    seconds_left: float
    learning_rate: float = 0.0
    """That the step was taken with."""
    held_out: float | None = None
    """The loss over the pairs that are not learned from, when they were last looked at."""

    @property
    def figures(self) -> dict[str, float]:
        """The losses by name."""
        return {"loss": self.loss} | ({} if self.held_out is None else {"held_out": self.held_out})

    def __str__(self) -> str:
        """How well it goes, in a few words.

        >>> str(Progress(20, 87, 1.2041, 71.0, held_out=1.31))
        'loss 1.204, held out 1.310'
        """
        return f"loss {self.loss:.3f}" + (f", held out {self.held_out:.3f}" if self.held_out is not None else "")


Report = Callable[[Progress], None]
