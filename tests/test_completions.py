import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from ragstone import telemetry, wire
from ragstone.completions import ATTEMPTS, Completions, Endpoint, Patience
from ragstone.errors import GeneratorError
from ragstone.wire import Head, Message, Piece, Sampling, Usage

HEAD = Head("chatcmpl-1", 1_700_000_000, "toy")
WHOLE = [wire.chunk(HEAD, role="assistant"), wire.chunk(HEAD, "Prime "), wire.chunk(HEAD, "it."), wire.chunk(HEAD, finish="stop")]
WHOLE.append(wire.last_chunk(HEAD, Usage(9, 4)))
ANSWER = [Piece("Prime "), Piece("it."), Piece("", "stop", Usage(9, 4))]
QUICK = Patience(connect=5, read=5, total=30, backoff=0)
KEY = "sk-very-secret"

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """A real HTTP server that gives the scripted replies in turn, the last one for ever."""

    replies: list[Reply]
    url: str = ""
    times: list[float] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.times.append(asyncio.get_running_loop().time())
        self.requests.append({"body": await request.json(), "key": request.headers.get("authorization")})
        reply = self.replies[0] if len(self.replies) == 1 else self.replies.pop(0)
        try:
            return await reply(request)
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise


@asynccontextmanager
async def serving(*replies: Reply) -> AsyncIterator[Server]:
    server = Server(list(replies))
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client(patience: Patience = QUICK) -> AsyncIterator[Completions]:
    completions = Completions(patience)
    try:
        yield completions
    finally:
        await completions.close()


async def begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


def streamed(*parts: bytes, then: Callable[[web.Request], Awaitable[None]] | None = None) -> Reply:
    """Status 200, the parts one by one, then whatever the case is about."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        for part in parts:
            await response.write(part)
        if then is not None:
            await then(request)
        return response

    return reply


def status(code: int, text: str = '{"error":{"message":"busy"}}', **headers: str) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=text, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return reply


async def hang(request: web.Request) -> None:
    await asyncio.Event().wait()


async def cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


async def never(request: web.Request) -> web.StreamResponse:
    await hang(request)
    raise AssertionError


async def drop(request: web.Request) -> web.StreamResponse:
    await cut(request)
    return web.Response()


whole = streamed(*map(wire.sse, WHOLE), wire.DONE)


def run(case: Coroutine[Any, Any, None]) -> None:
    asyncio.run(case)


async def pieces(completions: Completions, server: Server, key: str = "") -> list[Piece]:
    endpoint = Endpoint(server.url, "toy", key)
    return [piece async for piece in completions.stream(endpoint, [Message("user", "How?")], Sampling())]


async def failure(completions: Completions, server: Server, key: str = "") -> tuple[GeneratorError, list[Piece]]:
    """The error of a stream, and the pieces that came before it."""
    given: list[Piece] = []
    try:
        async for piece in completions.stream(Endpoint(server.url, "toy", key), [], Sampling()):
            given.append(piece)
    except GeneratorError as error:
        return error, given
    pytest.fail(f"the stream ended well after {given}")


def test_an_answer_comes_piece_by_piece_and_ends_with_finish_and_usage() -> None:
    async def case() -> None:
        async with serving(whole) as server, client() as completions:
            assert await pieces(completions, server, KEY) == ANSWER
            assert server.requests[0]["key"] == f"Bearer {KEY}"
            assert server.requests[0]["body"]["model"] == "toy"

    run(case())


def test_an_answer_is_the_same_when_every_byte_arrives_by_itself() -> None:
    stream = b"".join(map(wire.sse, WHOLE)).replace(b"\n", b"\r\n") + wire.DONE

    async def case() -> None:
        async with serving(streamed(*(bytes([byte]) for byte in stream))) as server, client() as completions:
            assert await pieces(completions, server) == ANSWER

    run(case())


@pytest.mark.parametrize("fault", [status(429), status(500), status(503), drop], ids=["429", "500", "503", "dropped"])
def test_a_fault_before_the_first_byte_is_tried_again(fault: Reply) -> None:
    async def case() -> None:
        async with serving(fault, fault, whole) as server, client() as completions:
            assert await pieces(completions, server) == ANSWER
            assert len(server.times) == 3

    run(case())


def test_retry_after_is_waited_for() -> None:
    async def case() -> None:
        async with serving(status(429, retry_after="0.3"), whole) as server, client() as completions:
            assert await pieces(completions, server) == ANSWER
            assert server.times[1] - server.times[0] >= 0.3

    run(case())


def test_a_retry_after_beyond_our_time_out_is_not_waited_for() -> None:
    async def case() -> None:
        async with serving(status(429, retry_after="3600")) as server, client() as completions:
            error, _ = await failure(completions, server)
            assert error.retryable
            assert "answered 429 for 'toy': busy" in error.message
            assert len(server.times) == 1

    run(case())


def test_a_retry_after_that_is_a_date_falls_back_to_the_pause_of_our_own() -> None:
    async def case() -> None:
        async with serving(status(503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), whole) as server, client() as completions:
            assert await pieces(completions, server) == ANSWER

    run(case())


def test_a_server_that_stays_broken_is_given_up() -> None:
    async def case() -> None:
        async with serving(status(500)) as server, client() as completions:
            error, _ = await failure(completions, server)
            assert error.retryable
            assert len(server.times) == ATTEMPTS

    run(case())


@pytest.mark.parametrize(("code", "hint"), [(400, ""), (401, "set RAGSTONE_SERVE_API_KEY"), (404, "")])
def test_a_refusal_is_final_and_tells_no_key(code: int, hint: str) -> None:
    async def case() -> None:
        async with serving(status(code, f'{{"error":{{"message":"no: {KEY}"}}}}')) as server, client() as completions:
            error, _ = await failure(completions, server, KEY)
            assert not error.retryable
            assert error.hint == hint
            assert KEY not in repr(error) + str(error)
            assert len(server.times) == 1

    run(case())


def test_a_redirect_does_not_carry_the_key_elsewhere() -> None:
    async def case() -> None:
        async with serving(whole) as other:
            async with serving(status(307, location=f"{other.url}/chat/completions")) as server, client() as completions:
                error, _ = await failure(completions, server, KEY)
            assert "answered 307" in error.message
            assert other.requests == []

    run(case())


def test_nothing_listening_is_an_error_that_may_pass() -> None:
    async def case() -> None:
        async with serving(whole) as server:
            pass
        async with client() as completions:
            error, _ = await failure(completions, server)
            assert error.retryable
            assert "can't be reached" in error.message

    run(case())


FIRST = wire.sse(WHOLE[1])


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (streamed(FIRST, then=cut), "broke off its answer"),
        (streamed(FIRST), "before it was whole"),
        (streamed(FIRST, wire.DONE), "before it was whole"),
        (streamed(FIRST, wire.sse(WHOLE[3])), "before it was whole"),
        (streamed(FIRST, wire.sse(b'{"error":{"message":"out of memory"}}')), "the generator stopped: out of memory"),
        (streamed(FIRST, wire.sse(b"<oops>")), "not JSON"),
        (streamed(FIRST, b"data: " + b"x" * (2 << 20)), "over 1048576 bytes"),
    ],
    ids=["cut", "ended", "no finish", "no [DONE]", "error event", "garbage", "endless event"],
)
def test_an_answer_that_is_not_whole_is_an_error_and_not_tried_again(reply: Reply, message: str) -> None:
    async def case() -> None:
        async with serving(reply) as server, client() as completions:
            error, given = await failure(completions, server)
            assert message in error.message
            assert not error.retryable
            assert given == [Piece("Prime ")]
            assert len(server.times) == 1

    run(case())


def test_an_answer_cut_before_its_first_piece_may_be_asked_for_again() -> None:
    async def case() -> None:
        async with serving(streamed(wire.sse(WHOLE[0]), then=cut)) as server, client() as completions:
            error, given = await failure(completions, server)
            assert error.retryable
            assert given == []

    run(case())


def test_a_page_in_place_of_a_stream_is_named() -> None:
    async def case() -> None:
        async with serving(status(200, "<html>", content_type="text/html")) as server, client() as completions:
            error, _ = await failure(completions, server)
            assert "answered with 'text/html" in error.message

    run(case())


@pytest.mark.parametrize(
    ("reply", "patience", "message"),
    [
        (never, Patience(total=0.2), "did not begin its answer in time"),
        (streamed(FIRST, then=hang), Patience(read=0.2), "fell silent in the middle"),
        (streamed(FIRST, then=hang), Patience(total=0.3), "fell silent in the middle"),
    ],
    ids=["before the first byte", "between two reads", "in all"],
)
def test_a_hang_ends_by_time_out_and_ends_the_request_too(reply: Reply, patience: Patience, message: str) -> None:
    async def case() -> None:
        async with serving(reply) as server, client(patience) as completions:
            error, _ = await failure(completions, server)
            assert message in error.message
            assert "serve.timeout" in error.hint
            await server.gone.wait()

    run(case())


def test_a_slow_first_byte_within_the_time_out_is_waited_for() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)  # longer than the pause between two reads may be: a prompt is being read
        return await whole(request)

    async def case() -> None:
        async with serving(slow) as server, client(Patience(read=0.1)) as completions:
            assert await pieces(completions, server) == ANSWER

    run(case())


def test_closing_the_stream_ends_the_request_upstream() -> None:
    async def case() -> None:
        async with serving(streamed(FIRST, then=hang)) as server, client() as completions:
            async with aclosing(completions.stream(Endpoint(server.url, "toy"), [], Sampling())) as stream:
                assert await anext(stream) == Piece("Prime ")
            await server.gone.wait()

    run(case())


def test_a_cancelled_reader_ends_the_request_upstream() -> None:
    async def case() -> None:
        async with serving(never) as server, client() as completions:
            reader = asyncio.create_task(pieces(completions, server))
            while not server.requests:
                await asyncio.sleep(0)
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader
            await server.gone.wait()

    run(case())


def test_the_key_shows_in_no_repr() -> None:
    assert KEY not in repr(Endpoint("http://127.0.0.1/v1", "toy", KEY))


def test_a_generation_is_counted() -> None:
    def count() -> float:
        return telemetry.REGISTRY.get_sample_value("ragstone_tokens_total", {"kind": "output"}) or 0

    async def case() -> None:
        before = count()
        async with serving(whole) as server, client() as completions:
            await pieces(completions, server)
        assert count() == before + 4

    run(case())
