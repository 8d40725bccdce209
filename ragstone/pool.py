"""HTTP/1.1 to one origin, over connections that are used again: a fifth of what a general client costs the edge.

It follows no redirect, keeps no cookie, undoes no compression and asks no proxy. What frames a response is httptools' to say, as it is for
requests that the edge gets. Every failure is an `OriginError`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import cast
from urllib.parse import SplitResult, urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from ragstone.errors import ConfigError, OriginError

CONNECT = 5.0
"""Seconds until a connection must stand."""
KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept: less than the 5 s after which uvicorn closes it, so that no request meets a closing one."""
HEAD = 1 << 16
"""Bytes that may come before a response's head is whole."""
FRAMED = frozenset({"content-length", "transfer-encoding"})
UNREAD = 1 << 18
"""Bytes of a body that may wait to be read, before no more are taken."""


class Response:
    """A response, whose body comes in parts. It must be closed; then its connection is used again if all of it had come."""

    def __init__(self, close: Callable[[], None], unread: Callable[[bool], None]) -> None:
        self.status = 0
        """0 until its head is there."""
        self.headers: dict[str, str] = {}
        """By their names in lower case. Bytes that are no ASCII can't match anything."""
        self.whole = False
        self.close = close
        self._loop = asyncio.get_running_loop()
        self._unread = unread
        self._parts: list[bytes] = []
        self._size = 0
        self._patient = False
        self._fault: OriginError | None = None
        self._news: asyncio.Future[None] | None = None

    async def begun(self) -> None:
        """Returns once status and headers are there. Raises `OriginError`."""
        while not self.status:
            if self._fault:
                raise self._fault
            await self._wait()

    def patient(self, whether: bool) -> None:
        """Whether `read` waits until all or much of the body is there: to be told of each part costs more than to take it."""
        self._patient = whether
        self._tell()

    async def read(self) -> bytes:
        """What has come of the body since, at least a byte; nothing at its end. Raises `OriginError` when it breaks off."""
        while not self._ready():
            await self._wait()
        if not self._parts and self._fault:
            raise self._fault
        parts, self._parts = self._parts, []
        if self._size > UNREAD:
            self._unread(False)
        self._size = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _ready(self) -> bool:
        enough = self._size > UNREAD if self._patient else bool(self._parts)
        return enough or self.whole or self._fault is not None

    async def all(self, most: int) -> bytes:
        """The whole body. Raises `OriginError` likewise, and when it is over `most` bytes."""
        parts, size = [], 0
        while part := await self.read():
            size += len(part)
            if size > most:
                raise OriginError(f"the origin's answer is over {most} bytes")
            parts.append(part)
        return b"".join(parts)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.status, self.headers = status, headers
        self._tell()

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > UNREAD:
            self._unread(True)
        elif self._patient:
            return
        self._tell()

    def end(self, fault: OriginError | None = None) -> None:
        """All of it is there, or no more will come; only the first end counts."""
        if self._fault is None and not self.whole:
            self.whole, self._fault = fault is None, fault
            self._tell()

    async def _wait(self) -> None:
        self._news = self._loop.create_future()
        await self._news

    def _tell(self) -> None:
        if self._news and not self._news.done():
            self._news.set_result(None)


class Connection(asyncio.Protocol):
    """One connection, and the one response that it waits for."""

    def __init__(self, url: str, patience: float, rest: Callable[[Connection], None]) -> None:
        self._url, self._patience, self._rest = url, patience, rest
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._response: Response | None = None
        self._stays = self._paused = False
        self._ends = self._heard_at = 0.0
        self._late: asyncio.TimerHandle | None = None
        self.heard = 0
        """Bytes of this response that came."""
        self.rested: float | None = None
        """Since when it rests, or last did, by the loop's clock; None on its first request."""

    @property
    def open(self) -> bool:
        return not self._transport.is_closing()

    def ask(self, request: bytes, total: float | None) -> Response:
        """The response to come. `total` bounds the whole of it, in seconds; between two parts there may be `patience`."""
        self._heard_at, self.heard, self._stays = self._loop.time(), 0, False
        self._ends = self._heard_at + total if total is not None else float("inf")
        self._response = Response(self._close, self._pause)
        self._late = self._loop.call_at(min(self._ends, self._heard_at + self._patience), self._check)
        self._transport.write(request)
        return self._response

    def hang_up(self) -> None:
        self._transport.abort()

    def _close(self) -> None:
        """Of the response: it may be closed more than once."""
        response, self._response = self._response, None
        if response is None:
            return
        if self._late:
            self._late.cancel()
        if response.whole and self._stays and self.open:
            self.rested = self._loop.time()
            self._rest(self)
        else:
            self.hang_up()

    def _fail(self, reason: str, status: int = 502) -> None:
        if self._response:
            self._response.end(OriginError(f"the origin {self._url} {reason}", status=status))
        self.hang_up()

    def _check(self) -> None:
        """Give up on what takes too long; not while it waits for us. One timer for a response: one for each part would cost more."""
        now = self._loop.time()
        if self._paused:
            self._heard_at = now
        due = min(self._ends, self._heard_at + self._patience)
        if now >= due:
            self._fail("did not answer in time", 504)
        else:
            self._late = self._loop.call_at(due, self._check)

    def _pause(self, unread: bool) -> None:
        if unread != self._paused and self.open:
            self._paused = unread
            (self._transport.pause_reading if unread else self._transport.resume_reading)()

    # ---- what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self.heard += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail(f"sent what is no HTTP: {type(error).__name__}")
        if self.heard > HEAD and self._response and not self._response.status:
            self._fail(f"sent a head over {HEAD} bytes")

    def connection_lost(self, error: Exception | None) -> None:
        if self._response and self._response.status and error is None and not FRAMED & self._headers.keys():
            self._response.end()  # without a length, its end is that of the connection
        self._fail(f"broke off: {type(error).__name__}" if error else "broke off")

    # ---- what httptools understood

    def on_message_begin(self) -> None:
        self._headers = {}
        if self._response is None or self._response.whole:
            self.hang_up()  # nobody asked

    def on_header(self, name: bytes, value: bytes) -> None:
        key, told = name.decode("ascii", "replace").lower(), value.decode("ascii", "replace")
        self._headers[key] = f"{self._headers[key]}, {told}" if key in self._headers else told

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._response and status >= 200:  # what is less is not the response yet
            self._response.begin(status, dict(self._headers))

    def on_body(self, part: bytes) -> None:
        if self._response and not self._response.whole:
            self._response.add(part)

    def on_message_complete(self) -> None:
        if self._response and self._response.status:
            self._stays = self._parser.should_keep_alive()
            self._response.end()


class Pool:
    """The connections to the server of `url`, or a `ConfigError`. Between two parts of a response `patience` seconds may pass."""

    def __init__(self, url: str, patience: float) -> None:
        self._url, self._patience = url.rstrip("/"), patience
        parts = _parted(self._url)
        self._secure, self._host, self._path = parts.scheme == "https", parts.hostname or "", parts.path
        self._port = parts.port or (443 if self._secure else 80)
        self._always = f"host: {parts.netloc.rpartition('@')[2]}\r\nuser-agent: ragstone-edge\r\naccept-encoding: identity\r\n"
        self._resting: deque[Connection] = deque()

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, total: float | None) -> Response:
        """The response, its body unread. Raises `OriginError` (503 when there is no connection, 504 when it is late, else 502)."""
        request = self._request(method, path, headers, body)
        connection = self._rested() or await self._connected()
        response = connection.ask(request, total)
        try:
            await response.begun()
        except OriginError:
            response.close()
            if method != "GET" or connection.rested is None or connection.heard:
                raise
            return await self._anew(request, total)  # it was closed as we asked; to ask for something twice harms nobody
        except BaseException:
            response.close()
            raise
        return response

    def close(self) -> None:
        while self._resting:
            self._resting.pop().hang_up()

    async def _anew(self, request: bytes, total: float | None) -> Response:
        response = (await self._connected()).ask(request, total)
        try:
            await response.begun()
        except BaseException:
            response.close()
            raise
        return response

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        named = {**headers, "content-length": str(len(body))} if body is not None else headers
        lines = "".join([f"{name}: {value}\r\n" for name, value in named.items()])
        if lines.count("\n") != len(named) or lines.count("\r") != len(named):
            raise OriginError("a header for the origin holds a line break")
        return f"{method} {self._path}{path} HTTP/1.1\r\n{self._always}{lines}\r\n".encode() + (body or b"")

    def _rest(self, connection: Connection) -> None:
        self._resting.append(connection)
        while self._late(self._resting[0]):
            self._resting.popleft().hang_up()

    def _rested(self) -> Connection | None:
        """The one that rested last, so that those which are not needed grow old."""
        while self._resting:
            connection = self._resting.pop()
            if connection.open and not self._late(connection):
                return connection
            connection.hang_up()
        return None

    def _late(self, connection: Connection) -> bool:
        return connection.rested is not None and asyncio.get_running_loop().time() - connection.rested > KEEP_ALIVE

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    async def _connected(self) -> Connection:
        loop, secure = asyncio.get_running_loop(), self._context if self._secure else None
        try:
            async with asyncio.timeout(CONNECT):
                made = await loop.create_connection(
                    lambda: Connection(self._url, self._patience, self._rest), self._host, self._port, ssl=secure
                )
        except TimeoutError:
            raise OriginError(f"the origin {self._url} did not answer in time", status=504) from None
        except OSError as error:
            raise OriginError(f"the origin {self._url} can't be reached", "ragstone serve", status=503) from error
        return made[1]


def _parted(url: str) -> SplitResult:
    parts = urlsplit(url)
    try:
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none
        known = False
    if not known:
        raise ConfigError(f"{url!r} is no address of an origin", "set edge.origin like http://127.0.0.1:8801")
    return parts
