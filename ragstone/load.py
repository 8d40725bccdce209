"""How busy replicas are: what they take of the CPU, and how many answers they make. It knows no process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

LEAST = 0.5
"""Seconds between two looks, at least: of a shorter time the system's clock ticks tell too little."""


@dataclass(frozen=True)
class Load:
    """How busy one replica is now."""

    replica: str
    cpu: float | None
    """Per cent of the cores that it may take, since the last look; None at the first."""
    busy: int | None = None
    """Answers under way; None where that is not told."""
    waiting: int | None = None
    """Questions that wait for one of its slots, likewise."""


@runtime_checkable
class Loaded(Protocol):
    """A generator that knows how busy its replicas are."""

    def load(self) -> Sequence[Load]:
        """A replica each."""


class Meter:
    """The CPU seconds that each process used a second, between two looks. Who looks too soon gets what the last look found."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = float("-inf")
        self._used: Mapping[int, float] = {}
        self._shares: Mapping[int, float] = {}

    def shares(self, used: Callable[[], Mapping[int, float]]) -> Mapping[int, float]:
        """By process; one that was not there at the look before is left out."""
        now = self._clock()
        if now - self._at >= LEAST:
            before, self._used, since, self._at = self._used, used(), now - self._at, now
            self._shares = {process: (spent - before[process]) / since for process, spent in self._used.items() if process in before}
        return self._shares
