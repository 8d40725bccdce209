"""What every edge does with callers, seen over HTTP alone: keys, limits, bad input, headers, and its own process."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import aiohttp
import jwt
import openai
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ragstone import access
from tests.conformance.bench import ROOT, Bench, Edge, Response, asked, drained, post, question, running, until

# ---- keys


VECTORS = json.loads((ROOT / "tests" / "vectors" / "tokens.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_a_bad_key_is_a_401_that_does_not_repeat_it(bench: Bench, case: dict[str, Any]) -> None:
    answer = bench.request("GET", "/v1/models", token=case["token"])
    assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not case["token"] or case["token"].encode() not in answer.body


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Basic dTpw", "bearer\tx"])
def test_a_request_without_a_key_is_a_401(bench: Bench, authorization: str) -> None:
    assert bench.request("GET", "/v1/models", token="", authorization=authorization).status == 401


def test_a_key_revoked_at_the_origin_is_refused_even_for_what_is_cached(bench: Bench) -> None:
    token, body = bench.key(), question()
    bench.chat(body, token)
    assert bench.chat(body, token).cache == "hit"
    bench.origin.revoked.append(access.Verifier(bench.keys).verify(token).key)
    until(lambda: bench.chat(body, token).status == 401)
    assert bench.chat(body).cache == "hit"


def test_a_key_revoked_while_its_answer_is_told_gets_that_answer_and_no_other(bench: Bench) -> None:
    token, body = bench.key(), question(test={"hold": "stream"}, stream=True)

    async def scene() -> Response:
        async with aiohttp.ClientSession() as session:
            started = asyncio.create_task(post(session, bench, body, token))
            await asyncio.to_thread(until, lambda: asked(bench, body) == 1)
            bench.origin.revoked.append(access.Verifier(bench.keys).verify(token).key)
            await asyncio.to_thread(until, lambda: bench.request("GET", "/v1/models", token=token).status == 401)
            bench.origin.go()
            return await started

    assert asyncio.run(scene()).text == "Restart the pump [1]."


def test_a_key_signed_by_a_new_signing_key_is_taken_once_the_origin_publishes_it(bench: Bench) -> None:
    (bench.folder / "keys" / access.SIGNING).unlink()
    token = bench.key()
    assert bench.chat(question(), token).status == 401
    bench.origin.keys = access.published(bench.keys)
    until(lambda: bench.chat(question(), token).status == 200)


def signed(bench: Bench, **claims: float) -> str:
    """A key with these times, in Unix seconds."""
    signing = load_pem_private_key((bench.folder / "keys" / access.SIGNING).read_bytes(), password=None)
    issued = bench.key()
    told, kid = jwt.decode(issued, options={"verify_signature": False}), jwt.get_unverified_header(issued)["kid"]
    return jwt.encode({**told, **claims}, cast(Any, signing), algorithm="EdDSA", headers={"kid": kid})


def test_a_keys_times_are_those_of_the_edges_clock_to_the_second(bench: Bench) -> None:
    now, body = time.time(), question()
    times = {"exp": (now + 60, now - 1), "nbf": (now - 1, now + 60)}
    for name, (within, beyond) in times.items():
        assert bench.chat(body, signed(bench, **{name: within})).status == 200
        refused = bench.chat(body, signed(bench, **{name: beyond}))
        assert (refused.status, refused.json["error"]["code"]) == (401, "invalid_api_key")


def test_a_key_that_the_edge_knows_ends_with_its_time_and_begins_with_it(bench: Bench) -> None:
    body, soon = question(), int(time.time()) + 4
    ending, beginning = signed(bench, exp=soon), signed(bench, nbf=soon)
    assert [bench.chat(body, token).status for token in (ending, ending, beginning)] == [200, 200, 401]
    until(lambda: time.time() >= soon)
    assert [bench.chat(body, token).status for token in (ending, beginning, beginning)] == [401, 200, 200]


# ---- limits


def test_requests_are_counted_hits_too_and_refused_with_the_time_to_wait(bench: Bench) -> None:
    token, body = bench.key(rpm=3, tpm=1_000_000), question()
    answers = [bench.chat(body, token) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.cache for answer in answers[:3]] == ["miss", "hit", "hit"]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"3"}
    refused = answers[3]
    assert refused.json["error"]["code"] == "rate_limit_exceeded"
    assert refused.json["error"]["type"] == "requests"
    assert 0 < int(refused.headers["retry-after-ms"]) <= 20_000
    assert int(refused.headers["retry-after"]) == -(-int(refused.headers["retry-after-ms"]) // 1000)
    assert bench.chat(body).status == 200


def test_tokens_are_settled_with_what_was_used_in_both_forms_and_hits_cost_none(bench: Bench) -> None:
    token = bench.key(tpm=1000)
    for streamed, left in ((False, 975), (True, 950)):
        body = question(max_tokens=600, stream=streamed)
        first = bench.chat(body, token)
        assert first.headers["x-ratelimit-limit-tokens"] == "1000"
        hit = bench.chat(body, token)
        assert hit.cache == "hit"
        assert left <= int(hit.headers["x-ratelimit-remaining-tokens"]) <= left + 15  # 17 come back each second
    assert asked(bench, body) == 1


def test_concurrent_answers_cant_all_pass_a_token_limit_for_one(bench: Bench) -> None:
    token = bench.key(tpm=1000)
    bodies = [question(max_tokens=600, test={"hold": "head"}) for _ in range(5)]

    async def scene() -> list[Response]:
        async with aiohttp.ClientSession() as session:
            waiting = [asyncio.create_task(post(session, bench, body, token)) for body in bodies]
            while not all(task.done() for task in waiting):
                await asyncio.wait(waiting, timeout=0.02)
                if sum(task.done() for task in waiting) >= 4:
                    bench.origin.go()
            return [task.result() for task in waiting]

    answers = asyncio.run(scene())
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 4
    assert {answer.json["error"]["type"] for answer in refused} == {"tokens"}
    assert sum(asked(bench, body) for body in bodies) == 1


def test_a_confirmation_and_a_failure_cost_no_tokens(bench: Bench) -> None:
    token, body = bench.key(tpm=1000), question(max_tokens=900)
    bench.chat(body, token)
    assert bench.chat(body, token, cache_control="no-cache").cache == "revalidated"
    assert bench.chat(question(max_tokens=900, test={"status": 500}), token).status == 500
    assert bench.chat(question(max_tokens=900, test={"cut": "no done"}), token).status == 502
    assert int(bench.chat(body, token).headers["x-ratelimit-remaining-tokens"]) >= 975


# ---- bad input


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", b"[]", b'{"a":1,"a":2}', b'{"a":"\xff"}', b'{"a":NaN}', b'{"a":' + b"[" * 50_000, b'{"stream":"yes"}', b'{"stream":1}'],
    ids=lambda body: body[:20],
)
def test_a_malformed_body_is_a_400_that_the_origin_never_sees(bench: Bench, body: bytes) -> None:
    seen = len(bench.origin.seen)
    answer = bench.chat(body)
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert len(bench.origin.seen) == seen


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "in chunks"])
def test_a_body_over_the_limit_is_a_413(shared: Bench, told: bool) -> None:
    host, port = shared.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {shared.token}\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        if told:
            raw.sendall(f"{head}content-length: 100000000000\r\n\r\n".encode())
        else:
            raw.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
            block = b"%x\r\n%s\r\n" % (1 << 18, b"x" * (1 << 18))
            for _ in range(5):
                raw.sendall(block)
        answer = b""
        while b"body_too_large" not in answer:
            part = raw.recv(65536)
            assert part, answer
            answer += part
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/chat/completions", 405), ("DELETE", "/v1/models", 405), ("GET", "/admin/keys", 404), ("GET", "/v1/release", 404),
     ("GET", "/v1/models/../../admin/x", 404), ("GET", "/v1/models/..%2f..%2fadmin", 404), ("POST", "/v1/chat/completions/", 404)],
)  # fmt: skip
def test_only_the_public_routes_are_there(bench: Bench, method: str, path: str, status: int) -> None:
    seen = len(bench.origin.seen)
    answer = bench.request(method, path)
    assert (answer.status, set(answer.json["error"])) == (status, {"message", "type", "param", "code"})
    assert len(bench.origin.seen) == seen


def test_two_lengths_of_one_request_are_refused(edge: Edge, shared: Bench) -> None:
    edge.needs("parser")
    host, port = shared.url.removeprefix("http://").split(":")
    smuggled = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    for lengths in (b"content-length: 5\r\ncontent-length: 50\r\n", b"content-length: 5\r\ntransfer-encoding: chunked\r\n"):
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + lengths + b"\r\n0\r\n\r\n" + smuggled)
            raw.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))  # type: ignore[misc]
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 400")


def sent(bench: Bench, body: bytes, more: bytes = b"") -> bytes:
    """The bytes of a request."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {bench.token}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + more + b"\r\n" + body


def answered(shared: Bench, *parts: bytes, count: int = 1) -> list[Response]:
    """So many answers to parts that are sent one after the other, each when the edge has had time to read the one before; then nothing."""
    host, port = shared.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw, raw.makefile("rb") as file:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            raw.sendall(part)
            shared.request("GET", "/healthz", token="")
        answers = [read(file) for _ in range(count)]
        raw.shutdown(socket.SHUT_WR)
        assert file.read() == b""
        return answers


def read(file: BinaryIO) -> Response:
    status, headers = int(file.readline().split()[1]), {}
    while line := file.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    return Response(status, headers, file.read(int(headers.get("content-length", 0))))


def test_a_body_that_looks_like_a_known_request_is_a_body(shared: Bench) -> None:
    known = sent(shared, json.dumps(question()).encode())
    assert [answered(shared, known)[0].status for _ in range(3)] == [200, 200, 200]
    head, body = sent(shared, known)[: -len(known)], known
    (answer,) = answered(shared, head, body)
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_json")


def test_requests_that_come_together_or_in_pieces_are_answered_in_order(shared: Bench) -> None:
    one, two = (sent(shared, json.dumps(question(test={"say": say})).encode()) for say in ("First.", "Second."))
    for parts in ([one + two], [one, two], [one + two], [one[:40], one[40:] + two[:60], two[60:]]):
        assert [answer.text for answer in answered(shared, *parts, count=2)] == ["First.", "Second."]


def test_what_a_caller_says_beside_a_known_question_counts(shared: Bench) -> None:
    body = json.dumps(question()).encode()
    *_, known = [answered(shared, sent(shared, body))[0] for _ in range(3)]
    assert known.cache == "hit"
    for _ in range(2):
        (past,) = answered(shared, sent(shared, body, b"cache-control: no-store\r\n"))
        (had,) = answered(shared, sent(shared, body, f"if-none-match: {known.headers['etag']}\r\n".encode()))
        (last,) = answered(shared, sent(shared, body, b"connection: close\r\n"))
        assert (past.cache, had.status, last.cache) == ("bypass", 304, "hit")


# ---- headers


def test_the_origin_sees_the_key_and_the_trace_and_nothing_else_of_the_caller(bench: Bench) -> None:
    body = question()
    injected = {"x_ragstone_release": "r-z", "x_ragstone_cache": "hit", "x_ragstone_groups": "admin"}
    injected |= {"cookie": "a=b", "x_forwarded_for": "1.2.3.4"}
    hops = {"te": "trailers", "keep_alive": "timeout=5", "proxy_authorization": "Basic x", "upgrade": "h2c", "if_none_match": '"forged"'}
    answer = bench.chat(body, x_request_id="req-7", traceparent="00-1-2-3", **injected, **hops)
    seen = bench.origin.asked(body["messages"][0]["content"])[0].headers
    lower = {name.lower(): value for name, value in seen.items()}
    assert not set(lower) & {name.replace("_", "-") for name in injected | hops}
    assert (lower["authorization"], lower["x-request-id"], lower["traceparent"]) == (f"Bearer {bench.token}", "req-7", "00-1-2-3")
    assert answer.headers["x-request-id"] == "req-7"
    assert (answer.headers["x-ragstone-release"], answer.headers["x-ragstone-cache"]) == ("r-a", "miss")


def test_the_origin_is_told_that_an_answer_must_not_be_kept(bench: Bench) -> None:
    body = question()
    bench.chat(body, cache_control="no-store")
    seen = bench.origin.asked(body["messages"][0]["content"])[0].headers
    assert {name.lower(): value for name, value in seen.items()}["cache-control"] == "no-store"


def test_the_caller_sees_nothing_of_the_origin_but_what_the_contract_names(bench: Bench) -> None:
    for answer in (bench.chat(question()), bench.chat(question(), cache_control="no-store"), bench.request("GET", "/v1/models")):
        assert "x-secret" not in answer.headers
        assert "server" not in answer.headers


def test_a_request_id_that_is_none_is_replaced(bench: Bench) -> None:
    ids = {bench.request("GET", "/healthz", x_request_id=given).headers["x-request-id"] for given in ("a b", "", "x" * 200, "é")}
    assert len(ids) == 4
    assert all(id.startswith("req-") for id in ids)


@pytest.mark.parametrize(("method", "path", "body"), [("POST", "/v1/embeddings", {"input": "a"}), ("POST", "/v1/retrieve", {"query": "a"}),
                                                      ("GET", "/v1/models", None), ("GET", "/v1/models/production", None)])  # fmt: skip
def test_other_routes_pass_with_key_and_limits(bench: Bench, method: str, path: str, body: object) -> None:
    token = bench.key(rpm=1, tpm=1000)
    first, second = bench.request(method, path, body, token), bench.request(method, path, body, token)
    assert (first.status, first.json["path"], first.cache) == (200, path, "bypass")
    assert (first.headers["x-ragstone-release"], first.headers["x-ratelimit-remaining-requests"]) == ("r-a", "0")
    assert int(first.headers["x-ratelimit-remaining-tokens"]) in range(992, 995)
    assert second.status == 429
    assert bench.request(method, path, body, token="").status == 401


def test_openais_client_reads_answers_streams_and_errors(bench: Bench) -> None:
    client = openai.OpenAI(base_url=f"{bench.url}/v1", api_key=bench.token, max_retries=0)
    messages: Any = question()["messages"]
    for _ in range(2):
        stream = client.chat.completions.create(model="production", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "Restart the pump [1]."
        assert client.chat.completions.create(model="production", messages=messages).choices[0].message.content == "Restart the pump [1]."
    broken = client.chat.completions.create(model="production", messages=messages, stream=True, extra_body={"test": {"cut": "no done"}})
    with pytest.raises(openai.APIError, match="cut short"):
        list(broken)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-forged").models.list()
    limited = client.with_options(api_key=bench.key(rpm=1))
    limited.chat.completions.create(model="production", messages=messages)
    with pytest.raises(openai.RateLimitError):
        limited.chat.completions.create(model="production", messages=messages)


# ---- the process


def test_an_edge_whose_origin_is_not_there_yet_says_so_and_serves_when_it_is(command: list[str], tmp_path: Path) -> None:
    with running(command, tmp_path, edge_origin="http://127.0.0.1:9") as bench:
        answer = bench.chat(question())
        assert (answer.status, answer.json["error"]["code"], answer.headers["retry-after"]) == (503, "origin_error", "1")
        assert (bench.request("GET", "/healthz").status, bench.request("GET", "/readyz").status) == (200, 503)


def test_metrics_count_answers_by_cache_state(edge: Edge, bench: Bench) -> None:
    edge.needs("metrics")
    body = question()
    bench.chat(body)
    bench.chat(body)
    lines = bench.request("GET", "/metrics", token="").body.decode().splitlines()
    counts = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("ragstone_")}
    assert counts['ragstone_cache_total{state="hit"}'] >= 1
    assert counts['ragstone_requests_total{part="edge",route="/v1/chat/completions",status="200"}'] >= 2
    assert bench.token not in "".join(lines)


def test_an_edge_that_is_told_to_end_finishes_the_answers_under_way(edge: Edge, tmp_path: Path) -> None:
    edge.needs("drain")
    with running(edge.command, tmp_path) as bench:
        assert drained(bench, lambda: listening(bench)).text == "Restart the pump [1]."


def listening(bench: Bench) -> bool:
    try:
        bench.request("GET", "/healthz", token="")
    except ConnectionError:
        return False
    return True
