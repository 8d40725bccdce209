"""Dynamic batching: what is asked while work is under way is done together, next. Nobody waits for others to come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


class Sliced(Protocol):
    """Results in a row: a list, or the rows of an array."""

    def __getitem__(self, at: slice, /) -> Any: ...


T = TypeVar("T")
R = TypeVar("R", bound=Sliced)


@dataclass
class Asked(Generic[T]):
    """Items of one caller, and where the caller waits. Only items of one kind are done together."""

    kind: Hashable
    items: Sequence[T]
    answer: asyncio.Future[Any]


class Batches(Generic[T, R]):
    """`work(kind, items)` in a thread, one call at a time, for one event loop; `most` items a call, or one caller's that are more."""

    def __init__(self, work: Callable[[Any, list[T]], R], most: int) -> None:
        self._work, self._most = work, most
        self._waiting: deque[Asked[T]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, kind: Hashable, items: Sequence[T]) -> R:
        """What the work gives for these items, in order. Raises what it raises; one who leaves is left out."""
        asked = Asked(kind, items, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run())
        answer: R = await asked.answer
        return answer

    async def _run(self) -> None:
        while self._waiting:
            batch = self._next()
            if not batch:
                continue
            items = [item for asked in batch for item in asked.items]
            try:
                results = await asyncio.to_thread(self._work, batch[0].kind, items)
            except Exception as error:
                await self._apart(batch, error)
                continue
            start = 0
            for asked in batch:
                end = start + len(asked.items)
                _give(asked, results[start:end])
                start = end

    async def _apart(self, batch: list[Asked[T]], error: Exception) -> None:
        """One caller's items that can't be done are not another's fault: each alone gets its own answer or error."""
        for asked in batch:
            try:
                _give(asked, await asyncio.to_thread(self._work, asked.kind, list(asked.items)) if len(batch) > 1 else error)
            except Exception as own:
                _give(asked, own)

    def _next(self) -> list[Asked[T]]:
        """The oldest that still waits, and as many of its kind as fit beside it."""
        batch: list[Asked[T]] = []
        left: deque[Asked[T]] = deque()
        size = 0
        for asked in self._waiting:
            if asked.answer.done():
                continue
            if not batch or (asked.kind == batch[0].kind and size + len(asked.items) <= self._most):
                batch.append(asked)
                size += len(asked.items)
            else:
                left.append(asked)
        self._waiting = left
        return batch


def _give(asked: Asked[Any], result: object) -> None:
    if asked.answer.done():
        return
    if isinstance(result, Exception):
        asked.answer.set_exception(result)
    else:
        asked.answer.set_result(result)
