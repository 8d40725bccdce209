"""The pairs that a training run is judged by on its way, not taught, and what it was found to be worth. No torch here.

They are not the questions that the gate judges by: those are of documents that no pair comes from.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ragstone.corpus.pairs import Pair

FEW = 200
"""Of fewer pairs none is held out: a dozen could not tell one step from another, and would be missed."""
SHARE = 16
"""One pair in so many."""
COST = 0.05
"""The share of a run's time that looking may take. A look is a forward pass, a third of a step over as many pairs."""
LOOKS = 20
"""How often a long run looks."""


def split(pairs: Sequence[Pair], most: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from, and at most so many held out: all of a passage's, in the order of the passages' digests."""
    questions = defaultdict(list)
    for pair in pairs:
        questions[pair.positive].append(pair)
    room = min(most, len(pairs) // SHARE) if len(pairs) >= FEW else 0
    held: list[Pair] = []
    for passage in sorted(questions, key=lambda text: hashlib.sha256(text.encode()).digest()):
        if len(held) + len(questions[passage]) <= room:
            held += questions[passage]
    apart = {pair.positive for pair in held}
    return [pair for pair in pairs if pair.positive not in apart], held


def interval(held: int, batch: int, steps: int) -> int:
    """Steps from one look to the next.

    >>> interval(64, 32, 100), interval(64, 32, 2000), interval(12, 32, 18)
    (14, 100, 3)
    """
    return max(1, math.ceil(held / batch / 3 / COST), math.ceil(steps / LOOKS))


@dataclass(frozen=True)
class Looks:
    """What was seen so far: the loss over the held-out pairs, lower is better."""

    step: int = 0
    """That of the last look, or 0."""
    loss: float | None = None
    best_step: int = 0
    best: float = math.inf
    since: int = 0
    """Looks since the best one."""

    def after(self, step: int, loss: float) -> Looks:
        """With one look more."""
        if loss < self.best:
            return Looks(step, loss, step, loss)
        return replace(self, step=step, loss=loss, since=self.since + 1)
