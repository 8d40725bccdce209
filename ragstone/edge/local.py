"""The Python edge: one process, answers cached in memory, raw ASGI (a framework doubled the cost of a cache hit)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import orjson

from ragstone import canonical, relay, replay, telemetry
from ragstone.access import Principal, Verifier
from ragstone.cache import Asked, Cache, Entry, asked, decide, may_stand_in
from ragstone.config import Settings
from ragstone.edge import CACHE, RELEASE
from ragstone.errors import GeneratorError, OriginError, RagstoneError, RequestError, Unauthorized
from ragstone.exchange import Exchange, Headers, Receive, Scope, Send
from ragstone.flight import Flight, Flights
from ragstone.limit import Allowance, Limits, Reservation, estimate
from ragstone.listen import listen
from ragstone.origin import Origin, Pointer
from ragstone.wire import DONE, EventReader, error_body, sse

log = logging.getLogger("ragstone.edge")

CHAT = "/v1/chat/completions"
METHODS = {
    CHAT: "POST",
    "/v1/embeddings": "POST",
    "/v1/retrieve": "POST",
    "/v1/documents": "POST",
    "/v1/feedback": "POST",
    "/v1/key": "GET",
    "/v1/models": "GET",
    "/healthz": "GET",
    "/readyz": "GET",
    "/metrics": "GET",
}
MODEL = re.compile(r"/v1/models/[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
FORWARDED = (b"authorization", b"traceparent", b"tracestate")
"""All that the origin is told of a caller's headers: nothing can be smuggled past a list of what may pass."""
RETURNED = ("content-type", "etag", "retry-after", RELEASE)
PERSONAL = frozenset({401, 403, 429})
"""Refusals of who asked, not of what was asked: they are not shared with others who wait."""
LARGEST = 64 << 20
"""Bytes of one answer of the origin; more is an error."""
JSON = (b"content-type", b"application/json")
STREAM = (b"content-type", b"text/event-stream; charset=utf-8")


@dataclass(frozen=True)
class Question:
    """One chat request, understood."""

    principal: Principal
    allowance: Allowance
    headers: dict[str, str]
    """What the origin is told of the caller."""
    body: dict[str, Any]
    key: str | None
    """None when its answer can't be told from another's, and so not kept."""
    asked: Asked
    streamed: bool
    include_usage: bool
    tokens: int
    """What it may cost, to be reserved."""


@dataclass(frozen=True)
class Head:
    """What the headers of a live answer say."""

    release: str
    etag: str


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
"""One chunk as an event, with the usage and without; the latter is empty when nothing else was in it."""
End = Answered | Refusal | OriginError
Answer = Flight[Head, Event, End]


def run(settings: Settings, started: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way. `started` is called with the bound URL. Raises `ConfigError`."""
    listen(Edge(settings), settings.edge.host, settings.edge.port, drain=settings.edge.timeout, started=started)


class Edge:
    """The ASGI app."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.edge
        self._most = settings.api.max_body_kb * 1024
        self._max_tokens = settings.serve.max_tokens
        self._origin = Origin(settings.edge.origin, settings.edge.timeout)
        self._verifier = Verifier()
        self._limits = Limits()
        self._cache = Cache(settings.edge.cache_mb << 20)
        self._flights: Flights[Head, Event, End] = Flights()
        self._pointer: Pointer | None = None
        self._fault: OriginError | None = None
        self._open = 0
        self._checked = 0.0
        self._checking = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        exchange = Exchange(scope, receive, send)
        self._open += 1
        try:
            await self._route(exchange)
        except RagstoneError as error:
            await exchange.fail(error)
        except Exception:
            log.exception("request %s failed", exchange.id.decode())
            await exchange.fail(RagstoneError("the edge failed; its log has the request's id"))
        finally:
            self._open -= 1
        telemetry.requests.labels("edge", _named(exchange.path), str(exchange.status)).inc()
        return None

    # ---- the release pointer

    async def _live(self, receive: Receive, send: Send) -> None:
        """Startup, the watch over the release pointer, shutdown. An origin that is down does not keep the edge from starting."""
        await receive()
        await self._origin.open()
        await self._check()
        watch = asyncio.create_task(self._watch())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watch.cancel()
        await self._flights.close()
        await self._origin.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.release_check)
            try:
                await self._check()
            except Exception:
                log.exception("the release pointer can't be read")  # an edge that stops looking would serve this release for ever

    async def _check(self) -> None:
        """Read the release pointer; when that fails, the last one known stays in force."""
        self._checked = time.monotonic()
        try:
            pointer = await self._origin.pointer(timeout=max(self._settings.release_check, 1.0))
            self._verifier.trust(pointer.keys, pointer.revoked)
        except (OriginError, ValueError) as error:
            fault = error if isinstance(error, OriginError) else OriginError("the origin's public keys are not Ed25519 keys", status=503)
            if self._fault is None:
                log.warning("%s; serving release %s", fault.message, self._pointer.release if self._pointer else "none")
            self._fault = fault
            return
        self._pointer, self._fault = pointer, None
        telemetry.released(pointer.channel, pointer.release, pointer.number)

    async def _release(self) -> str:
        """The release in force. Raises `OriginError` (503) while none was ever seen; an origin that came up just now is seen at once."""
        if self._pointer is None:
            async with self._checking:
                if self._pointer is None and time.monotonic() - self._checked > min(1.0, self._settings.release_check):
                    await self._check()
        if self._pointer is None:
            reason = self._fault.message if self._fault else "the origin was not asked yet"
            raise OriginError(reason, status=503, retry_after=self._settings.release_check)
        return self._pointer.release

    # ---- routes

    async def _route(self, exchange: Exchange) -> None:
        path = exchange.path
        if path in relay.ROUTES:
            return await self._home(exchange)
        method = METHODS.get(path) or ("GET" if MODEL.fullmatch(path) else "")
        if not method:
            raise RequestError(f"there is no {path[:100]!r} here", status=404, code="not_found")
        if exchange.method != method:
            body = error_body(RequestError(f"{path} takes {method}", status=405, code="method_not_allowed"))
            return await exchange.respond(405, [JSON, (b"allow", method.encode())], body)
        if path == CHAT:
            return await self._chat(exchange)
        if path == "/metrics":
            return await exchange.respond(200, [(b"content-type", telemetry.CONTENT_TYPE.encode())], telemetry.exposition())
        if path in ("/healthz", "/readyz"):
            return await self._health(exchange)
        return await self._pass(exchange)

    async def _health(self, exchange: Exchange) -> None:
        """`/healthz` says that the process works, `/readyz` that it can answer."""
        ready = self._pointer is not None
        body: dict[str, object] = {"status": "ok" if ready else "waiting for the origin"}
        body |= {"release": self._pointer.release if self._pointer else None}
        body |= {"origin": "ok" if self._fault is None else self._fault.message}
        await exchange.respond(200 if ready or exchange.path == "/healthz" else 503, [JSON], orjson.dumps(body | self._counts()))

    def _counts(self) -> dict[str, object]:
        return {"requests": self._open, "flights": len(self._flights), "entries": len(self._cache), "bytes": self._cache.size}

    async def _home(self, exchange: Exchange) -> None:
        """The console and what it administers: never cached, and refused here to who is no administrator."""
        if exchange.path not in relay.PAGE:
            await self._release()
            relay.administer((await self._admit(exchange))[0])
        if exchange.path == relay.EDGE:
            return await exchange.respond(200, [JSON], orjson.dumps({**self._counts(), "samples": telemetry.samples()}))
        body = await exchange.body(self._most)
        return await relay.relay(self._origin, exchange, _forwarded(exchange), body or None, [(CACHE.encode(), b"bypass")])

    async def _admit(self, exchange: Exchange) -> tuple[Principal, Allowance]:
        """Who asks, counted against their limit. Raises `Unauthorized` or `RateLimited`."""
        scheme, _, token = exchange.header(b"authorization").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("there is no API key: send 'Authorization: Bearer <key>'", "ragstone keys create")
        principal = self._verifier.verify(token.strip())
        now = time.monotonic()
        allowance = self._limits.of(principal.key, principal.rpm, principal.tpm, now)
        exchange.extra = lambda: allowance.headers(time.monotonic())
        allowance.request(now)
        return principal, allowance

    async def _pass(self, exchange: Exchange) -> None:
        """What is not cached: keys and limits here, the answer from the origin."""
        release = await self._release()
        _, allowance = await self._admit(exchange)
        body = await exchange.body(self._most) if exchange.method == "POST" else None
        if body is not None:
            canonical.parse(body)
        reservation, used = allowance.reserve(len(body or b"") // 4, time.monotonic()), 0
        try:
            async with self._origin.ask(exchange.method, exchange.path, _forwarded(exchange), body, self._settings.timeout) as response:
                answer = await _whole(response)
            used = _used(answer)
        finally:
            allowance.settle(reservation, used, time.monotonic())
        headers = _returned(response)
        if RELEASE not in response.headers:
            headers.append((RELEASE.encode(), release.encode()))
        await exchange.respond(response.status, [*headers, (CACHE.encode(), b"bypass")], answer)

    # ---- chat

    async def _chat(self, exchange: Exchange) -> None:
        await self._release()
        principal, allowance = await self._admit(exchange)
        question = _question(exchange, principal, allowance, await exchange.body(self._most), self._max_tokens)
        await self._answer(exchange, question)

    async def _answer(self, exchange: Exchange, question: Question) -> None:
        """From the cache, from a flight under way, or from a new one."""
        release = await self._release()
        entry = self._cache.get(question.key) if question.key else None
        decision = decide(entry, question.asked, release, self._settings.ttl, time.time()) if question.key else "bypass"
        if entry and decision == "hit":
            return await self._reply(exchange, question, entry, "hit")
        if question.key is None or decision == "bypass":
            return await self._past(exchange, replace(question, key=None))
        flight = self._flights.get((question.key, release))
        if flight is None:
            produce = self._production(question, entry if decision == "revalidate" else None)
            flight, _ = self._flights.start((question.key, release), question.principal.key, produce)
        return await self._follow(exchange, question, flight, entry)

    async def _past(self, exchange: Exchange, question: Question) -> None:
        """Past the cache: a flight that ends when the caller hangs up, since nobody else wants its answer."""
        flight, task = self._flights.start(None, question.principal.key, self._production(question, None))
        gone = asyncio.create_task(exchange.gone())
        gone.add_done_callback(lambda _: task.cancel())
        try:
            await self._follow(exchange, question, flight, None)
        finally:
            gone.cancel()

    async def _follow(self, exchange: Exchange, question: Question, flight: Answer, entry: Entry | None) -> None:
        """The flight's answer in the asked form: live where it streams. `entry` may stand in when the origin is down."""
        head = await flight.opened() if question.streamed else None
        if head is not None:
            return await self._relay(exchange, question, flight, head)
        end = await flight.landed()
        if isinstance(end, Answered):
            return await self._reply(exchange, question, end.entry, end.state if question.key else "bypass")
        status = end.status
        if status in PERSONAL and flight.owner != question.principal.key:
            return await self._answer(exchange, question)  # refused in another's name: ask in one's own
        if entry and status >= 500 and may_stand_in(entry, question.asked, await self._release()):
            return await self._reply(exchange, question, entry, "hit")
        if isinstance(end, Refusal):
            return await exchange.respond(end.status, [*end.headers, *_told("bypass" if question.key is None else "miss")], end.body)
        raise end

    async def _relay(self, exchange: Exchange, question: Question, flight: Answer, head: Head) -> None:
        """The answer as it is made. A stream that breaks ends with an error event, and without `[DONE]`."""
        state = "miss" if question.key else "bypass"
        await exchange.start(200, [STREAM, *_validators(head.release, head.etag), *_told(state)])
        form = 0 if question.include_usage else 1
        async for events in flight.follow():
            await exchange.more(b"".join([event[form] for event in events]))
        end = await flight.landed()
        await exchange.more(DONE if isinstance(end, Answered) else sse(end.body if isinstance(end, Refusal) else error_body(end)))
        await exchange.end()

    async def _reply(self, exchange: Exchange, question: Question, entry: Entry, state: str) -> None:
        """A finished answer, as JSON or replayed as a stream; nothing but headers to a caller who has it."""
        headers = [*_validators(entry.release, entry.etag), *_told(state)]
        if state in ("hit", "revalidated"):
            headers.append((b"age", b"%d" % max(0, time.time() - entry.stored)))
        if entry.etag and exchange.header(b"if-none-match") == entry.etag:
            await exchange.start(304, headers)
            return await exchange.end()
        if question.streamed:
            return await exchange.respond(200, [STREAM, *headers], replay.stream(orjson.loads(entry.body), question.include_usage))
        return await exchange.respond(200, [JSON, *headers], entry.body)

    # ---- flights

    def _production(self, question: Question, entry: Entry | None) -> Callable[[Answer], Coroutine[Any, Any, None]]:
        """What makes the answer, once its tokens are reserved. Raises `RateLimited`. With an entry, the origin may confirm it."""
        reservation = question.allowance.reserve(question.tokens, time.monotonic())
        return lambda flight: self._produce(flight, question, entry, reservation)

    async def _produce(self, flight: Answer, question: Question, entry: Entry | None, reservation: Reservation) -> None:
        """Fly to the end, whatever happens: settle the tokens, keep the answer, wake the followers."""
        end: End = OriginError("the edge was stopped before the answer was whole", status=503)
        used: int | None = None  # a caller who hangs up past the cache has spent what was reserved
        try:
            async with asyncio.timeout(self._settings.timeout):
                end = await self._fetch(flight, question, entry)
            used = end.tokens if isinstance(end, Answered) else 0
        except TimeoutError:
            end, used = OriginError(f"the answer was not whole after {self._settings.timeout:g} s", status=504), 0
        except OriginError as error:
            end, used = error, 0
        except Exception:
            log.exception("an answer of the origin can't be used")
            end, used = OriginError("the origin's answer can't be used; the edge's log says why"), 0
        finally:
            if used is not None:
                question.allowance.settle(reservation, used, time.monotonic())
            if isinstance(end, Answered) and end.keep and question.key and self._pointer:
                self._cache.put(question.key, end.entry, self._pointer.release)
            flight.land(end)

    async def _fetch(self, flight: Answer, question: Question, entry: Entry | None) -> End:
        """Ask the origin, always for a stream: whoever joins can follow it live, whichever form they asked for."""
        body = json.dumps({**question.body, "stream": True, "stream_options": {"include_usage": True}}).encode()
        headers = question.headers | ({"if-none-match": entry.etag} if entry else {})
        async with self._origin.ask("POST", CHAT, headers, body) as response:
            if response.status == 304 and entry:
                return _confirmed(entry, response)
            if response.status != 200:
                return await _refusal(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise OriginError(f"the origin answered with {response.headers.get('content-type', 'no content type')[:80]}, not a stream")
            return await self._read(flight, response)

    async def _read(self, flight: Answer, response: aiohttp.ClientResponse) -> End:
        """The stream to its end, told to the flight event by event."""
        release, etag = response.headers.get(RELEASE, ""), response.headers.get("etag", "")
        reader, fold, size = EventReader(), replay.Fold(), 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > LARGEST:
                raise OriginError(f"the origin's answer is over {LARGEST} bytes")
            for data in _events(reader, part):
                chunk = _chunk(data)
                if chunk.get("error"):
                    return Refusal(502, [JSON], data)
                fold.add(chunk)
                if flight.head is None:
                    flight.open(Head(release, etag))
                flight.add((sse(data), _sse(replay.without_usage(data, chunk))))
            if reader.done:
                await _drain(response)
                break
        if not reader.done or not fold.complete:
            raise OriginError("the origin's answer was cut short")
        keep = bool(release) and "no-store" not in response.headers.get("cache-control", "").lower()
        entry = Entry(orjson.dumps(fold.completion()), etag, release, time.time())
        return Answered(entry, "miss", fold.tokens, keep)


def _named(path: str) -> str:
    """What the route is called in the metrics."""
    known = path in METHODS or path in relay.ROUTES
    return path if known else "/v1/models/{model}" if MODEL.fullmatch(path) else "other"


def _question(exchange: Exchange, principal: Principal, allowance: Allowance, data: bytes, max_tokens: int) -> Question:
    """Raises `RequestError` on a body whose form can't be told; what else is wrong with it is the origin's to say."""
    body = canonical.parse(data)
    streamed, options = body.get("stream"), body.get("stream_options")
    if not isinstance(streamed, bool | None):
        raise RequestError("stream must be true or false", "stream")
    if options is not None and not isinstance(options, dict):
        raise RequestError("stream_options must be an object", "stream_options")
    key = canonical.key(body, principal.tenant, principal.groups)
    include_usage = bool(options and options.get("include_usage"))
    directives = asked(exchange.header(b"cache-control"))
    tokens = estimate(body, len(data), max_tokens)
    return Question(principal, allowance, _forwarded(exchange), body, key, directives, bool(streamed), include_usage, tokens)


def _forwarded(exchange: Exchange) -> dict[str, str]:
    headers = {name.decode(): exchange.header(name) for name in FORWARDED if name in exchange.headers}
    return headers | {"content-type": "application/json", "x-request-id": exchange.id.decode()}


def _returned(response: aiohttp.ClientResponse) -> Headers:
    return [(name.encode(), response.headers[name].encode()) for name in RETURNED if name in response.headers]


def _validators(release: str, etag: str) -> Headers:
    return [(name, value.encode()) for name, value in ((RELEASE.encode(), release), (b"etag", etag)) if value]


def _told(state: str) -> Headers:
    """The cache header, and the count behind it."""
    telemetry.cache.labels(state).inc()
    return [(CACHE.encode(), state.encode())]


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


def _sse(data: bytes | None) -> bytes:
    return b"" if data is None else sse(data)


def _confirmed(entry: Entry, response: aiohttp.ClientResponse) -> Answered:
    """The entry as the release that confirmed it gives it."""
    release = response.headers.get(RELEASE, "")
    if not release:
        raise OriginError("the origin confirmed an answer without naming its release")
    renewed = Entry(replay.renewed(entry.body, release), entry.etag, release, time.time())
    return Answered(renewed, "revalidated", 0)


async def _refusal(response: aiohttp.ClientResponse) -> Refusal:
    """The origin's own error. Raises `OriginError` when it is not one in JSON."""
    body = await _whole(response)
    if response.status < 400 or "json" not in response.headers.get("content-type", ""):
        raise OriginError(f"the origin answered {response.status} without an error in JSON")
    return Refusal(response.status, _returned(response), body)


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """The response's body. Raises `OriginError` when it is too large to be an answer."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LARGEST:
            raise OriginError(f"the origin's answer is over {LARGEST} bytes")
        parts.append(part)
    return b"".join(parts)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read what follows `[DONE]`, so that the connection is used again and the origin does not see its caller hang up."""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(1):
            await response.content.read()


def _used(answer: bytes) -> int:
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return 0
    return (replay.used(body) if isinstance(body, dict) else None) or 0
