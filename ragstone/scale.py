"""How many replicas a load needs: the rule of Kubernetes' HorizontalPodAutoscaler, with its tolerance and its windows. It knows no process.

Source: kubernetes.io, "Horizontal Pod Autoscaling", algorithm details.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

TOLERANCE = 0.1
"""A load that is so near to its target, as a share of it, changes nothing."""


@dataclass(frozen=True)
class Bounds:
    """How few and how many replicas there may be, and when there are to be more or fewer."""

    least: int = 1
    most: int = 1
    target: float = 70.0
    """Per cent of the CPU that its replicas may take."""
    up: float = 1.0
    """Seconds for which more must have been wanted, and …"""
    down: float = 300.0
    """… seconds for which fewer must have been."""


class Scaler:
    """Remembers what was wanted within the windows. A short peak starts nothing, and a short pause ends nothing."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._wanted: deque[tuple[float, int]] = deque()

    def advise(self, now: float, count: int, load: float) -> int:
        """How many replicas there should be, `now` seconds on some clock, when `count` of them take `load` per cent of their CPU each."""
        bounds = self._bounds
        if not self._wanted:
            self._wanted.append((now, count))  # what was there before counts for a whole window
        self._wanted.append((now, wanted(count, load, bounds.target)))
        while len(self._wanted) > 1 and self._wanted[1][0] <= now - max(bounds.up, bounds.down):
            self._wanted.popleft()
        more, fewer = min(self._since(now - bounds.up)), max(self._since(now - bounds.down))
        return min(max(count, more, bounds.least) if more > count else max(min(count, fewer), bounds.least), bounds.most)

    def _since(self, start: float) -> list[int]:
        """What was wanted from then on, and what was in force then."""
        before = [count for at, count in self._wanted if at < start][-1:]
        return before + [count for at, count in self._wanted if at >= start]


def wanted(count: int, load: float, target: float) -> int:
    """The replicas that would bring the load of each to its target.

    >>> wanted(2, 140, 70), wanted(2, 76, 70), wanted(4, 20, 70), wanted(1, 0, 70)
    (4, 2, 2, 0)
    """
    ratio = load / target
    return count if abs(ratio - 1) <= TOLERANCE else math.ceil(count * ratio)
