"""Several origins as one, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ragstone.errors import OriginError
from ragstone.origins import ENOUGH, FAULTS, Origins
from tests.conformance.bench import EDGES, asked, post, question, running, until
from tests.conformance.origin import Origin

CHAT = "/v1/chat/completions"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def one() -> Iterator[Origin]:
    origin = Origin().start()
    yield origin
    origin.close()


@pytest.fixture
def two() -> Iterator[Origin]:
    origin = Origin().start()
    yield origin
    origin.close()


def within(urls: list[str], scene: Callable[[Origins], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        together = Origins(urls, 30, **options)
        try:
            await scene(together)
        finally:
            together.close()

    asyncio.run(run())


async def ask(together: Origins, body: dict[str, Any], *, hedge: bool = False) -> tuple[int, bytes]:
    async with together.ask("POST", CHAT, {"content-type": "application/json"}, json.dumps(body).encode(), hedge=hedge) as response:
        return response.status, await response.read()


def test_the_next_origin_is_asked_where_one_cant_be_or_says_that_it_cant(one: Origin, two: Origin) -> None:
    async def scene(together: Origins) -> None:
        assert (await ask(together, question()))[0] == 200
        assert (len(one.seen), len(two.seen)) == (1, 0)
        assert (await together.pointer(5)).release == "r-a"
        assert (await ask(together, question(test={"status": 503})))[0] == 503, "the last one's word is passed on"
        assert (len(one.seen), len(two.seen)) == (2, 1)
        assert (await ask(together, question(test={"status": 500})))[0] == 500
        assert (len(one.seen), len(two.seen)) == (3, 1), "a fault of the question is no reason to ask it again"

    within([NOWHERE, one.url, two.url], scene)


def test_an_origin_that_fails_again_and_again_rests_and_one_request_tries_it_then(one: Origin, two: Origin) -> None:
    broken = question(test={"status": 503})

    async def scene(together: Origins) -> None:
        for _ in range(FAULTS):
            await ask(together, broken)
        assert (len(one.seen), len(two.seen)) == (FAULTS, FAULTS)
        two.seen.clear()
        held = question(test={"hold": "head"})
        for circuit in together._circuits[1:]:
            circuit.answered()
        assert (await ask(together, question()))[0] == 200
        assert (len(one.seen), len(two.seen)) == (FAULTS, 1), "it rests"
        together._circuits[0].until = 0.0
        trying = asyncio.create_task(ask(together, held))
        await asyncio.to_thread(until, lambda: len(one.seen) == FAULTS + 1)
        assert (await ask(together, question()))[0] == 200
        assert len(two.seen) == 2, "while one tries it, it rests for the others"
        one.go()
        assert (await trying)[0] == 200
        await ask(together, question())
        assert len(one.seen) == FAULTS + 2

    within([one.url, two.url], scene)


def test_origins_that_all_rest_are_asked_all_the_same(one: Origin) -> None:
    async def scene(together: Origins) -> None:
        for _ in range(FAULTS + 1):
            await ask(together, question(test={"status": 503}))
        assert (await ask(together, question()))[0] == 200

    within([one.url], scene)


def test_where_no_origin_answers_the_error_says_so() -> None:
    async def scene(together: Origins) -> None:
        with pytest.raises(OriginError, match="can't be reached"):
            await ask(together, question())
        with pytest.raises(OriginError, match="can't be reached"):
            await together.pointer(5)

    within([NOWHERE, NOWHERE], scene)


@pytest.mark.parametrize("hedge", [True, False])
def test_a_late_request_is_raced_by_a_second_one_where_that_is_wanted(one: Origin, two: Origin, hedge: bool) -> None:
    late = question(test={"hold": "head"})

    async def scene(together: Origins) -> None:
        for _ in range(ENOUGH):
            await ask(together, question())
        assert not two.seen
        racing = asyncio.create_task(ask(together, late, hedge=True))
        await asyncio.to_thread(until, lambda: bool(one.asked(late["messages"][0]["content"])))
        if hedge:
            await asyncio.to_thread(until, lambda: bool(two.seen))
        (two if hedge else one).go()
        assert (await racing)[0] == 200
        assert len(two.seen) == hedge

    within([one.url, two.url], scene, hedge=hedge)


def test_a_race_whose_first_fails_is_the_seconds_and_one_that_both_fail_is_an_error(one: Origin) -> None:
    async def scene(together: Origins) -> None:
        together._waits.extend([0.0] * ENOUGH)
        assert (await ask(together, question(), hedge=True))[0] == 200
        one.close()
        with pytest.raises(OriginError):
            await ask(together, question(), hedge=True)

    within([NOWHERE, one.url], scene, hedge=True)


def test_an_edge_goes_on_with_its_second_origin(two: Origin, tmp_path: Path) -> None:
    with running(EDGES["local"].command, tmp_path, edge_fallbacks=two.url) as bench:
        two.keys = bench.origin.keys
        bench.chat(question())
        bench.origin.close()
        body = question()
        assert bench.chat(body).cache == "miss"
        assert len(two.asked(body["messages"][0]["content"])) == 1
        until(lambda: bool(bench.health["origin"] == "ok"))


def test_a_busy_origin_answers_interactive_tenants_first_and_refuses_what_it_cant_queue(tmp_path: Path) -> None:
    limits = {"edge_concurrency": 1, "edge_queue": 1, "edge_interactive": "support"}
    with running(EDGES["local"].command, tmp_path, **limits) as bench:
        support = bench.key(tenant="support")
        bodies = {name: question(test={"hold": "head"}) for name in ("first", "batch", "refused", "interactive")}

        async def scene() -> list[int]:
            async with aiohttp.ClientSession() as session:
                waiting = [asyncio.create_task(post(session, bench, bodies["first"]))]
                await asyncio.to_thread(until, lambda: asked(bench, bodies["first"]) == 1)
                waiting.append(asyncio.create_task(post(session, bench, bodies["batch"])))
                await asyncio.to_thread(until, lambda: bool(bench.health["flights"] == 2))
                waiting.append(asyncio.create_task(post(session, bench, bodies["interactive"], support)))
                await asyncio.to_thread(until, lambda: bool(bench.health["flights"] == 3))
                refused = await post(session, bench, bodies["refused"])
                assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
                assert int(refused.headers["retry-after"]) >= 1
                while not all(task.done() for task in waiting):
                    bench.origin.go()
                    await asyncio.wait(waiting, timeout=0.02)
                return [task.result().status for task in waiting]

        assert asyncio.run(scene()) == [200, 200, 200]
        spoken = [one.body["messages"][0]["content"] for one in bench.origin.seen]
        assert spoken == [bodies[name]["messages"][0]["content"] for name in ("first", "interactive", "batch")]
