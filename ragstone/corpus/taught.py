"""Mined pairs as a teacher sees them that the user names. It knows nothing of models: scores come from a function.

A teacher's scores have a scale of their own (logits, probabilities, cosines), but training reads them as the retriever's: between 0 and 1,
with `AT_RANDOM` for a passage that has nothing to do with the question. So they are moved there along a straight line, through what the
teacher gives in the middle to passages of other questions, and to the right ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from ragstone.corpus.pairs import AT_RANDOM, Pair
from ragstone.errors import TrainError

STRANGERS = 200
"""Questions that are shown a passage of another one. With logits that spread by 2 the middle of so many is right to 0.2."""
LOWEST = 0.3
"""Where the right passages' middle comes to lie at least: a retriever that scores them lower has no scale to share."""
EDGE = 1e-4
"""Probabilities nearer to 0 or 1 than that are rounded in half precision: what they differ by is noise."""


@dataclass(frozen=True)
class Listed:
    """A question and the passages to score for it."""

    question: str
    passages: tuple[str, ...]


Score = Callable[[Sequence[Listed]], Sequence[Sequence[float]]]
"""A score for each passage of each list, on any scale that rises with how well it answers."""


def teach(pairs: Sequence[Pair], score: Score, *, seed: int = 17) -> tuple[Pair, ...]:
    """The pairs, those with the retriever's scores having the teacher's instead, brought to the same scale. Labelled ones stay.

    What is scored is what the model will read. Raises `TrainError` when the teacher puts the right passages no higher than others.
    """
    own = [pair for pair in pairs if pair.scores]
    if not own:
        return tuple(pairs)
    strangers = _strangers(own, seed)
    lists = [Listed(pair.question, (pair.positive, *pair.negatives)) for pair in own]
    scores = _unbounded(score([*lists, *strangers]))
    right = max(LOWEST, median(pair.scores[0] for pair in own))
    scaled = _line(median(first for first, *_ in scores[: len(own)]), median(one for (one,) in scores[len(own) :]), right)
    taught = iter([tuple(map(scaled, of)) for of in scores[: len(own)]])
    return tuple(replace(pair, scores=next(taught)) if pair.scores else pair for pair in pairs)


def agreement(pairs: Iterable[Pair]) -> float:
    """The share of the taught pairs whose own passage has the best score of its list."""
    firsts = [pair.scores[0] >= max(pair.scores) for pair in pairs if pair.scores]
    return sum(firsts) / max(1, len(firsts))


def _strangers(pairs: Sequence[Pair], seed: int) -> list[Listed]:
    """Questions, each with the passage of another."""
    drawn = random.Random(f"strangers {seed}").sample(pairs, min(STRANGERS, len(pairs)))
    following = list(zip(drawn, [*drawn[1:], *drawn[:1]], strict=True))
    apart = [both for both in following if both[0].document != both[1].document]
    apart = apart or [both for both in following if both[0].chunk != both[1].chunk]
    if not apart:
        raise TrainError("a teacher needs the questions of two passages at least", "add documents, or name no train.teacher")
    return [Listed(pair.question, (other.positive,)) for pair, other in apart]


def _unbounded(scores: Sequence[Sequence[float]]) -> list[list[float]]:
    """Probabilities as the logits behind them, where differences near 0 and 1 count; other scores as they are."""
    if all(0 <= one <= 1 for of in scores for one in of):
        return [[_logit(min(1 - EDGE, max(EDGE, one))) for one in of] for of in scores]
    return [list(of) for of in scores]


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _line(right: float, at_random: float, goal: float) -> Callable[[float], float]:
    """The line that takes `at_random` to `AT_RANDOM` and `right` to `goal`, cut at 0 and 1."""
    if right <= at_random:
        text = f"the teacher gives right passages {right:.3g} in the middle, and those of other questions {at_random:.3g}: it can't teach"
        raise TrainError(text, "name another train.teacher, or none")
    slope = (goal - AT_RANDOM) / (right - at_random)
    return lambda score: min(1.0, max(0.0, AT_RANDOM + slope * (score - at_random)))
