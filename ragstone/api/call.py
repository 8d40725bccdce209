"""What every endpoint needs of a call: the origin's state, who is asking, work done in a thread, and whether the client is still there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.types import Receive

from ragstone.access import Principal, Verifier
from ragstone.api.releases import NotReady, Opened, Releases
from ragstone.config import Settings
from ragstone.errors import AccessError, Forbidden, RagstoneError, RequestError, Unauthorized
from ragstone.reuse import Reuse
from ragstone.runs import Runs
from ragstone.shadow import Shadow
from ragstone.slow import Slowest
from ragstone.store import Store
from ragstone.wire import RELEASE

TELLING = (RequestError, AccessError, NotReady)
"""Errors whose message is for the client. Others may name paths and hosts of this machine."""

log = logging.getLogger("ragstone.api")
T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """What the endpoints share."""

    store: Store
    settings: Settings
    verifier: Verifier
    releases: Releases
    threads: anyio.CapacityLimiter
    encoders: anyio.CapacityLimiter
    """Threads of their own: an engine that encodes questions asks for their vectors while the searches wait that hold the others."""
    shadow: Shadow
    reuse: Reuse
    runs: Runs
    """The long commands of this project."""
    slowest: Slowest

    async def compute(self, work: Callable[[], T]) -> T:
        """The work's result, from a thread: retrieval and encoding keep a core busy for milliseconds, and only so many at a time."""
        return await run_sync(work, limiter=self.threads)

    async def encode(self, work: Callable[[], T]) -> T:
        """The same for the embeddings that others asked for."""
        return await run_sync(work, limiter=self.encoders)

    @property
    def limit(self) -> int:
        """The largest body, in bytes."""
        return self.settings.api.max_body_kb * 1024


def origin(request: Request) -> Origin:
    """The state that `app.create` put there."""
    found: Origin = request.app.state.origin
    return found


def authorise(request: Request) -> Principal:
    """Who is asking. Raises `Unauthorized`."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise Unauthorized("no API key: send 'Authorization: Bearer <key>'", "ragstone keys create")
    principal = origin(request).verifier.verify(token.strip())
    request.state.principal = principal
    return principal


def administer(request: Request) -> Principal:
    """Who is asking, an administrator. Raises `Unauthorized`, and `Forbidden` for a key that is none's."""
    principal = authorise(request)
    if not principal.admin:
        raise Forbidden(f"the API key {principal.key} is not an administrator's", "ragstone keys create --admin")
    return principal


def validators(opened: Opened, etag: str = "") -> dict[str, str]:
    """The headers that name what an answer rests on. How long it is fresh is the edge's to say."""
    return validators_of(opened.id) | ({"etag": etag} if etag else {})


def validators_of(release: str) -> dict[str, str]:
    """The same for what rests on a release that need not be open."""
    return {RELEASE: release, "cache-control": "private, max-age=0", "vary": "authorization"}


def confirmed(request: Request, etag: str) -> bool:
    """Whether the client has this very answer already (`If-None-Match`, compared weakly as HTTP says)."""
    known = request.headers.get("if-none-match", "")
    return any(one.strip().removeprefix("W/") in (etag, "*") for one in known.split(",")) if known else False


def veiled(error: RagstoneError, id: str) -> RagstoneError:
    """The error for those outside: as it is when it is about the request, else its kind and where the log has the rest."""
    if isinstance(error, TELLING):
        return error
    log.error("request %s: %s", id, error)
    outside = RagstoneError(f"{error.code.replace('_', ' ')}; the log of the origin has the reason under {id}")
    outside.status, outside.type, outside.code = error.status, error.type, error.code
    return outside


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result, or None when the client went away first: then the work is cancelled."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
