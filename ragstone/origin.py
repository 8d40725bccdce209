"""The edge's view of the origin: its release pointer and its answers, over HTTP and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import orjson

from ragstone.errors import OriginError
from ragstone.pool import Pool, Response

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
    """One origin. Every failure is an `OriginError`."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._pool = Pool(self.url, timeout)

    def close(self) -> None:
        self._pool.close()

    async def pointer(self, timeout: float) -> Pointer:
        """What is in force now. Raises `OriginError` also when the origin has no release, or answers in another form."""
        with closing(await self.ask("GET", "/v1/release", {}, total=timeout)) as response:
            if response.status != 200:
                raise OriginError(f"the origin {self.url} has no release in force ({response.status})", "ragstone up", status=503)
            body = await response.all(POINTER_BYTES)
        try:
            return _pointer(orjson.loads(body))
        except (ValueError, KeyError, TypeError) as error:
            raise OriginError(f"{self.url}/v1/release is not a release pointer: {type(error).__name__}") from error

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None, total: float | None = None
    ) -> Response:
        """The response, its body unread; it must be closed. All of it may take `total` seconds."""
        return await self._pool.ask(method, path, headers, body, total)


def _pointer(value: Any) -> Pointer:
    keys, revoked, canary = value["keys"], value["revoked"], value.get("canary", {})
    texts = (value["channel"], value["release"], *keys, *keys.values(), *revoked, *canary)
    if not all(isinstance(text, str) for text in texts) or not value["release"]:
        raise ValueError("names must be text")
    if not all(type(share) is int and share > 0 for share in canary.values()) or sum(canary.values()) > 100:
        raise ValueError("shares are per cent")
    purged = float(value.get("purged", 0))
    return Pointer(value["channel"], int(value["number"]), value["release"], dict(keys), frozenset(revoked), dict(canary), purged)
