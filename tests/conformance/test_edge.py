"""What every edge does with answers, seen over HTTP alone: forms, freshness, what is stored, single flight."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conformance.bench import Bench, Edge, Response, asked, post, question, running, threaded, until


def told(events: list[Any]) -> list[Any]:
    """What the events of a stream say of the answer's evidence: once, on the finish."""
    return [event["ragstone"] for event in events if "ragstone" in event and event["choices"][0]["finish_reason"]]


# ---- keys and forms


def test_a_second_equal_question_is_a_hit_with_its_age_release_and_etag(bench: Bench) -> None:
    body = question()
    first, second = bench.chat(body), bench.chat(body)
    assert (first.status, first.cache, second.status, second.cache) == (200, "miss", 200, "hit")
    assert first.body == second.body
    assert first.headers["etag"] == second.headers["etag"] != ""
    assert second.headers["x-ragstone-release"] == "r-a"
    assert int(second.headers["age"]) >= 0
    assert asked(bench, body) == 1


def test_spelling_order_and_form_share_an_entry(bench: Bench) -> None:
    body = question(temperature=0)
    bench.chat(body)
    spelled = json.dumps(dict(reversed(body.items())), indent=3).replace('"temperature": 0', '"temperature": 0.0').encode()
    assert bench.chat(spelled).cache == "hit"
    assert bench.chat({**body, "user": "u-1", "stream": False, "stream_options": None}).cache == "hit"


TOOL = {"type": "function", "function": {"name": "pressure", "parameters": {"type": "object"}}}
CHANGES = [{"temperature": 1}, {"model": "canary"}, {"max_tokens": 5}, {"seed": None}, {"rag": {"threshold": 0.1}}, {"n": 2}]
CHANGES += [{"tools": [TOOL]}, {"logprobs": True}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_one_changed_field_makes_another_entry_known_or_not(bench: Bench, change: dict[str, Any]) -> None:
    body = question()
    assert bench.chat(body).cache == "miss"
    assert bench.chat({**body, **change}).cache == "miss"
    assert asked(bench, body) == 2


def test_an_image_makes_a_question_of_its_own(bench: Bench) -> None:
    text = question()["messages"][0]["content"]
    one, other = ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}} for data in ("iVBORw0KGgo=", "iVBORw0KGgp="))
    contents = [text, [{"type": "text", "text": text}], *([{"type": "text", "text": text}, image] for image in (one, other))]
    bodies = [{"model": "production", "messages": [{"role": "user", "content": content}]} for content in contents]
    assert [bench.chat(body).cache for body in bodies] == ["miss"] * 4
    assert [bench.chat({**body, "stream": True}).cache for body in bodies] == ["hit"] * 4
    assert [asked(bench, body) for body in bodies] == [1] * 4
    assert bench.origin.asked(contents[3])[0].body["messages"] == bodies[3]["messages"], "the origin gets the image as it was sent"


def test_numbers_too_large_to_be_told_apart_are_passed_through_as_they_are(bench: Bench) -> None:
    body = question()
    for seed in (2**53, 2**53 + 1, 2**63, 10**40):
        answer = bench.chat({**body, "seed": seed})
        assert (answer.status, answer.cache) == (200, "bypass")
    assert [one.body["seed"] for one in bench.origin.asked(body["messages"][0]["content"])] == [2**53, 2**53 + 1, 2**63, 10**40]


def test_audiences_never_share_an_answer(bench: Bench) -> None:
    body = question()
    bench.chat(body)
    for token in (bench.key(tenant="globex"), bench.key(groups=("public", "service")), bench.key(groups=("service",))):
        assert bench.chat(body, token).cache == "miss"
    assert bench.chat(body, bench.key()).cache == "hit"
    assert asked(bench, body) == 4


@pytest.mark.parametrize("first_streamed", [False, True])
def test_one_entry_serves_json_and_streams_with_usage_and_citations(bench: Bench, first_streamed: bool) -> None:
    body = question(test={"say": "Bleed it [1], then wait for the pressure to become steady at 2.5 bar before the pump is started again."})
    first = bench.chat({**body, "stream": first_streamed})
    whole = bench.chat({**body, "stream": False})
    stream = bench.chat({**body, "stream": True})
    counted = bench.chat({**body, "stream": True, "stream_options": {"include_usage": True}})
    assert (first.cache, whole.cache, stream.cache, counted.cache) == ("miss", "hit", "hit", "hit")
    assert first.text == whole.text == stream.text == counted.text == body["test"]["say"]
    assert whole.json["usage"] == counted.events[-1]["usage"] == {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    assert [whole.json["ragstone"]] == told(stream.events) == told(counted.events)
    assert all(event["choices"] for event in stream.events), "clients read choices[0] of every chunk"
    assert not any("usage" in event for event in stream.events)
    assert stream.events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [event["choices"][0]["finish_reason"] for event in stream.events if event["choices"]][-1] == "stop"
    assert asked(bench, body) == 1


@pytest.mark.parametrize("wanted", [True, False])
def test_a_live_stream_tells_the_usage_only_to_who_asked(bench: Bench, wanted: bool) -> None:
    answer = bench.chat({**question(), "stream": True, "stream_options": {"include_usage": wanted}})
    assert answer.cache == "miss"
    assert any("usage" in event for event in answer.events) == wanted
    assert told(answer.events)[0]["citations"]
    assert wanted or all(event["choices"] for event in answer.events)


def test_a_caller_who_has_the_answer_gets_only_headers(bench: Bench) -> None:
    body = question()
    etag = bench.chat(body).headers["etag"]
    again = bench.chat(body, if_none_match=etag)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    assert bench.chat(body, if_none_match='"other"').status == 200


def test_an_answer_that_the_origin_reused_says_so_in_every_form_and_state(bench: Bench) -> None:
    body = question(test={"headers": {"x-ragstone-reused": "How is it bled%3F"}})
    answers = [bench.chat({**body, "stream": True}), bench.chat(body), bench.chat({**body, "stream": True})]
    bench.promote("r-b")
    answers.append(bench.chat(body))
    assert [answer.cache for answer in answers] == ["miss", "hit", "hit", "revalidated"]
    assert {answer.headers["x-ragstone-reused"] for answer in answers} == {"How is it bled%3F"}
    assert "x-ragstone-reused" not in bench.chat(question()).headers


# ---- freshness


def test_a_release_change_costs_a_confirmation_not_an_answer(bench: Bench) -> None:
    body = question()
    bench.chat(body)
    bench.promote("r-b")
    confirmed, again = bench.chat(body), bench.chat({**body, "stream": True})
    assert (confirmed.cache, confirmed.headers["x-ragstone-release"]) == ("revalidated", "r-b")
    assert confirmed.json["ragstone"]["release"] == "r-b"
    assert (again.cache, again.headers["x-ragstone-release"]) == ("hit", "r-b")
    assert asked(bench, body) == 2
    assert bench.origin.asked(body["messages"][0]["content"])[1].headers["If-None-Match"] == confirmed.headers["etag"]


def test_an_answer_that_no_longer_holds_is_replaced(bench: Bench) -> None:
    body = question()
    bench.chat(body)
    bench.origin.confirms = False
    bench.promote("r-b")
    replaced, again = bench.chat(body), bench.chat(body)
    assert (replaced.cache, replaced.headers["x-ragstone-release"], again.cache) == ("miss", "r-b", "hit")
    assert asked(bench, body) == 2


def test_a_rollback_is_a_release_change_too(bench: Bench) -> None:
    body = question()
    for release, state in (("r-a", "miss"), ("r-b", "revalidated"), ("r-a", "revalidated")):
        bench.promote(release)
        answer = bench.chat(body)
        assert (answer.cache, answer.headers["x-ragstone-release"]) == (state, release)


def test_an_answer_made_before_a_promotion_and_finished_after_it_keeps_its_own_release(bench: Bench) -> None:
    body = question(test={"hold": "head"})

    async def scene() -> None:
        async with aiohttp.ClientSession() as session:
            started = asyncio.create_task(post(session, bench, body))
            await asyncio.to_thread(until, lambda: asked(bench, body) == 1)
            await asyncio.to_thread(bench.promote, "r-b")
            bench.origin.go()
            early = await started
            assert (early.status, early.headers["x-ragstone-release"], early.cache) == (200, "r-a", "miss")

    asyncio.run(scene())
    later = threaded(bench, body)
    assert (later.headers["x-ragstone-release"], later.cache) == ("r-b", "revalidated")


def test_a_conversation_stays_with_its_canary_and_its_answers_are_the_canarys_alone(bench: Bench) -> None:
    bodies = [question() for _ in range(20)]
    before = [bench.chat(body).headers["x-ragstone-release"] for body in bodies]
    bench.origin.canary = {"r-b": 50}
    until(lambda: any(bench.chat(body).headers["x-ragstone-release"] == "r-b" for body in bodies))
    first, again = [bench.chat(body) for body in bodies], [bench.chat({**body, "stream": True}) for body in bodies]
    releases = [answer.headers["x-ragstone-release"] for answer in first]
    assert before == ["r-a"] * 20
    assert set(releases) == {"r-a", "r-b"}
    assert releases == [answer.headers["x-ragstone-release"] for answer in again]
    assert {answer.cache for answer in again} == {"hit"}
    follow = bodies[releases.index("r-b")]["messages"] + [{"role": "assistant", "content": "So."}, {"role": "user", "content": "And then?"}]
    assert bench.chat({**bodies[0], "messages": follow}).headers["x-ragstone-release"] == "r-b"


def test_what_was_kept_before_a_purge_is_made_anew_even_when_the_origin_would_confirm_it(bench: Bench) -> None:
    body, late = question(), question(test={"hold": "head"})
    bench.chat(body)

    async def scene() -> None:
        async with aiohttp.ClientSession() as session:
            started = asyncio.create_task(post(session, bench, late))
            await asyncio.to_thread(until, lambda: asked(bench, late) == 1)
            bench.origin.purged = time.time()
            await asyncio.to_thread(until, lambda: bench.chat(body).cache == "miss")
            bench.origin.go()
            assert (await started).status == 200

    asyncio.run(scene())
    assert bench.chat(body).cache == "hit"
    assert "If-None-Match" not in bench.origin.asked(body["messages"][0]["content"])[-1].headers
    assert threaded(bench, late).cache == "miss", "it was begun before the purge"


def test_what_the_origin_confirms_before_the_edge_hears_of_a_purge_is_made_anew_all_the_same(command: list[str], tmp_path: Path) -> None:
    with running(command, tmp_path, edge_ttl=0, edge_release_check=1) as bench:
        body = question()
        bench.chat(body)
        bench.origin.purged = time.time()
        until(lambda: bench.chat(body).cache == "miss")


@pytest.mark.parametrize("way", ["a release without it", "a purge"])
def test_an_answer_that_cites_a_deleted_document_is_never_served_again(command: list[str], tmp_path: Path, way: str) -> None:
    with running(command, tmp_path) as bench:
        bodies = [question(), question()]
        for body in bodies:
            assert b"pump.md" in bench.chat(body).body
            assert bench.chat({**body, "stream": True}).cache == "hit"
        bench.origin.forgotten.add("pump.md")
        if way == "a purge":
            bench.origin.purged = time.time()
            until(lambda: bench.chat(bodies[0]).cache == "miss")
        else:
            bench.promote("r-b")
            assert bench.chat(bodies[0]).cache == "miss"
        for streamed in (False, True):
            again = bench.chat({**bodies[0], "stream": streamed})
            assert (again.cache, b"pump.md" in again.body) == ("hit", False)
        bench.origin.close()
        down = bench.chat(bodies[1])
        assert (down.status, b"pump.md" in down.body) == (503, False), "nor does it stand in for an origin that is down"


def test_a_purge_that_is_dated_in_the_future_costs_answers_and_serves_no_old_one(bench: Bench) -> None:
    body = question()
    bench.chat(body)
    bench.origin.purged = time.time() + 3600
    until(lambda: bench.chat(body).cache == "miss")
    assert [bench.chat(body).cache for _ in range(2)] == ["miss", "miss"]
    bench.origin.purged = 0.0
    until(lambda: bench.chat(body).cache == "hit")


def test_after_the_ttl_the_origin_is_asked(command: list[str], tmp_path: Path) -> None:
    with running(command, tmp_path, edge_ttl=0) as bench:
        body = question()
        assert [bench.chat(body).cache for _ in range(3)] == ["miss", "revalidated", "revalidated"]


def test_the_callers_cache_control_is_obeyed(bench: Bench) -> None:
    body = question()
    assert bench.chat(body, cache_control="no-store").cache == "bypass"
    assert bench.chat(body).cache == "miss"
    assert bench.chat(body, cache_control="no-store").cache == "bypass"
    assert bench.chat(body, cache_control="no-cache").cache == "revalidated"
    assert bench.chat(body, cache_control="max-age=0").cache == "revalidated"
    assert bench.chat(body, cache_control="max-age=3600").cache == "hit"
    assert asked(bench, body) == 5


def test_what_the_origin_forbids_to_store_is_not_stored(bench: Bench) -> None:
    body = question(test={"headers": {"cache-control": "no-store"}})
    assert [bench.chat(body).cache, bench.chat(body).cache] == ["miss", "miss"]


NO_POINTERS = [
    [],
    {"release": "r-z"},
    {"channel": "p", "number": 1, "release": 7, "keys": {}, "revoked": []},
    {"channel": "p", "number": 1, "release": "r-z", "keys": {"k": "short"}, "revoked": []},
]


@pytest.mark.parametrize("pointer", NO_POINTERS, ids=str)
def test_a_release_pointer_that_is_none_leaves_the_last_one_in_force(bench: Bench, pointer: object) -> None:
    body = question()
    bench.chat(body)
    bench.origin.pointer = pointer
    until(lambda: bool(bench.health["origin"] != "ok"))
    assert bench.health["release"] == "r-a"
    assert bench.chat(body).cache == "hit"
    bench.origin.pointer = None
    until(lambda: bool(bench.health["origin"] == "ok"))


# ---- what is never stored


FAULTS: list[dict[str, Any]] = [{"cut": "no done"}, {"cut": "no finish"}, {"cut": "early"}, {"cut": "before finish"}, {"error": True}]
FAULTS += [{"malformed": data} for data in ("data: {\n\n", "data: []\n\n", 'data: {"choices": 7}\n\n', 'data: {"x": "\xff"}\n\n')]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_broken_answer_is_told_as_an_error_and_never_stored(bench: Bench, fault: dict[str, Any], streamed: bool) -> None:
    body = question(test=fault, stream=streamed)
    for _ in range(2):
        answer = bench.chat(body)
        if streamed:
            assert b"[DONE]" not in answer.body
            last = json.loads(answer.body.rstrip().rsplit(b"data: ", 1)[1])
        else:
            assert answer.status == 502
            last = answer.json
        assert set(last["error"]) == {"message", "type", "param", "code"}
    assert asked(bench, body) == 2


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_the_origins_error_is_passed_on_and_never_stored(bench: Bench, status: int) -> None:
    body = question(test={"status": status})
    for streamed in (False, True):
        answer = bench.chat({**body, "stream": streamed})
        assert (answer.status, answer.json["error"]["code"], answer.headers["retry-after"]) == (status, "test", "7")
    assert asked(bench, body) == 2


def test_an_origin_that_is_down_is_stood_in_for_only_inside_its_release(command: list[str], tmp_path: Path) -> None:
    with running(command, tmp_path, edge_ttl=0) as bench:
        kept, new = question(), question()
        bench.chat(kept)
        bench.origin.close()
        assert (bench.chat(kept).status, bench.chat(kept).cache) == (200, "hit")
        assert bench.chat(kept, bench.key(tenant="globex")).status == 503
        assert bench.chat(kept, cache_control="no-cache").status == 503
        answer = bench.chat({**new, "stream": True})
        assert (answer.status, answer.json["error"]["code"]) == (503, "origin_error")
        assert int(answer.headers["retry-after"]) >= 1
        assert bench.request("GET", "/readyz").status == 200


def test_a_late_origin_is_a_504(command: list[str], tmp_path: Path) -> None:
    with running(command, tmp_path, edge_timeout=0.5) as bench:
        answer = bench.chat(question(test={"hold": "head"}))
        assert (answer.status, answer.json["error"]["code"]) == (504, "origin_error")


# ---- single flight


def test_a_thousand_concurrent_equal_misses_make_one_origin_request_and_fail_nobody(bench: Bench) -> None:
    body = question(test={"hold": "stream"})

    async def scene() -> list[Response]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            waiting: list[asyncio.Task[Response]] = []

            def read() -> bool:
                return bool(bench.health["requests"] > len(waiting))

            while len(waiting) < 1000:
                # by the hundred: workerd hangs up on who it has not come to read within 15 s, as happens on a busy machine
                waiting += [asyncio.create_task(post(session, bench, {**body, "stream": number % 2 == 0})) for number in range(100)]
                await asyncio.to_thread(until, read)
            await asyncio.to_thread(until, lambda: asked(bench, body) > 0)
            bench.origin.go()
            return await asyncio.gather(*waiting)

    answers = asyncio.run(scene())
    assert {answer.status for answer in answers} == {200}
    assert {answer.text for answer in answers} == {"Restart the pump [1]."}
    assert asked(bench, body) == 1


def test_who_joins_late_gets_what_was_said_and_then_the_rest_live(bench: Bench) -> None:
    body = question(test={"hold": "stream"}, stream=True)

    async def scene() -> None:
        async with aiohttp.ClientSession() as session:
            headers = {"authorization": f"Bearer {bench.token}"}
            streams = []
            for _ in range(2):
                answer = await session.post(f"{bench.url}/v1/chat/completions", json=body, headers=headers)
                seen = b""
                while b"Restart" not in seen:
                    seen += await answer.content.readany()
                streams.append((answer, seen))
            bench.origin.go()
            for answer, seen in streams:
                whole = Response(200, {"content-type": "text/event-stream"}, seen + await answer.read())
                assert whole.text == "Restart the pump [1]."

    asyncio.run(scene())
    assert asked(bench, body) == 1


@pytest.mark.parametrize("streamed", [True, False])
def test_a_caller_who_hangs_up_does_not_lose_the_answer_for_others(bench: Bench, streamed: bool) -> None:
    body = question(test={"hold": "stream"}, stream=streamed)

    async def scene() -> None:
        async with aiohttp.ClientSession() as session:
            leaving = asyncio.create_task(post(session, bench, body))
            await asyncio.to_thread(until, lambda: asked(bench, body) == 1)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    asyncio.run(scene())
    finished = bench.origin.finished
    bench.origin.go()
    until(lambda: bench.origin.finished > finished)
    until(lambda: bench.chat(body).cache == "hit")
    assert asked(bench, body) == 1


def test_a_caller_who_hangs_up_past_the_cache_ends_the_origins_work(edge: Edge, bench: Bench) -> None:
    edge.needs("leaving")
    body = question(test={"hold": "stream"}, stream=True)
    before = bench.health["flights"]

    async def scene() -> None:
        async with aiohttp.ClientSession() as session:
            leaving = asyncio.create_task(post(session, bench, body, cache_control="no-store"))
            await asyncio.to_thread(until, lambda: asked(bench, body) == 1)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    asyncio.run(scene())
    until(lambda: bool(bench.health["flights"] == before))


def test_a_refusal_of_the_first_caller_is_not_handed_to_those_who_joined(bench: Bench) -> None:
    body = question(test={"hold": "head", "status": 403})
    other = bench.key()

    async def scene() -> list[Response]:
        async with aiohttp.ClientSession() as session:
            waiting = [asyncio.create_task(post(session, bench, body))]
            await asyncio.to_thread(until, lambda: asked(bench, body) == 1)
            waiting.append(asyncio.create_task(post(session, bench, body, other)))
            while not all(task.done() for task in waiting):
                bench.origin.go()
                await asyncio.wait(waiting, timeout=0.02)
            return [task.result() for task in waiting]

    assert [answer.status for answer in asyncio.run(scene())] == [403, 403]
    seen = bench.origin.asked(body["messages"][0]["content"])
    assert {one.headers["Authorization"] for one in seen} == {f"Bearer {bench.token}", f"Bearer {other}"}
