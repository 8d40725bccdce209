"""How serving goes, for administrators: the process's own counts, once or as an event every second."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ragstone import release as records
from ragstone import telemetry
from ragstone.access import Principal
from ragstone.api.call import Origin, administer, origin
from ragstone.load import Loaded
from ragstone.slow import Slow
from ragstone.wire import sse

PERIOD = 1.0
"""Seconds between two events."""
EVENTS = 10
"""After so many the stream ends, and the page asks again: an origin that is told to end waits no longer for it."""


async def now(request: Request) -> Response:
    """The counts now."""
    principal = administer(request)
    return JSONResponse(await _figures(origin(request), principal), headers={"cache-control": "no-store"})


async def follow(request: Request) -> Response:
    """The counts as server-sent events."""
    principal = administer(request)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_events(origin(request), principal), headers=headers, media_type="text/event-stream")


async def _events(here: Origin, principal: Principal) -> AsyncIterator[bytes]:
    for number in range(EVENTS):
        if number:
            await asyncio.sleep(PERIOD)
        yield sse(json.dumps(await _figures(here, principal)).encode())


async def _figures(here: Origin, principal: Principal) -> dict[str, Any]:
    record, waiting = here.releases.record, here.threads.statistics()
    generators = dict(here.releases.generators)
    release = await here.compute(lambda: records.load(here.store, record.release)) if record else None
    return {
        "at": time.time(),
        "release": record.release if record else None,
        "number": record.number if record else None,
        "reason": here.releases.reason,
        "versions": dict(release.generator) if release else {},
        "replicas": await here.compute(lambda: [row for version, generator in generators.items() for row in _busy(version, generator)]),
        "retrieving": waiting.borrowed_tokens,
        "queue": waiting.tasks_waiting,
        "samples": telemetry.samples(),
        "slowest": [_slow(one, principal) for one in here.slowest.of(time.time())],
    }


def _busy(version: str, generator: object) -> list[dict[str, Any]]:
    """A row for each replica of a version; one without numbers where the service does not tell."""
    loads = generator.load() if isinstance(generator, Loaded) else ()
    untold = {"replica": None, "cpu": None, "busy": None, "waiting": None}
    return [{"version": version, **row} for row in [asdict(load) for load in loads] or [untold]]


def _slow(answer: Slow, principal: Principal) -> dict[str, Any]:
    """What was asked may speak of what only the asker's groups may read."""
    seen = {*answer.groups} <= {*principal.groups}
    return {**asdict(answer), "question": answer.question if seen else ""}
