from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from ragstone.batch import Batches


class Bench:
    """Work that waits for `go`, and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, list[int]]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def work(self, kind: object, items: list[int]) -> Sequence[int]:
        self.calls.append((kind, items))
        self.begun.set()
        assert self.go.wait(30)
        if -1 in items:
            raise ValueError("minus one")
        return [10 * item for item in items]


async def begun(bench: Bench, batches: Batches[int, Sequence[int]], items: Sequence[int]) -> asyncio.Task[Sequence[int]]:
    """A first call that is under way."""
    task = asyncio.create_task(batches.ask("a", items))
    await asyncio.to_thread(bench.begun.wait, 30)
    return task


def test_what_is_asked_meanwhile_is_done_together_and_each_gets_its_own() -> None:
    async def case() -> None:
        bench = Bench()
        batches = Batches(bench.work, 8)
        first = await begun(bench, batches, [1])
        rest = [asyncio.create_task(batches.ask(kind, items)) for kind, items in (("a", [2, 3]), ("b", [4]), ("a", [5]))]
        await asyncio.sleep(0)
        bench.go.set()
        assert [list(answer) for answer in await asyncio.gather(first, *rest)] == [[10], [20, 30], [40], [50]]
        assert bench.calls == [("a", [1]), ("a", [2, 3, 5]), ("b", [4])]

    asyncio.run(case())


def test_a_batch_holds_no_more_than_the_most() -> None:
    async def case() -> None:
        bench = Bench()
        batches = Batches(bench.work, 3)
        first = await begun(bench, batches, [0])
        rest = [asyncio.create_task(batches.ask("a", [at, at])) for at in (1, 2)]
        big = asyncio.create_task(batches.ask("a", [3] * 5))
        await asyncio.sleep(0)
        bench.go.set()
        await asyncio.gather(first, *rest, big)
        assert [len(items) for _, items in bench.calls] == [1, 2, 2, 5]

    asyncio.run(case())


def test_one_callers_fault_is_not_anothers() -> None:
    async def case() -> None:
        bench = Bench()
        batches = Batches(bench.work, 8)
        first = await begun(bench, batches, [1])
        good, bad = (asyncio.create_task(batches.ask("a", items)) for items in ([2], [-1]))
        await asyncio.sleep(0)
        bench.go.set()
        await first
        assert list(await good) == [20]
        with pytest.raises(ValueError, match="minus one"):
            await bad

    asyncio.run(case())


def test_one_who_left_is_left_out() -> None:
    async def case() -> None:
        bench = Bench()
        batches = Batches(bench.work, 8)
        first = await begun(bench, batches, [1])
        gone, stays = (asyncio.create_task(batches.ask("a", items)) for items in ([2], [3]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        bench.go.set()
        await asyncio.gather(first, stays)
        assert bench.calls[1:] == [("a", [3])]

    asyncio.run(case())
