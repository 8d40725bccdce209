"""What edges share in a real Redis: limits that are exact, answers within a bound, and nothing lost when it is down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis

from ragstone import config, limit
from ragstone.cache import OVERHEAD, Entry
from ragstone.errors import ConfigError
from ragstone.lease import lease
from ragstone.limit import standing
from ragstone.shared import Shared
from tests import certificate, valkey
from tests.conformance.bench import EDGES, Bench, Response, asked, post, question, running, until
from tests.sequences import VECTORS, steps
from tests.valkey import Server

SECRET = "a-password-that-no-message-may-show"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with valkey.running(tmp_path_factory.mktemp("redis"), SECRET) as started:
        yield started


def within(server: Server, scene: Callable[[Shared], Awaitable[None]], most: int = 1 << 20) -> None:
    """Run the scene with a connection to an empty Redis."""

    async def run() -> None:
        shared = Shared(server.url, most)
        try:
            await shared._redis.flushall()
            await scene(shared)
        finally:
            await shared.close()

    asyncio.run(run())


@pytest.mark.parametrize("sequence", VECTORS["sequences"], ids=lambda sequence: sequence["name"])
def test_a_key_is_admitted_and_told_what_every_edge_tells_it(server: Server, sequence: dict[str, Any]) -> None:
    rpm, tpm = sequence["rpm"], sequence["tpm"]

    async def scene(shared: Shared) -> None:
        for step in steps(sequence):
            taken = await shared.take("k", rpm, tpm, step.kind, step.cost, step.owed, step.at)
            assert taken
            assert taken.wait == pytest.approx(step.wait, abs=2e-6)
            told = limit.headers(standing(rpm, taken.requests), standing(tpm, taken.tokens))
            assert {name.decode(): value.decode() for name, value in told}.items() >= step.headers.items()

    within(server, scene)


def entry(size: int = 0, release: str = "r-a", stored: float = 0.0) -> Entry:
    return Entry(b"x" * size, '"e"', release, stored, stored)


def test_the_least_recently_used_answer_goes_first_and_the_bytes_stay_in_bounds(server: Server) -> None:
    async def scene(shared: Shared) -> None:
        for number, key in enumerate("abc"):
            await shared.put(key, entry(stored=float(number)), "r-a")
        await shared.get("a")
        await shared.put("d", entry(stored=4.0), "r-a")
        assert [key for key in "abcd" if await shared.get(key)] == ["a", "c", "d"]
        await shared.put("huge", entry(3 * OVERHEAD), "r-a")
        assert [key for key in ("a", "huge") if await shared.get(key)] == ["a"]
        assert int(await shared._redis.get("{ragstone}:size") or 0) == 3 * OVERHEAD

    within(server, scene, 3 * OVERHEAD)


def test_answers_are_kept_again_after_a_redis_short_of_memory_dropped_their_index(server: Server) -> None:
    async def scene(shared: Shared) -> None:
        await shared._redis.set("{ragstone}:size", 1 << 20)  # of entries that are gone, and their index with them
        for key in "ab":
            await shared.put(key, entry(), "r-a")
        assert await shared.get("b") == entry()

    within(server, scene, 3 * OVERHEAD)


def test_an_answer_of_an_earlier_release_that_comes_late_does_not_displace_a_newer_one(server: Server) -> None:
    async def scene(shared: Shared) -> None:
        await shared.put("a", entry(release="r-b"), "r-b")
        await shared.put("a", entry(release="r-a"), "r-b")
        assert await shared.get("a") == entry(release="r-b")
        await shared.put("a", entry(release="r-a"), "r-a")
        assert await shared.get("a") == entry(release="r-a")

    within(server, scene)


@pytest.fixture
def pair(server: Server, tmp_path: Path) -> Iterator[tuple[Bench, Bench]]:
    """Two edges before one origin, which know the same keys and share one Redis."""
    within(server, lambda shared: asyncio.sleep(0))
    command = replace(EDGES["local"], redis=server.url).command
    (tmp_path / "two").mkdir()
    with ExitStack() as open:
        one = open.enter_context(running(command, tmp_path))
        two = open.enter_context(running(command, tmp_path / "two", edge_origin=one.origin.url))
        yield one, replace(two, origin=one.origin, keys=one.keys, folder=one.folder, token=one.token)


def test_an_answer_that_one_edge_has_is_a_hit_at_the_other_until_the_release_changes(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    body = question()
    assert one.chat(body).cache == "miss"
    until(lambda: two.chat({**body, "stream": True}).cache == "hit")
    assert asked(one, body) == 1
    assert two.chat(body, two.key(tenant="globex")).cache == "miss"
    one.promote("r-b")
    until(lambda: bool(two.health["release"] == "r-b"))
    assert [one.chat(body).cache, two.chat(body).cache] == ["revalidated", "hit"]


async def waiting(session: aiohttp.ClientSession, one: Bench, two: Bench, body: dict[str, Any]) -> list[asyncio.Task[Response]]:
    """The question at both edges: the first asks the held origin, the second waits for it."""
    first = asyncio.create_task(post(session, one, body))
    await asyncio.to_thread(until, lambda: asked(one, body) == 1)
    second = asyncio.create_task(post(session, two, body))
    await asyncio.to_thread(until, lambda: two.health["flights"] == 1)
    return [first, second]


@pytest.mark.parametrize("streamed", [False, True])
def test_equal_questions_at_two_edges_at_once_make_one_origin_request(pair: tuple[Bench, Bench], streamed: bool) -> None:
    one, two = pair
    body = question(test={"hold": "stream"}, stream=streamed)

    async def scene() -> None:
        async with aiohttp.ClientSession() as session:
            first, second = await waiting(session, one, two, body)
            one.origin.go()
            answers = await asyncio.gather(first, second)
        assert [answer.cache for answer in answers] == ["miss", "hit"]
        assert {answer.text for answer in answers} == {"Restart the pump [1]."}
        assert asked(one, body) == 1

    asyncio.run(scene())


def test_a_refusal_at_one_edge_is_not_handed_to_who_waited_at_the_other(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    body = question(test={"hold": "head", "status": 429})

    async def scene() -> None:
        async with aiohttp.ClientSession() as session:
            first, second = await waiting(session, one, two, body)
            one.origin.go()
            await asyncio.to_thread(until, lambda: asked(one, body) == 2)
            one.origin.go()
            assert [(await answer).status for answer in (first, second)] == [429, 429]

    asyncio.run(scene())


def test_who_waits_for_a_process_that_died_goes_on_when_its_lease_is_over(server: Server) -> None:
    async def scene(shared: Shared) -> None:
        assert await shared.claim("a", "of the dead", 0.2)
        assert await shared.claim("a", "mine", 9) is False
        async with asyncio.timeout(20), lease(shared, "a"):
            assert not await shared.claimed("a")

    within(server, scene)


def test_a_lease_is_held_until_the_work_is_done_and_nobody_else_can_end_it(server: Server) -> None:
    async def scene(shared: Shared) -> None:
        async with lease(shared, "a"):
            await shared.prolong("a", "another's token", 0)
            assert await shared.claimed("a")
        assert not await shared.claimed("a")

    within(server, scene)


def test_two_edges_admit_exactly_one_limit_together(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    token = one.key(rpm=20)

    async def scene() -> list[int]:
        async with aiohttp.ClientSession() as session:
            calls = [post(session, edge, {"stream": "no form"}, token) for _ in range(20) for edge in (one, two)]
            return [answer.status for answer in await asyncio.gather(*calls)]

    began = time.monotonic()
    statuses = asyncio.run(scene())
    returned = int((time.monotonic() - began) / 3)
    assert 20 <= statuses.count(400) <= 21 + returned, "20 at once, and one more each 3 s that this took"
    assert set(statuses) == {400, 429}


def test_tokens_reserved_at_one_edge_are_missing_at_the_other_until_they_are_settled(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    token, body = one.key(tpm=1000), question(max_tokens=900, test={"hold": "stream"}, stream=True)

    async def scene() -> None:
        async with aiohttp.ClientSession() as session:
            held = asyncio.create_task(post(session, one, body, token))
            await asyncio.to_thread(until, lambda: asked(one, body) == 1)
            refused = await post(session, two, question(max_tokens=900), token)
            assert (refused.status, refused.json["error"]["type"]) == (429, "tokens")
            one.origin.go()
            assert (await held).status == 200
        left = int(two.request("GET", "/v1/models", token=token).headers["x-ratelimit-remaining-tokens"])
        assert left >= 968, "25 were used, and 7 to ask"

    asyncio.run(scene())


def test_a_redis_that_is_down_is_a_miss_and_a_metric_and_never_an_error(tmp_path: Path) -> None:
    with valkey.running(tmp_path) as server, running(replace(EDGES["local"], redis=server.url).command, tmp_path) as bench:
        body, token = question(), bench.key(rpm=2)
        assert bench.chat(body, token).status == 200
        server.stop()
        states = [bench.chat(body, token) for _ in range(3)]
        assert [answer.status for answer in states] == [200, 200, 429], "the process counts by itself"
        assert [bench.chat(question()).cache, bench.chat(body).cache] == ["miss", "hit"]
        counts = bench.request("GET", "/metrics", token="").body.decode()
        failures = next(line for line in counts.splitlines() if line.startswith("ragstone_shared_failures_total"))
        assert float(failures.split()[1]) >= 1
        server.start()
        counted = redis.Redis(port=server.port)
        until(lambda: bench.chat(body).status == 200 and bool(counted.keys("*limit:*")))


def test_rediss_is_tls_checked_against_the_authority_that_the_url_names(tmp_path: Path) -> None:
    good, other = certificate.made(tmp_path, "redis"), certificate.made(tmp_path, "other")

    async def found(url: str) -> tuple[Entry | None, bool | None]:
        shared = Shared(url, 1 << 20)
        try:
            await shared.put("a", entry(), "r-a")
            return await shared.get("a"), await shared.claim("a", "mine", 0.01)
        finally:
            await shared.close()

    with valkey.running(tmp_path, SECRET, good) as server:
        assert asyncio.run(found(f"{server.url}&ssl_ca_certs={good.chain}"))[0] == entry()
        assert asyncio.run(found(f"{server.url}&ssl_ca_certs={other.chain}")) == (None, None), "another authority"
        assert asyncio.run(found(server.url)) == (None, None), "the system's authorities"
        assert asyncio.run(found(server.url.replace("rediss://", "redis://"))) == (None, None), "no TLS"


@pytest.mark.parametrize("url", [f"http://:{SECRET}@host", f"redis://:{SECRET}@host/?max_connections=many", SECRET])
def test_a_url_that_is_none_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        Shared(url, 1)
    assert SECRET not in str(error.value)


def test_the_password_is_not_in_what_a_setting_shows_of_itself() -> None:
    assert SECRET not in repr(config.load(environment={"RAGSTONE_EDGE_REDIS": f"redis://:{SECRET}@host"}))
