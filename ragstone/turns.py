"""A bound on what is under way at once. Who finds it full waits, by class and then by arrival; who finds the queue full is refused."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ragstone.errors import RateLimited


class Turns:
    """Lets `most` through at a time, 0 everyone. `queue` may wait of each class: many who come last can't keep out who goes first."""

    def __init__(self, most: int, queue: int) -> None:
        self._most, self._queue = most, queue
        self._inside = 0
        self._waiting: tuple[deque[asyncio.Future[None]], ...] = (deque(), deque())
        self._usual = 1.0
        """Seconds that a turn takes, of late."""

    @asynccontextmanager
    async def turn(self, *, first: bool) -> AsyncIterator[None]:
        """One turn, once it has come. Raises `RateLimited`, with the time that the queue may need, when it is full."""
        await self._enter(self._waiting[0 if first else 1], first)
        began = time.monotonic()
        try:
            yield
        finally:
            self._usual += 0.1 * (time.monotonic() - began - self._usual)
            self._leave()

    async def _enter(self, queue: deque[asyncio.Future[None]], first: bool) -> None:
        if not self._most or self._inside < self._most:
            self._inside += 1
            return
        if len(queue) >= self._queue:
            ahead = len(self._waiting[0]) + (0 if first else len(self._waiting[1]))
            raise RateLimited(f"the service is busy: {ahead} requests wait before this one", (ahead + 1) * self._usual / self._most)
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # it was let in as it was cancelled
            elif turn in queue:
                queue.remove(turn)
            raise

    def _leave(self) -> None:
        """The next one's turn, or one place more."""
        for queue in self._waiting:
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._inside -= 1
