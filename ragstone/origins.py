"""Several origins as one: the next is asked where one can't be, one that fails again and again rests, and a late one may be raced."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from ragstone import telemetry
from ragstone.errors import OriginError
from ragstone.origin import Origin, Pointer
from ragstone.pool import Response

FAULTS = 3
"""Failures in a row after which an origin rests."""
REST = 10.0
"""Seconds that it rests; then one request tries it, before others do."""
AWAY = frozenset({502, 503, 504})
"""What an origin, or a proxy before it, answers when it can't do it and another may."""
KNOWN = 200
"""Waits for an answer's head that are remembered, and …"""
ENOUGH = 20
"""… how many there must be before their 95th percentile means something."""


@dataclass
class Circuit:
    """An origin, and whether it rests."""

    origin: Origin
    failures: int = 0
    until: float = 0.0

    def rests(self, now: float) -> bool:
        return self.failures >= FAULTS and now < self.until

    def tried(self, now: float) -> None:
        """While one request tries it after a rest, it rests for the others."""
        if self.failures >= FAULTS:
            self.until = now + REST

    def failed(self, now: float) -> None:
        self.failures += 1
        self.until = now + REST
        telemetry.origin_failures.labels(self.origin.url).inc()

    def answered(self) -> None:
        self.failures = 0


class Order(NamedTuple):
    """One request to whichever origin answers it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None = None
    total: float | None = None


@dataclass
class Held:
    """A response whose body is unread, to be closed, and whose it is."""

    response: Response
    circuit: Circuit


class Origins:
    """The origins at `urls`, the first of which is asked first. Those that rest are asked last, rather than nobody."""

    def __init__(self, urls: Sequence[str], timeout: float, *, hedge: bool = False) -> None:
        self._circuits = [Circuit(Origin(url, timeout)) for url in urls]
        self._hedge = hedge
        self._waits: deque[float] = deque(maxlen=KNOWN)

    def close(self) -> None:
        for circuit in self._circuits:
            circuit.origin.close()

    async def pointer(self, timeout: float) -> Pointer:
        """What is in force, by the first origin that says it. Raises `OriginError` when none does."""
        fault = OriginError("there is no origin", status=503)
        for circuit in self._order():
            circuit.tried(time.monotonic())
            try:
                pointer = await circuit.origin.pointer(timeout)
            except OriginError as error:
                circuit.failed(time.monotonic())
                fault = error
            else:
                circuit.answered()
                return pointer
        raise fault

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        total: float | None = None,
        *,
        hedge: bool = False,
    ) -> AbstractAsyncContextManager[Response]:
        """The first response, its body unread. With `hedge`, and when hedging is on, one that is late is raced by a second request.

        Raises `OriginError` when no origin answers, and when the one that did breaks off.
        """
        return _Asking(self, Order(method, path, headers, body, total), hedge and self._hedge)

    async def answer(self, order: Order, hedge: bool) -> Held:
        """The first response, to be closed."""
        return await (self._raced(order) if hedge else self._first(order, self._order()))

    def _order(self) -> list[Circuit]:
        if len(self._circuits) == 1:
            return self._circuits
        now = time.monotonic()
        return sorted(self._circuits, key=lambda circuit: circuit.rests(now))

    async def _first(self, order: Order, circuits: Sequence[Circuit]) -> Held:
        """The response of the first that has one; of the last, also one that says that it can't."""
        for circuit in circuits:
            last = circuit is circuits[-1]
            try:
                held = await self._open(order, circuit)
            except OriginError:
                if last:
                    raise
                continue
            if held.response.status not in AWAY or last:
                return held
            held.response.close()
        raise OriginError("there is no origin", status=503)

    async def _open(self, order: Order, circuit: Circuit) -> Held:
        began = time.monotonic()
        circuit.tried(began)
        try:
            response = await circuit.origin.ask(order.method, order.path, order.headers, order.body, order.total)
        except OriginError:
            circuit.failed(time.monotonic())
            raise
        if response.status in AWAY:
            circuit.failed(time.monotonic())
        else:
            circuit.answered()
            self._waits.append(time.monotonic() - began)
        return Held(response, circuit)

    async def _raced(self, order: Order) -> Held:
        """The first response; a second request goes to the next origin once the first is later than 19 of 20 were."""
        circuits = self._order()
        racing = {asyncio.create_task(self._first(order, circuits))}
        try:
            done, _ = await asyncio.wait(racing, timeout=self._late())
            if not done:
                telemetry.hedges.inc()
                racing.add(asyncio.create_task(self._first(order, [*circuits[1:], circuits[0]])))
            return await _winner(racing)
        finally:
            await _end(racing)

    def _late(self) -> float | None:
        waits = sorted(self._waits)
        return waits[len(waits) * 95 // 100] if len(waits) >= ENOUGH else None


class _Asking(AbstractAsyncContextManager[Response]):
    """A response while it is read; what breaks off then is a failure of its origin too. A generator would cost three times as much."""

    def __init__(self, origins: Origins, order: Order, hedge: bool) -> None:
        self._origins, self._order, self._hedge = origins, order, hedge

    async def __aenter__(self) -> Response:
        self._held = await self._origins.answer(self._order, self._hedge)
        return self._held.response

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, OriginError):
            self._held.circuit.failed(time.monotonic())
        self._held.response.close()


async def _winner(racing: set[asyncio.Task[Held]]) -> Held:
    """The first that succeeds, taken out of those that race; the error of the last when none does."""
    waiting = set(racing)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        best = min(done, key=lambda task: task.exception() is not None)
        if best.exception() is None or not waiting:
            racing.discard(best)
            return best.result()


async def _end(racing: set[asyncio.Task[Held]]) -> None:
    for task in racing:
        task.cancel()
    for held in await asyncio.gather(*racing, return_exceptions=True):
        if isinstance(held, Held):
            held.response.close()
