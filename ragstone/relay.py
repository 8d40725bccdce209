"""What an edge passes to the origin as it is and never keeps: the console, and what administers it. It knows no question."""

from __future__ import annotations

import asyncio
import re

from ragstone.access import Principal
from ragstone.errors import Forbidden
from ragstone.exchange import Exchange, Headers
from ragstone.origins import Origins

PAGE = "/console"
"""It and its scripts are public, since they hold no data."""
SCRIPT = re.compile(r"[a-z]+-[0-9a-f]{8}\.js")
"""Names of the page's scripts: a word and the digest of the content."""
EDGE = "/admin/edge"
"""The edge's own counts, which the origin does not know."""
NAMES = ("canary", "diff", "documents", "live", "models", "promote", "releases", "rollback", "scores", "serving", "terms")
RUNS = [f"{name}{part}" for name in ("exam", "sync", "training") for part in ("", "/live", "/stop")]
ADMIN = frozenset(f"/admin/{name}" for name in (*NAMES, *RUNS, "forget", "forget/live"))
"""With an administrator's key. What method each takes is the origin's to say."""
PRIVATE = ADMIN | {EDGE}
HEADERS = (
    "content-type",
    "cache-control",
    "etag",
    "content-security-policy",
    "x-content-type-options",
    "referrer-policy",
    "cross-origin-opener-policy",
    "x-ragstone-release",
)
"""What comes back of the origin's headers."""


def page(path: str) -> bool:
    """Whether it is the console's page or one of its scripts."""
    return path == PAGE or (path.startswith(f"{PAGE}/") and SCRIPT.fullmatch(path, len(PAGE) + 1) is not None)


def administer(principal: Principal) -> None:
    """Raises `Forbidden` for a key that is no administrator's."""
    if not principal.admin:
        raise Forbidden(f"the API key {principal.key} is not an administrator's", "ragstone keys create --admin")


async def relay(origin: Origins, exchange: Exchange, headers: dict[str, str], body: bytes | None, told: Headers) -> None:
    """The origin's response, part by part as it comes; reading ends when the caller hangs up."""
    if known := exchange.header(b"if-none-match"):
        headers = {**headers, "if-none-match": known}
    sending = asyncio.ensure_future(_send(origin, exchange, headers, body, told))
    leaving = asyncio.ensure_future(exchange.gone())
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)


async def _send(origin: Origins, exchange: Exchange, headers: dict[str, str], body: bytes | None, told: Headers) -> None:
    async with origin.ask(exchange.method, exchange.path, headers, body) as response:
        known = [(name.encode(), response.headers[name].encode()) for name in HEADERS if name in response.headers]
        await exchange.start(response.status, [*known, *told])
        while part := await response.read():
            await exchange.more(part)
        await exchange.end()
