"""The origin's answer to a question, as an edge takes it: whole, confirmed or refused, and told to those who follow it live."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any

import orjson

from ragstone import replay, telemetry
from ragstone.cache import Entry
from ragstone.errors import GeneratorError, OriginError, RagstoneError
from ragstone.exchange import Headers
from ragstone.flight import Flight
from ragstone.pool import Response
from ragstone.wire import CACHE, RELEASE, REUSED, EventReader, sse

RETURNED = ("content-type", "etag", "retry-after", RELEASE, REUSED)
LARGEST = 64 << 20
"""Bytes of one answer of the origin; more is an error."""
JSON = (b"content-type", b"application/json")
STREAM = (b"content-type", b"text/event-stream; charset=utf-8")


@dataclass(frozen=True)
class Head:
    """What the headers of a live answer say."""

    release: str
    etag: str
    reused: str


@dataclass(frozen=True)
class Answered:
    """The origin's finished answer, or its word that the kept one still holds. `tokens` is None when it did not say."""

    entry: Entry
    state: str
    tokens: int | None
    keep: bool = True


@dataclass(frozen=True)
class Refusal:
    """The origin's error, in its own words."""

    status: int
    headers: Headers
    body: bytes


Event = tuple[bytes, bytes]
"""Chunks that came together as events, with the usage and without; the latter is empty when nothing else was in them."""
End = Answered | Refusal | RagstoneError
Answer = Flight[Head, Event, End]


async def read(flight: Answer, response: Response, begun: float) -> End:
    """The stream to its end, told to the flight event by event; it was asked for at `begun`, in Unix seconds."""
    head = Head(*(response.headers.get(name, "") for name in (RELEASE, "etag", REUSED)))
    reader, fold, size = EventReader(), replay.Fold(), 0
    flight.hurry = lambda: response.patient(False)
    response.patient(not flight.live)
    while part := await response.read():
        size += len(part)
        if size > LARGEST:
            raise OriginError(f"the origin's answer is over {LARGEST} bytes")
        taken: list[tuple[bytes, dict[str, Any]]] = []
        try:
            for data in _events(reader, part):
                chunk = _chunk(data)
                if chunk.get("error"):
                    return Refusal(502, [JSON], data)
                fold.add(chunk)
                taken.append((data, chunk))
        finally:
            _tell(flight, head, taken)  # what came before a fault too
        if reader.done:
            await _drain(response)
            break
    if not reader.done or not fold.complete:
        raise OriginError("the origin's answer was cut short")
    keep = bool(head.release) and "no-store" not in response.headers.get("cache-control", "").lower()
    entry = Entry(orjson.dumps(fold.completion()), head.etag, head.release, time.time(), begun, head.reused)
    return Answered(entry, "miss", fold.tokens, keep)


def confirmed(entry: Entry, response: Response) -> Answered:
    """The entry as the release that confirmed it gives it."""
    release = response.headers.get(RELEASE, "")
    if not release:
        raise OriginError("the origin confirmed an answer without naming its release")
    renewed = replace(entry, body=replay.renewed(entry.body, release), release=release, stored=time.time())
    return Answered(renewed, "revalidated", 0)


async def refusal(response: Response) -> Refusal:
    """The origin's own error. Raises `OriginError` when it is not one in JSON."""
    body = await response.all(LARGEST)
    if response.status < 400 or "json" not in response.headers.get("content-type", ""):
        raise OriginError(f"the origin answered {response.status} without an error in JSON")
    return Refusal(response.status, returned(response), body)


def returned(response: Response) -> Headers:
    """What the caller is told of the origin's headers: nothing but what the contract names."""
    return [(name.encode(), response.headers[name].encode()) for name in RETURNED if name in response.headers]


def validators(made: Head | Entry) -> Headers:
    """What the caller is told of where an answer came from."""
    named = ((RELEASE, made.release), ("etag", made.etag), (REUSED, made.reused))
    return [(name.encode(), value.encode()) for name, value in named if value]


def told(state: str) -> Headers:
    """The cache header, and the count behind it."""
    telemetry.cache.labels(state).inc()
    return [(CACHE.encode(), state.encode())]


def replied(entry: Entry, state: str, streamed: bool, include_usage: bool) -> tuple[Headers, bytes]:
    """A finished answer as JSON, or replayed as a stream, with its headers."""
    telemetry.cache.labels(state).inc()
    headers = described(entry, state, streamed)
    if state in ("hit", "revalidated"):
        headers.append((b"age", b"%d" % max(0, time.time() - entry.stored)))
    return headers, written(entry, streamed, include_usage)


def described(entry: Entry, state: str, streamed: bool) -> Headers:
    """The headers of a finished answer that stay the same as it grows older."""
    return [STREAM if streamed else JSON, *validators(entry), (CACHE.encode(), state.encode())]


def written(entry: Entry, streamed: bool, include_usage: bool) -> bytes:
    """A finished answer in one of its forms."""
    return replay.stream(orjson.loads(entry.body), include_usage) if streamed else entry.body


def used(answer: bytes) -> int:
    """The tokens that a body says were used; 0 when it does not say."""
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return 0
    return (replay.used(body) if isinstance(body, dict) else None) or 0


def _events(reader: EventReader, part: bytes) -> list[bytes]:
    try:
        return reader.feed(part)
    except GeneratorError as error:
        raise OriginError(error.message) from error


def _chunk(data: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = None
    if not isinstance(chunk, dict):
        raise OriginError("the origin's stream holds an event that is no JSON object")
    return chunk


def _tell(flight: Answer, head: Head, taken: list[tuple[bytes, dict[str, Any]]]) -> None:
    if taken and flight.head is None:
        flight.open(head)
    if taken:
        flight.add(_event(taken))


def _event(taken: list[tuple[bytes, dict[str, Any]]]) -> Event:
    whole = sse(taken[0][0]) if len(taken) == 1 else b"".join([sse(data) for data, _ in taken])
    if not [chunk for _, chunk in taken if "usage" in chunk]:
        return whole, whole
    rest = [replay.without_usage(data, chunk) for data, chunk in taken]
    return whole, b"".join([sse(data) for data in rest if data is not None])


async def _drain(response: Response) -> None:
    """Read what follows `[DONE]`, so that the connection is used again and the origin does not see its caller hang up."""
    if response.whole:
        return
    with contextlib.suppress(TimeoutError, OriginError):
        async with asyncio.timeout(1):
            while await response.read():
                pass
