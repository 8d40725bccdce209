"""The edge's view of the origin: its release pointer and its answers, over HTTP and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from ragstone.errors import OriginError

CONNECT = 5.0
"""Seconds until a connection must stand."""
KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept: less than the 5 s after which uvicorn closes it, so that no request meets a closing one."""
POINTER_BYTES = 4 << 20


@dataclass(frozen=True)
class Pointer:
    """What is in force: the release, the public keys that sign API keys, and the ids of those revoked."""

    channel: str
    number: int
    release: str
    keys: Mapping[str, str]
    revoked: frozenset[str]
    canary: Mapping[str, int]
    """Other releases that answer a share of the conversations, in per cent."""
    purged: float
    """No answer that was kept before is served, in Unix seconds."""


class Origin:
    """A connection pool to one origin. Every failure is an `OriginError`."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Be ready to ask. Nothing is sent."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=self._timeout),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": "ragstone-edge", "accept-encoding": "identity"},
        )

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def pointer(self, timeout: float) -> Pointer:
        """What is in force now. Raises `OriginError` also when the origin has no release, or answers in another form."""
        async with self.ask("GET", "/v1/release", {}, total=timeout) as response:
            body = await response.content.read(POINTER_BYTES)
            if response.status != 200:
                raise OriginError(f"the origin {self.url} has no release in force ({response.status})", "ragstone up", status=503)
        try:
            return _pointer(orjson.loads(body))
        except (ValueError, KeyError, TypeError) as error:
            raise OriginError(f"{self.url}/v1/release is not a release pointer: {type(error).__name__}") from error

    @asynccontextmanager
    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None, total: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The origin's response, its body unread. What fails while it is read is an `OriginError` too."""
        if self._session is None:
            raise OriginError("the edge is not started", status=503)
        limit = aiohttp.ClientTimeout(total=total, sock_connect=CONNECT, sock_read=self._timeout)
        request = self._session.request(method, self.url + path, data=body, headers=headers, timeout=limit, allow_redirects=False)
        try:
            async with request as response:
                yield response
        except aiohttp.ClientConnectorError as error:
            raise OriginError(f"the origin {self.url} can't be reached", "ragstone serve", status=503) from error
        except TimeoutError as error:
            raise OriginError(f"the origin {self.url} did not answer in time", status=504) from error
        except (aiohttp.ClientError, OSError) as error:
            raise OriginError(f"the origin {self.url} broke off: {type(error).__name__}") from error


def _pointer(value: Any) -> Pointer:
    keys, revoked, canary = value["keys"], value["revoked"], value.get("canary", {})
    texts = (value["channel"], value["release"], *keys, *keys.values(), *revoked, *canary)
    if not all(isinstance(text, str) for text in texts) or not value["release"]:
        raise ValueError("names must be text")
    if not all(type(share) is int and share > 0 for share in canary.values()) or sum(canary.values()) > 100:
        raise ValueError("shares are per cent")
    purged = float(value.get("purged", 0))
    return Pointer(value["channel"], int(value["number"]), value["release"], dict(keys), frozenset(revoked), dict(canary), purged)
