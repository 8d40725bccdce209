"""Who makes an answer, among processes that share a Redis: the others wait until it is there. It knows nothing of answers.

A process that dies loses its lease within seconds. While Redis can't be asked, nobody waits.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ragstone.shared import Shared

LASTS = 5.0
"""Seconds after which a lease that is not renewed is over."""
PAUSE = 0.05
"""Seconds between two looks at another's."""


@asynccontextmanager
async def lease(shared: Shared, name: str) -> AsyncIterator[None]:
    """Entered at once by who is first, who holds it until the block is left; by others once that one is done.

    Who has waited enters without it: where the first one's work can't be used, they go on side by side rather than one after the other.
    """
    token = secrets.token_hex(8)
    claimed = await shared.claim(name, token, LASTS)
    if claimed is False:
        while await shared.claimed(name):
            await asyncio.sleep(PAUSE)
    if not claimed:
        yield
        return
    renewing = asyncio.create_task(_renew(shared, name, token))
    try:
        yield
    finally:
        renewing.cancel()
        await shared.prolong(name, token, 0)


async def _renew(shared: Shared, name: str, token: str) -> None:
    while True:
        await asyncio.sleep(LASTS / 3)
        await shared.prolong(name, token, LASTS)
