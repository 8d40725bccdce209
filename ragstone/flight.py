"""One production that many follow live: each follower gets what was made so far, then the rest as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, TypeVar

Head = TypeVar("Head")
Event = TypeVar("Event")
End = TypeVar("End")


class Flight(Generic[Head, Event, End]):
    """Opens with a head, goes on with events, and lands with an end. A flight that fails early lands without having opened."""

    def __init__(self, owner: str = "") -> None:
        self.owner = owner
        """Who started it: on whose behalf, and so with whose rights, it is made."""
        self.head: Head | None = None
        self.events: list[Event] = []
        self.end: End | None = None
        self.live = False
        """Whether anybody follows it while it is made, …"""
        self.hurry: Callable[[], None] = lambda: None
        """… and what is to be called once somebody does."""
        self._waiting: list[asyncio.Future[None]] = []
        self._landed = asyncio.Event()

    def open(self, head: Head) -> None:
        self.head = head
        self._tell()

    def add(self, event: Event) -> None:
        self.events.append(event)
        self._tell()

    def land(self, end: End) -> None:
        """End the flight; only the first end counts."""
        if self.end is None:
            self.end = end
            self._landed.set()
            self._tell()

    async def opened(self) -> Head | None:
        """The head, or None when the flight landed without one."""
        self._watch()
        while self.head is None and self.end is None:
            await self._news()
        return self.head

    async def landed(self) -> End:
        await self._landed.wait()
        assert self.end is not None
        return self.end

    async def follow(self) -> AsyncIterator[list[Event]]:
        """All events from the first, in the portions that are there when the follower is ready for more."""
        self._watch()
        seen = 0
        while True:
            if seen < len(self.events):
                portion = self.events[seen:]
                seen += len(portion)
                yield portion
            elif self.end is not None:
                return
            else:
                await self._news()

    def _watch(self) -> None:
        if not self.live:
            self.live = True
            self.hurry()

    async def _news(self) -> None:
        news = asyncio.get_running_loop().create_future()
        self._waiting.append(news)
        await news

    def _tell(self) -> None:
        """Wake everyone who waits; who waits next waits for the next news."""
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            if not news.done():  # a follower may have left
                news.set_result(None)


class Flights(Generic[Head, Event, End]):
    """The flights under way, by key; a flight outlives the one who started it."""

    def __init__(self) -> None:
        self._flights: dict[object, Flight[Head, Event, End]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def get(self, key: object) -> Flight[Head, Event, End] | None:
        """The flight under way for the key, to be joined; never one that has landed."""
        flight = self._flights.get(key)
        return flight if flight is not None and flight.end is None else None

    def start(
        self, key: object | None, owner: str, produce: Callable[[Flight[Head, Event, End]], Coroutine[Any, Any, None]]
    ) -> tuple[Flight[Head, Event, End], asyncio.Task[None]]:
        """A new flight, and the task that makes it. `produce` must land it. One without a key can't be joined."""
        flight: Flight[Head, Event, End] = Flight(owner)
        task = asyncio.create_task(produce(flight))
        self._tasks.add(task)
        if key is not None:
            self._flights[key] = flight
        task.add_done_callback(lambda done: self._over(key, flight, done))
        return flight, task

    async def close(self) -> None:
        """Cancel what is still under way and wait for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _over(self, key: object, flight: Flight[Head, Event, End], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if key is not None and self._flights.get(key) is flight:
            del self._flights[key]
