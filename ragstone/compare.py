"""Two versions of a generator by the same questions: what shadow traffic says of the second, with a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from ragstone.evaluate import Interval, paired_bootstrap
from ragstone.shadow import Pair

ENOUGH = 30
"""Questions without which nothing is said."""
FALL = 0.05
"""The share of grounded answers may fall by so much at most; the gate's measure of a guard."""
SLOWER = 1.5
"""So many times the answering version's time is slower."""


@dataclass(frozen=True)
class Comparison:
    """A shadow beside the versions that answered. Times are ratios of medians: 2.0 is twice as long."""

    questions: int
    failed: int
    grounded: tuple[float, float]
    """The share of answers whose sentences the evidence carried: of the version that answered, and of the shadow."""
    gain: Interval
    """Of that share, shadow less answering."""
    first: float
    total: float
    same: float
    """The share of equal texts."""
    alike: float
    """The mean cosine of both texts."""

    @property
    def verdict(self) -> str:
        """What the figures come to."""
        if self.questions < ENOUGH:
            return f"too few questions to tell: {self.questions} of {ENOUGH}"
        faults = [f"it failed {self.failed} times"] if self.failed else []
        if self.gain.low < -FALL:
            faults.append(f"its answers may be grounded less often, by up to {-self.gain.low:.0%}")
        if self.total > SLOWER:
            faults.append(f"it takes {self.total:.1f} times as long")
        return f"not ready: {'; '.join(faults)}" if faults else "ready: neither less often grounded nor slower by more than is allowed"

    def __str__(self) -> str:
        before, after = self.grounded
        return "\n".join(
            [
                f"questions  {self.questions}, of which it failed {self.failed}",
                f"grounded   {before:.0%} -> {after:.0%}, {self.gain.mean:+.1%} [{self.gain.low:+.1%}, {self.gain.high:+.1%}]",
                f"latency    first sentence x{self.first:.2f}, whole answer x{self.total:.2f}",
                f"answers    {self.same:.0%} equal, cosine {self.alike:.2f}",
                f"verdict    {self.verdict}",
            ]
        )


def compare(pairs: Sequence[Pair]) -> Comparison:
    """What the pairs say. A failure is an answer that is not grounded, and has no time."""
    answered = [(pair, pair.shadow) for pair in pairs if pair.shadow]
    before = [float(pair.answer.basis == "generated") for pair in pairs]
    after = [float(pair.shadow is not None and pair.shadow.basis == "generated") for pair in pairs]
    return Comparison(
        questions=len(pairs),
        failed=len(pairs) - len(answered),
        grounded=(_mean(before), _mean(after)),
        gain=paired_bootstrap(before, after),
        first=_ratio([pair.answer.first for pair, _ in answered], [said.first for _, said in answered]),
        total=_ratio([pair.answer.total for pair, _ in answered], [said.total for _, said in answered]),
        same=_mean([float(pair.same) for pair, _ in answered]),
        alike=_mean([pair.alike for pair, _ in answered]),
    )


def _mean(values: Sequence[float]) -> float:
    return mean(values) if values else 0.0


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    return median(other) / max(median(one), 1e-9) if one else 0.0
