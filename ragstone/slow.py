"""The slowest answers of the last hour: whose, of which release, where the time went. What was asked is kept only where that is wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace

MOST = 20
"""Answers that are remembered."""
HOUR = 3600.0


@dataclass(frozen=True)
class Slow:
    """One answer. Times are seconds from the request's arrival, `at` is its end in Unix seconds."""

    at: float
    total: float
    search: float
    first: float
    """Until the first sentence."""
    tokens: int
    basis: str
    release: str
    service: str
    tenant: str
    groups: tuple[str, ...]
    request: str
    """Its id, under which the logs have it."""
    question: str = ""


class Slowest:
    """Those of this process. With `words` it keeps what was asked, too."""

    def __init__(self, words: bool = False, most: int = MOST) -> None:
        self._words, self._most = words, most
        self._kept: list[Slow] = []

    def add(self, answer: Slow) -> None:
        """It ended just now."""
        kept = [*self.of(answer.at), answer if self._words else replace(answer, question="")]
        self._kept = sorted(kept, key=lambda one: -one.total)[: self._most]

    def of(self, now: float) -> list[Slow]:
        """Those of the hour before `now`, the slowest first."""
        return [one for one in self._kept if one.at > now - HOUR]
