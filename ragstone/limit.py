"""Requests and tokens a minute, per key. It keeps one number per limit and knows no clock: times are given in seconds.

The rule is GCRA, a leaky bucket that stores when it will be empty: an idle key may spend a whole minute's worth at once, and gets it
back evenly over the minute. `tests/vectors/limits.json` is the contract of both edges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["requests", "tokens"]

MINUTE = 60.0
SLACK = 1e-6
"""Seconds forgiven, so that sums of floating-point intervals admit exactly `limit` requests."""
KEPT = 100_000
"""Keys remembered before those at rest are forgotten; one costs about 500 bytes."""


class Standing(NamedTuple):
    """What is left of a limit, and the seconds until all of it is back."""

    limit: int
    remaining: int
    reset: float


class Limit:
    """`limit` units a minute. What was taken is kept as the seconds that it needs to drain: a clock's large numbers never add up errors."""

    __slots__ = ("_at", "_interval", "_taken", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._interval = MINUTE / limit
        self._taken = 0.0
        self._at = 0.0

    def taken(self, now: float) -> float:
        """Seconds until nothing is taken any more."""
        return max(0.0, self._taken - max(0.0, now - self._at))

    def wait(self, cost: float, now: float) -> float:
        """Seconds until `cost` fits: 0 when it fits now. A cost over the limit fits as soon as nothing is taken."""
        late = self.taken(now) + min(cost, self.limit) * self._interval - MINUTE
        return late if late > SLACK else 0.0

    def take(self, cost: float, now: float) -> None:
        """Count `cost`, even over the limit: what is owed is waited for. A negative cost gives back."""
        self._taken = max(0.0, self.taken(now) + cost * self._interval)
        self._at = now

    def standing(self, now: float) -> Standing:
        return standing(self.limit, self.taken(now))


def standing(limit: int, taken: float) -> Standing:
    """What is left of `limit` units a minute, when what was taken needs so many seconds to drain."""
    return Standing(limit, max(0, math.floor((MINUTE - taken + SLACK) / (MINUTE / limit))), taken)


@dataclass(frozen=True)
class Reservation:
    """Tokens taken before they are known, to be settled with those used."""

    tokens: float


class Allowance:
    """What one key may still do."""

    __slots__ = ("requests", "tenant", "tokens")

    def __init__(self, rpm: int, tpm: int, tenant: str = "") -> None:
        self.tenant = tenant
        self.requests = Limit(rpm)
        self.tokens = Limit(tpm)

    def take(self, kind: Kind, cost: float, now: float, owed: bool = False) -> float:
        """Seconds until `cost` fits; 0 when it was taken. A cost over the limit takes all of it.

        What is `owed` is taken in any case, and a negative cost gives back.
        """
        limit = self.requests if kind == "requests" else self.tokens
        if not owed and (wait := limit.wait(cost, now)):
            return wait
        limit.take(cost if owed else min(cost, limit.limit), now)
        return 0.0

    def standings(self, now: float) -> tuple[Standing, Standing]:
        """What is left of requests and of tokens."""
        return self.requests.standing(now), self.tokens.standing(now)


WHAT = (b"limit", b"remaining", b"reset")
NAMES = {kind: tuple(b"x-ratelimit-%b-%b" % (what, kind) for what in WHAT) for kind in (b"requests", b"tokens")}
TOLD = 50
"""Keys whose limits are told at once."""


class Limits:
    """The allowance of every key that was seen."""

    def __init__(self) -> None:
        self._allowances: dict[str, Allowance] = {}

    def of(self, key: str, rpm: int, tpm: int, now: float, tenant: str = "") -> Allowance:
        """The key's allowance, a fresh one on its first request."""
        allowance = self._allowances.get(key)
        if allowance is None:
            if len(self._allowances) >= KEPT:
                self._forget(now)
            allowance = self._allowances[key] = Allowance(rpm, tpm, tenant)
        return allowance

    def told(self, now: float, most: int = TOLD) -> list[dict[str, Any]]:
        """What each key has left and whose it is, as JSON's values; those that have the smallest share left first."""
        standings = [(key, one.tenant, *one.standings(now)) for key, one in self._allowances.items()]
        standings.sort(key=lambda row: min(one.remaining / one.limit for one in row[2:]))
        return [
            {"key": key, "tenant": tenant, "requests": requests._asdict(), "tokens": tokens._asdict()}
            for key, tenant, requests, tokens in standings[:most]
        ]

    def _forget(self, now: float) -> None:
        """An allowance of which nothing is taken equals a fresh one."""
        busy = {key: one for key, one in self._allowances.items() if one.requests.taken(now) or one.tokens.taken(now)}
        self._allowances = busy


def estimate(body: Mapping[str, Any], size: int, default: int) -> int:
    """The tokens that an answer may cost: a quarter of the body's bytes, and the most tokens it may generate, for each choice.

    >>> estimate({"max_tokens": 100, "n": 2}, size=400, default=256)
    300
    """
    asked = _count(body.get("max_completion_tokens")) or _count(body.get("max_tokens")) or default
    return math.ceil(size / 4) + asked * (_count(body.get("n")) or 1)


def headers(requests: Standing, tokens: Standing) -> list[tuple[bytes, bytes]]:
    """OpenAI's six `x-ratelimit-*` headers."""
    return [*_headers(b"requests", requests), *_headers(b"tokens", tokens)]


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them in `x-ratelimit-reset-*`, rounded up to the millisecond.

    >>> duration(0), duration(0.0171), duration(1.5), duration(360)
    ('0s', '18ms', '1.5s', '6m0s')
    """
    thousandths = math.ceil(seconds * 1000 - 0.0005)  # what is less is the error of a sum
    if thousandths < 1000:
        return f"{thousandths}ms" if thousandths else "0s"
    minutes, rest = divmod(thousandths, 60_000)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{text}s" if minutes else f"{text}s"


def _count(value: object) -> int:
    """The value if it is a whole number from 1, else 0; what is wrong with it is the origin's to say."""
    return value if type(value) is int and value > 0 else 0


def _headers(kind: bytes, standing: Standing) -> list[tuple[bytes, bytes]]:
    limit, remaining, reset = NAMES[kind]
    return [(limit, b"%d" % standing.limit), (remaining, b"%d" % standing.remaining), (reset, duration(standing.reset).encode())]
