from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ragstone.errors import ConfigError, OriginError
from ragstone.pool import HEAD, UNREAD, Pool, Response
from tests import certificate as authority

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


def scene(serve: Serve, play: Callable[[Pool], Awaitable[Any]], patience: float = 30) -> Any:
    """What `play` gives with a pool before a server of plain sockets."""

    async def serving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def run() -> Any:
        server = await asyncio.start_server(serving, "127.0.0.1", 0)
        pool = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base", patience)
        try:
            return await asyncio.wait_for(play(pool), 30)
        finally:
            pool.close()
            server.close()

    return asyncio.run(run())


def says(*answers: bytes, then_closes: bool = False) -> tuple[Serve, list[bytes]]:
    """A server that gives each connection the same answers, one for each request, and what it was asked."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
        if not then_closes:
            await reader.read()

    return serve, heads


async def ask(pool: Pool, method: str = "GET", body: bytes | None = None, total: float | None = None) -> tuple[int, bytes]:
    response = await pool.ask(method, "/x", {"authorization": "Bearer k"}, body, total)
    try:
        return response.status, await response.all(1 << 24)
    finally:
        response.close()


FRAMES = {
    "with its length": WHOLE,
    "in chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\nx-trailer: t\r\n\r\n",
    "after news that is not the answer": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + WHOLE,
}


@pytest.mark.parametrize("answer", FRAMES.values(), ids=FRAMES)
def test_a_connection_is_used_again_after_a_whole_answer(answer: bytes) -> None:
    serve, heads = says(answer, answer)
    connections = []

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await serve(reader, writer)

    async def play(pool: Pool) -> list[tuple[int, bytes]]:
        return [await ask(pool), await ask(pool)]

    assert scene(counted, play) == [(200, b"hi"), (200, b"hi")]
    assert len(connections) == 1
    assert heads[0].startswith(b"GET /base/x HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"authorization: Bearer k\r\n" in heads[0]


CLOSING = {
    "as it says": b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
    "as HTTP/1.0 does": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    "which is its end": b"HTTP/1.1 200 OK\r\n\r\nhi",
}


@pytest.mark.parametrize("answer", CLOSING.values(), ids=CLOSING)
def test_an_answer_after_which_the_connection_closes_is_whole_and_the_next_takes_another(answer: bytes) -> None:
    serve, heads = says(answer, then_closes=True)

    async def play(pool: Pool) -> list[tuple[int, bytes]]:
        return [await ask(pool), await ask(pool)]

    assert scene(serve, play) == [(200, b"hi"), (200, b"hi")]
    assert len(heads) == 2


def test_a_304_has_no_body_whatever_length_it_tells() -> None:
    serve, _ = says(b'HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: "e"\r\n\r\n', WHOLE)

    async def play(pool: Pool) -> list[tuple[int, bytes]]:
        return [await ask(pool), await ask(pool)]

    assert scene(serve, play) == [(304, b""), (200, b"hi")]


BROKEN = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200",
    "half a body": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi",
    "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhi",
    "no last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi!",
    "a length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "an endless head": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (HEAD + 1),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_what_breaks_off_or_is_no_answer_is_an_error_of_the_origin(answer: bytes) -> None:
    serve, _ = says(answer, then_closes=True)
    with pytest.raises(OriginError) as raised:
        scene(serve, ask)
    assert raised.value.status == 502


def test_where_nobody_listens_the_origin_cant_be_reached() -> None:
    with pytest.raises(OriginError) as raised:
        asyncio.run(ask(Pool("http://127.0.0.1:9", 30)))
    assert raised.value.status == 503


LATE = {"before its head": b"", "in its head": b"HTTP/1.1 200 OK\r\n", "in its body": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi"}


@pytest.mark.parametrize("total", [None, 0.05], ids=["between two parts", "in all"])
@pytest.mark.parametrize("answer", LATE.values(), ids=LATE)
def test_an_answer_that_stops_is_given_up(answer: bytes, total: float | None) -> None:
    serve, _ = says(answer)
    with pytest.raises(OriginError) as raised:
        scene(serve, lambda pool: ask(pool, total=total), patience=30 if total else 0.05)
    assert raised.value.status == 504


def test_only_what_may_be_asked_twice_is_asked_again_where_a_rested_connection_was_closed() -> None:
    """The server closes each connection as the second request comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WHOLE)
        await reader.readuntil(b"\r\n\r\n")

    async def play(pool: Pool) -> None:
        assert await ask(pool) == (200, b"hi")
        assert await ask(pool) == (200, b"hi")
        with pytest.raises(OriginError):
            await ask(pool, "POST", b"{}")

    scene(serve, play)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi"], ids=["before its head", "in its body"])
def test_who_leaves_an_answer_under_way_hangs_up(said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        asked.set()
        assert await reader.read() == b""
        left.set()

    async def play(pool: Pool) -> None:
        asking = asyncio.create_task(ask(pool))
        await asked.wait()
        asking.cancel()
        await left.wait()

    asked, left = asyncio.Event(), asyncio.Event()
    scene(serve, play)


def test_who_reads_slowly_is_not_sent_more_than_fits() -> None:
    size = 64 << 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            writer.write(b"x" * (1 << 16))
            try:
                await asyncio.wait_for(writer.drain(), 0.2)
            except TimeoutError:
                full.set()
                await writer.drain()
        await reader.read()

    async def play(pool: Pool) -> None:
        response = await pool.ask("GET", "/x", {}, None, None)
        await full.wait()
        seen = len(await response.read())
        assert seen < UNREAD + (1 << 20)
        while part := await response.read():
            seen += len(part)
        assert seen == size
        response.close()

    full = asyncio.Event()
    scene(serve, play)


def test_a_header_can_not_begin_another() -> None:
    serve, heads = says(WHOLE)

    async def play(pool: Pool) -> Response:
        return await pool.ask("GET", "/x", {"etag": "a\r\nx-forged: 1"}, None, None)

    with pytest.raises(OriginError, match="line break"):
        scene(serve, play)
    assert not heads


def test_an_origin_over_https_is_asked_only_with_a_certificate_that_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = authority.made(tmp_path, "origin")
    serves = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serves.load_cert_chain(certificate.chain, certificate.key)
    serve, _ = says(WHOLE)

    async def play() -> tuple[int, bytes]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=serves)
        pool = Pool(f"https://localhost:{server.sockets[0].getsockname()[1]}", 30)
        try:
            return await ask(pool)
        finally:
            pool.close()
            server.close()

    with pytest.raises(OriginError) as raised:
        asyncio.run(play())
    assert raised.value.status == 503
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.chain))
    assert asyncio.run(play()) == (200, b"hi")


@pytest.mark.parametrize("url", ["", "127.0.0.1:8801", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port", "http://127.0.0.1:99999"])
def test_what_is_no_address_is_named_before_anything_is_asked(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of an origin"):
        Pool(url, 30)
