"""What one key may still do: counted for all edges in Redis where there is one, else in this process. It knows what an answer costs."""

from __future__ import annotations

import time

from ragstone.errors import RateLimited
from ragstone.limit import Allowance, Kind, Reservation, Standing, headers, standing
from ragstone.shared import Shared


class Budget:
    """One request's view of its key's limits. While Redis can't be asked, the process counts by itself."""

    def __init__(self, key: str, here: Allowance, shared: Shared | None) -> None:
        self._key, self._here, self._shared = key, here, shared
        self._told: tuple[Standing, Standing] | None = None
        self.spent = 0
        """The tokens that were used on behalf of this request."""

    async def request(self) -> None:
        """Count a request. Raises `RateLimited`, and counts nothing, when it is one too many."""
        if wait := await self._take("requests", 1):
            raise RateLimited(f"the limit of {self._here.requests.limit} requests a minute is reached; try again in {wait:.3f} s", wait)

    async def reserve(self, tokens: int) -> Reservation:
        """Take the tokens that an answer may cost, so that 100 concurrent requests can't all pass a limit for one.

        A request over the whole limit takes all of it, rather than never being served. Raises `RateLimited` while it does not fit.
        """
        limit = self._here.tokens.limit
        if wait := await self._take("tokens", tokens):
            raise RateLimited(f"{tokens} tokens are over the limit of {limit} a minute; try again in {wait:.3f} s", wait, type="tokens")
        return Reservation(min(tokens, limit))

    async def settle(self, reservation: Reservation, used: int) -> None:
        """Replace what was reserved with what was used, which may be more."""
        self.spent += used
        await self._take("tokens", used - reservation.tokens, owed=True)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's six `x-ratelimit-*` headers, as the limits were when this request last took from them."""
        return headers(*(self._told or self._here.standings(time.monotonic())))

    async def _take(self, kind: Kind, cost: float, owed: bool = False) -> float:
        rpm, tpm = self._here.requests.limit, self._here.tokens.limit
        taken = await self._shared.take(self._key, rpm, tpm, kind, cost, owed) if self._shared else None
        if taken is None:
            self._told = None
            return self._here.take(kind, cost, time.monotonic(), owed)
        self._told = (standing(rpm, taken.requests), standing(tpm, taken.tokens))
        return taken.wait
