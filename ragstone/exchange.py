"""One HTTP request and its response on bare ASGI: the cost of a cache hit is what this adds, so it adds little."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from random import getrandbits
from typing import Any

from ragstone.errors import OriginError, RagstoneError, RateLimited, RequestError, Unauthorized
from ragstone.wire import error_body, error_headers, sse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


def request_id(headers: Mapping[bytes, bytes]) -> bytes:
    """The caller's id of the request, if it is one, else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given if given and REQUEST_ID.fullmatch(given) else b"req-%024x" % getrandbits(96)


class Exchange:
    """A request as it came, and the one response to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.status = 0
        """The status that was sent; 0 before."""
        self.id = request_id(self.headers)
        self.extra: Callable[[], Headers] = list
        """Headers that every response of this exchange carries, made when it starts."""
        self.sent: Headers = []
        """Those of its own, once it has started."""
        self.notes: dict[str, object] = {}
        """What the access log is to say of it."""
        self.spent: Callable[[], int] = int
        """The tokens that it took."""
        self._receive = receive
        self._send = send

    def header(self, name: bytes) -> str:
        """The header's value, or nothing. Bytes that are no ASCII can't match anything."""
        return self.headers.get(name, b"").decode("ascii", "replace")

    async def body(self, most: int) -> bytes:
        """The whole body. Raises `RequestError` (413) when it has more than `most` bytes, before it is read where its length is told."""
        told = self.headers.get(b"content-length", b"")
        if told.isdigit() and int(told) > most:
            raise self._too_large(most)
        parts, size, more = [], 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise RequestError("the caller went away before the body was whole", status=499, code="disconnected")
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise self._too_large(most)
            parts.append(part)
            more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def gone(self) -> None:
        """Returns when the caller hangs up. Only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole response at once."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        """The status and headers of a response whose body comes in parts."""
        self.status, self.sent = status, headers
        whole = [*headers, *self.extra(), (b"x-request-id", self.id)]
        await self._send({"type": "http.response.start", "status": status, "headers": whole})

    async def more(self, part: bytes) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: RagstoneError) -> None:
        """The error as OpenAI's JSON; as the last event when a stream is already under way, which ends without `[DONE]`."""
        if self.status:
            await self.more(sse(error_body(error)))
            return await self.end()
        return await self.respond(error.status, _error_headers(error), error_body(error))

    def _too_large(self, most: int) -> RequestError:
        return RequestError(f"the body is larger than {most} bytes", status=413, code="body_too_large")


def _error_headers(error: RagstoneError) -> Headers:
    headers = [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
    if isinstance(error, RateLimited):
        # OpenAI's clients prefer milliseconds: whole seconds alone would make them wait up to one too long.
        headers.append((b"retry-after-ms", b"%d" % max(1, -int(-error.retry_after * 1000 // 1))))
    if isinstance(error, OriginError):
        headers.append((b"retry-after", b"%d" % max(1, -int(-error.retry_after // 1))))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    return headers
