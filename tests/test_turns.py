from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from ragstone.errors import RateLimited
from ragstone.turns import Turns


class Crowd:
    """Requests before a bound, each inside until it is told to leave; `order` is who was let in."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._leaves: dict[str, asyncio.Event] = {}

    async def come(self, name: str, *, first: bool = False) -> None:
        self._leaves[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._pass(name, first))
        await settled()

    async def go(self, name: str) -> None:
        self._leaves[name].set()
        await settled()

    async def _pass(self, name: str, first: bool) -> None:
        async with self.turns.turn(first=first):
            self.order.append(name)
            await self._leaves[name].wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def test_who_goes_first_is_let_in_before_those_who_came_earlier() -> None:
    async def scene() -> None:
        crowd = Crowd(Turns(1, 10))
        for name in ("a", "b", "c"):
            await crowd.come(name)
        await crowd.come("interactive", first=True)
        for name in ("a", "interactive", "b", "c"):
            assert crowd.order[-1] == name
            await crowd.go(name)
        assert crowd.order == ["a", "interactive", "b", "c"]

    run(scene())


def test_a_full_queue_refuses_with_the_time_to_wait_and_keeps_nobody_out_who_goes_first() -> None:
    async def scene() -> None:
        crowd = Crowd(Turns(1, 1))
        await crowd.come("a")
        await crowd.come("b")
        await crowd.come("c")
        with pytest.raises(RateLimited, match="1 requests wait before this one") as refused:
            await crowd.tasks["c"]
        assert refused.value.retry_after > 0
        await crowd.come("interactive", first=True)
        await crowd.go("a")
        assert crowd.order == ["a", "interactive"]
        await crowd.go("interactive")
        await crowd.go("b")
        assert crowd.order == ["a", "interactive", "b"]

    run(scene())


def test_who_hangs_up_while_waiting_takes_no_place() -> None:
    async def scene() -> None:
        crowd = Crowd(Turns(1, 1))
        await crowd.come("a")
        await crowd.come("b")
        crowd.tasks["b"].cancel()
        await settled()
        await crowd.come("c")
        await crowd.go("a")
        assert crowd.order == ["a", "c"]
        await crowd.go("c")
        await crowd.come("d")
        assert crowd.order == ["a", "c", "d"]

    run(scene())


def test_who_hangs_up_just_as_it_is_let_in_leaves_its_place_to_the_next() -> None:
    async def scene() -> None:
        crowd = Crowd(Turns(1, 2))
        for name in ("a", "b", "c"):
            await crowd.come(name)
        crowd._leaves["a"].set()
        await crowd.tasks["a"]  # b's turn is set, and b has not run yet
        crowd.tasks["b"].cancel()
        await settled()
        assert crowd.order[-1] == "c"

    run(scene())


def test_without_a_bound_everyone_goes_at_once() -> None:
    async def scene() -> None:
        crowd = Crowd(Turns(0, 0))
        for name in "abc":
            await crowd.come(name)
        assert crowd.order == ["a", "b", "c"]

    run(scene())
