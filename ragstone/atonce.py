"""Responses that an app has at hand, written as soon as their request is read: no task, no ASGI, half of what a cache hit cost.

Every head is read by httptools first. Only when the very same bytes come again, with a body of the length that they tell, is the app asked
for the response; whatever else comes, and what the app has not at hand, goes the way of every request. So nothing is parsed here.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST = 4096
"""Bytes of a head that is remembered, and …"""
REMEMBERED = 4096
"""… how many are, before all are forgotten."""
PATIENCE = 30.0
"""Seconds that a caller may take to send a request; who sends a byte now and then would hold a connection for ever."""
APART = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
"""Headers by which a request is more than its head and its body."""
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Head:
    """A request but for its body, as httptools understood it."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    length: int
    """Bytes of the body."""


def lines(headers: Headers) -> bytes:
    """As they are written."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class Ready(Protocol):
    """What an app offers whose responses may be at hand."""

    def at_once(self, head: Head, body: bytes) -> tuple[bytes, bytes] | None:
        """The header lines and the body of the 200, or None: then nothing was counted or changed."""


class Connection(HttpToolsProtocol):
    """uvicorn's, with an app that is `Ready`."""

    app: Ready
    _heads: ClassVar[dict[bytes, Head]] = {}
    """Of all connections."""
    _inside = False
    """Whether a request has begun and is not whole."""
    _begun = 0
    """Requests that began in what was read last."""
    _late: TimerHandle
    _used = 0.0
    """When a response was last written at once, by the loop's clock."""

    def data_received(self, data: bytes) -> None:
        end, between = data.find(b"\r\n\r\n") + 4, not self._inside and self._rests()
        head = self._heads.get(data[:end]) if between else None
        if head and len(data) == end + head.length and (response := self.app.at_once(head, data[end:])):
            return self._write(*response)
        self._begun = 0
        super().data_received(data)
        if between and self._begun == 1 and not self._inside and end <= LONGEST:
            self._remember(data, end)
        return None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(PATIENCE, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._inside, self._begun = True, self._begun + 1
        self._late.cancel()
        self._late = self.loop.call_later(PATIENCE, self._give_up)
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._inside = False
        self._late.cancel()
        super().on_message_complete()

    def _give_up(self) -> None:
        """Hang up on who has not sent a whole request in time."""
        if self._inside or not (self.cycle or self._used):
            self.transport.close()

    def _rests(self) -> bool:
        """No response is under way, or waits for a caller who reads slowly."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _remember(self, data: bytes, end: int) -> None:
        """The head of the one request that was read, if all of it was head and body."""
        headers = dict(self.headers)
        told = headers.get(b"content-length", b"")
        if len(headers) < len(self.headers) or not told.isdigit() or len(data) != end + int(told):
            return
        if not self.cycle.keep_alive or self.scope["http_version"] != "1.1" or headers.keys() & APART:
            return
        if len(self._heads) >= REMEMBERED:
            self._heads.clear()
        self._heads[data[:end]] = Head(self.scope["method"], self.scope["path"], headers, int(told))

    def _write(self, told: bytes, body: bytes) -> None:
        always = lines(self.server_state.default_headers)
        self.transport.write(b"HTTP/1.1 200 OK\r\n%b%bcontent-length: %d\r\n\r\n%b" % (always, told, len(body), body))
        self._used = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._close_after(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close, unless the connection was used since this was asked for: a timer for each response would cost too much."""
        left = self._used + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            return super().timeout_keep_alive_handler()
        return self._close_after(left)

    def _close_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)
