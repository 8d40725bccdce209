"""The Python edge: one process, answers cached in memory, raw ASGI (a framework doubled the cost of a cache hit)."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import orjson

from ragstone import accesslog, answers, atonce, canonical, crew, relay, shares, telemetry
from ragstone.access import Principal, Verifier
from ragstone.accesslog import AccessLog
from ragstone.answers import JSON, Answer, Answered, End, Event, Head, Refusal
from ragstone.budget import Budget
from ragstone.cache import Asked, Cache, Decision, Entry, asked, decide, may_stand_in, since
from ragstone.config import Settings
from ragstone.errors import ConfigError, OriginError, RagstoneError, RequestError, Unauthorized
from ragstone.exchange import Exchange, Receive, Scope, Send
from ragstone.flight import Flights
from ragstone.hits import CHAT, Hits
from ragstone.lease import lease
from ragstone.limit import Limits, estimate
from ragstone.listen import Certificate, listen
from ragstone.origin import Pointer
from ragstone.origins import Origins
from ragstone.shared import Shared
from ragstone.turns import Turns
from ragstone.wire import CACHE, DONE, RELEASE, error_body, sse

log = logging.getLogger("ragstone.edge")

METHODS = {
    CHAT: "POST",
    "/v1/embeddings": "POST",
    "/v1/retrieve": "POST",
    "/v1/documents": "POST",
    "/v1/documents/page": "POST",
    "/v1/feedback": "POST",
    "/v1/key": "GET",
    "/v1/models": "GET",
    "/healthz": "GET",
    "/readyz": "GET",
    "/metrics": "GET",
}
MODEL = re.compile(r"/v1/models/[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
FORWARDED = (b"authorization", b"cache-control", b"traceparent", b"tracestate")
"""All that the origin is told of a caller's headers: nothing can be smuggled past a list of what may pass."""
POLLED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by probes and Prometheus: logged only when refused."""
MOMENT = 0.05
"""Seconds whose lines of the access log are written together: a write for each cost as much as half a hit."""
PERSONAL = frozenset({401, 403, 429})
"""Refusals of who asked, not of what was asked: they are not shared with others who wait."""


@dataclass(frozen=True)
class Question:
    """One chat request, understood."""

    principal: Principal
    budget: Budget
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
    opening: str
    """What its conversation began with."""


def run(settings: Settings, started: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way. `started` is called with the bound URL. Raises `ConfigError`."""
    edge = settings.edge
    if edge.workers > 1:
        return crew.run(settings, started)
    paths = [settings.folder / name for name in (edge.certificate, edge.certificate_key) if name]
    certificate = Certificate(paths[0], paths[-1]) if paths else None  # one file may hold both
    if edge.log:
        accesslog.check(settings.folder / edge.log)
    app = Edge(settings)
    return listen(app, edge.host, edge.port, drain=edge.timeout, started=started, shared=edge.share_port, certificate=certificate)


def tail(settings: Settings) -> None:
    """Print the access log as it grows, until interrupted. Raises `ConfigError` when none is written."""
    if not settings.edge.log:
        raise ConfigError("edge.log is empty: no request is logged", "remove it from ragstone.toml")
    for line in accesslog.follow(settings.folder / settings.edge.log):
        print(line, flush=True)


class Edge:
    """The ASGI app."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.edge
        self._most = settings.api.max_body_kb * 1024
        self._max_tokens = settings.serve.max_tokens
        edge = settings.edge
        self._origin = Origins((edge.origin, *edge.fallbacks), edge.timeout, hedge=edge.hedge)
        self._turns = Turns(edge.concurrency, edge.queue)
        self._verifier = Verifier()
        self._limits = Limits()
        self._cache = Cache(edge.cache_mb << 20)
        self._shared = Shared(settings.edge.redis, settings.edge.redis_mb << 20) if settings.edge.redis else None
        self._log = AccessLog(settings.folder / edge.log, _soon) if edge.log else None
        self._hits = Hits(self._verifier, self._limits, self._cache, self._log, edge.ttl)
        self._flights: Flights[Head, Event, End] = Flights()
        self._pointer: Pointer | None = None
        self._fault: OriginError | None = None
        self._open = 0
        self._checked = 0.0
        self._checking = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        exchange, began = Exchange(scope, receive, send), time.perf_counter()
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
        route = _named(exchange.path)
        telemetry.requests.labels("edge", route, str(exchange.status)).inc()
        if self._log and (route not in POLLED or exchange.status >= 400):
            self._log.add(_line(exchange, time.perf_counter() - began))
        return None

    def at_once(self, head: atonce.Head, body: bytes) -> tuple[bytes, bytes] | None:
        """A hit that needs nobody else: none is counted elsewhere, or shared out between releases."""
        if head.path != CHAT or self._shared or self._pointer is None or self._pointer.canary:
            return None
        return self._hits.answer(head, body, self._pointer)

    # ---- the release pointer

    async def _live(self, receive: Receive, send: Send) -> None:
        """Startup, the watch over the release pointer, shutdown. An origin that is down does not keep the edge from starting."""
        await receive()
        await self._check()
        watch = asyncio.create_task(self._watch())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watch.cancel()
        await self._flights.close()
        self._origin.close()
        if self._log:
            self._log.close()
        if self._shared:
            await self._shared.close()
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
        self._hits.count()
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

    async def _release_of(self, question: Question) -> str:
        """The release that answers this conversation. Raises `OriginError` likewise."""
        in_force = await self._release()
        canary = self._pointer.canary if self._pointer else {}
        return shares.release(in_force, canary, question.body.get("model"), question.opening)

    # ---- routes

    async def _route(self, exchange: Exchange) -> None:
        path = exchange.path
        if path in relay.PRIVATE or relay.page(path):
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
            self._hits.count()
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
        if not relay.page(exchange.path):
            await self._release()
            relay.administer((await self._admit(exchange))[0])
        if exchange.path == relay.EDGE:
            self._hits.count()
            told = {**self._counts(), "samples": telemetry.samples(), "limits": self._limits.told(time.monotonic())}
            return await exchange.respond(200, [JSON], orjson.dumps({**told, "shared": self._shared is not None}))
        body = await exchange.body(self._most)
        return await relay.relay(self._origin, exchange, _forwarded(exchange), body or None, [(CACHE.encode(), b"bypass")])

    async def _admit(self, exchange: Exchange) -> tuple[Principal, Budget]:
        """Who asks, counted against their limit. Raises `Unauthorized` or `RateLimited`."""
        scheme, _, token = exchange.header(b"authorization").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("there is no API key: send 'Authorization: Bearer <key>'", "ragstone keys create")
        principal = self._verifier.verify(token.strip())
        here = self._limits.of(principal.key, principal.rpm, principal.tpm, time.monotonic(), principal.tenant)
        budget = Budget(principal.key, here, self._shared)
        exchange.extra, exchange.spent = budget.headers, lambda: budget.spent
        exchange.notes = {"key": principal.key, "tenant": principal.tenant}
        await budget.request()
        return principal, budget

    async def _pass(self, exchange: Exchange) -> None:
        """What is not cached: keys and limits here, the answer from the origin."""
        release = await self._release()
        principal, budget = await self._admit(exchange)
        body = await exchange.body(self._most) if exchange.method == "POST" else None
        if body is not None:
            canonical.parse(body)
        reservation, used = await budget.reserve(len(body or b"") // 4), 0
        try:
            asking = self._origin.ask(exchange.method, exchange.path, _forwarded(exchange), body, self._settings.timeout)
            async with self._turn(principal), asking as response:
                answer = await response.all(answers.LARGEST)
            used = answers.used(answer)
        finally:
            await budget.settle(reservation, used)
        headers = answers.returned(response)
        if RELEASE not in response.headers:
            headers.append((RELEASE.encode(), release.encode()))
        await exchange.respond(response.status, [*headers, (CACHE.encode(), b"bypass")], answer)

    def _turn(self, principal: Principal) -> AbstractAsyncContextManager[None]:
        if not self._settings.concurrency:
            return nullcontext()
        return self._turns.turn(first=principal.tenant in self._settings.interactive)

    # ---- chat

    async def _chat(self, exchange: Exchange) -> None:
        await self._release()
        principal, budget = await self._admit(exchange)
        data = await exchange.body(self._most)
        question = _question(exchange, principal, budget, data, self._max_tokens)
        self._hits.understood(data, principal, question.key, question.streamed, question.include_usage)
        await self._answer(exchange, question)

    async def _answer(self, exchange: Exchange, question: Question) -> None:
        """From the cache, from a flight under way, or from a new one."""
        release = await self._release_of(question)
        entry, decision = await self._kept(question, release)
        if entry and decision == "hit":
            return await self._reply(exchange, question, entry, "hit")
        if question.key is None or decision == "bypass":
            return await self._past(exchange, replace(question, key=None))
        flight = self._flights.get((question.key, release))
        if flight is None:
            produce = self._production(question, entry if decision == "revalidate" else None)
            flight, _ = self._flights.start((question.key, release), question.principal.key, produce)
        return await self._follow(exchange, question, flight, entry)

    async def _kept(self, question: Question, release: str) -> tuple[Entry | None, Decision]:
        """The entry and what to do with it; one that can't be served as it is is looked for among what all edges share."""
        if question.key is None:
            return None, "bypass"
        purged = self._pointer.purged if self._pointer else 0.0
        entry = since(self._cache.get(question.key), purged)
        decision = decide(entry, question.asked, release, self._settings.ttl, time.time())
        if self._shared is None or decision not in ("fetch", "revalidate"):
            return entry, decision
        found = await self._shared.get(question.key)
        newest = max(filter(None, (found, self._cache.get(question.key))), key=lambda one: one.stored, default=None)
        entry = since(newest, purged)
        decision = decide(entry, question.asked, release, self._settings.ttl, time.time())
        if entry and entry is found and decision == "hit":
            self._cache.put(question.key, entry, release)
        return entry, decision

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
        if entry and status >= 500 and may_stand_in(entry, question.asked, await self._release_of(question)):
            return await self._reply(exchange, question, entry, "hit")
        if isinstance(end, Refusal):
            return await exchange.respond(end.status, [*end.headers, *answers.told("bypass" if question.key is None else "miss")], end.body)
        raise end

    async def _relay(self, exchange: Exchange, question: Question, flight: Answer, head: Head) -> None:
        """The answer as it is made. A stream that breaks ends with an error event, and without `[DONE]`."""
        state = "miss" if question.key else "bypass"
        await exchange.start(200, [answers.STREAM, *answers.validators(head), *answers.told(state)])
        form = 0 if question.include_usage else 1
        async for events in flight.follow():
            await exchange.more(b"".join([event[form] for event in events]))
        end = await flight.landed()
        await exchange.more(DONE if isinstance(end, Answered) else sse(end.body if isinstance(end, Refusal) else error_body(end)))
        await exchange.end()

    async def _reply(self, exchange: Exchange, question: Question, entry: Entry, state: str) -> None:
        """A finished answer, as JSON or replayed as a stream; nothing but headers to a caller who has it."""
        headers, body = answers.replied(entry, state, question.streamed, question.include_usage)
        if entry.etag and exchange.header(b"if-none-match") == entry.etag:
            await exchange.start(304, headers[1:])
            return await exchange.end()
        return await exchange.respond(200, headers, body)

    # ---- flights

    def _production(self, question: Question, entry: Entry | None) -> Callable[[Answer], Coroutine[Any, Any, None]]:
        """What makes the answer and lands it, whatever happens. With an entry, the origin may confirm it."""
        return lambda flight: self._produce(flight, question, entry)

    async def _produce(self, flight: Answer, question: Question, entry: Entry | None) -> None:
        end: End = OriginError("the edge was stopped before the answer was whole", status=503)
        kept = None
        async with AsyncExitStack() as held:
            try:
                end = await self._elsewhere(question, held) or await self._paid(flight, question, entry)
                kept = await self._keep(question, end)
            except RagstoneError as error:
                end = error
            finally:
                flight.land(end)
            if kept and question.key and self._shared:
                await self._shared.put(question.key, kept, await self._release_of(question))

    async def _elsewhere(self, question: Question, held: AsyncExitStack) -> Answered | None:
        """The answer, if another process makes it or made it just now; else it is this one's to make, until `held` is left."""
        if self._shared is None or question.key is None or question.asked.no_cache:
            return None
        release = await self._release_of(question)
        await held.enter_async_context(lease(self._shared, f"{question.key}:{release}"))
        entry, decision = await self._kept(question, release)
        return Answered(entry, "hit", 0, keep=False) if entry and decision == "hit" else None

    async def _keep(self, question: Question, end: End) -> Entry | None:
        """The entry, once it is in memory; None where the answer is not to be kept, or was begun before a purge."""
        if not isinstance(end, Answered) or not end.keep or question.key is None or self._pointer is None:
            return None
        if since(end.entry, self._pointer.purged) is None:
            return None
        self._cache.put(question.key, end.entry, await self._release_of(question))
        return end.entry

    async def _paid(self, flight: Answer, question: Question, entry: Entry | None) -> End:
        """The answer, its tokens reserved before and settled after. Raises `RateLimited` or `OriginError`."""
        reservation = await question.budget.reserve(question.tokens)
        used: int | None = None  # a caller who hangs up past the cache has spent what was reserved
        try:
            async with asyncio.timeout(self._settings.timeout):
                end = await self._fetch(flight, question, entry)
            used = end.tokens if isinstance(end, Answered) else 0
            return end
        except TimeoutError:
            used = 0
            raise OriginError(f"the answer was not whole after {self._settings.timeout:g} s", status=504) from None
        except RagstoneError:
            used = 0
            raise
        except Exception:
            used = 0
            log.exception("an answer of the origin can't be used")
            raise OriginError("the origin's answer can't be used; the edge's log says why") from None
        finally:
            if used is not None:
                await question.budget.settle(reservation, used)

    async def _fetch(self, flight: Answer, question: Question, entry: Entry | None) -> End:
        """Ask the origin, always for a stream: whoever joins can follow it live, whichever form they asked for."""
        body = canonical.as_stream(question.body)
        headers = question.headers | ({"if-none-match": entry.etag} if entry else {})
        begun = time.time()
        asking = self._origin.ask("POST", CHAT, headers, body, hedge=not question.streamed)
        async with self._turn(question.principal), asking as response:
            if response.status == 304 and entry:
                return answers.confirmed(entry, response)
            if response.status != 200:
                return await answers.refusal(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise OriginError(f"the origin answered with {response.headers.get('content-type', 'no content type')[:80]}, not a stream")
            return await answers.read(flight, response, begun)


def _soon(write: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(MOMENT, write)


def _named(path: str) -> str:
    """What the route is called in the metrics."""
    if path in METHODS or path in relay.PRIVATE or path == relay.PAGE:
        return path
    return "/console/{name}" if relay.page(path) else "/v1/models/{model}" if MODEL.fullmatch(path) else "other"


def _question(exchange: Exchange, principal: Principal, budget: Budget, data: bytes, max_tokens: int) -> Question:
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
    headers, opening = _forwarded(exchange), shares.opening(body)
    return Question(principal, budget, headers, body, key, directives, bool(streamed), include_usage, tokens, opening)


def _forwarded(exchange: Exchange) -> dict[str, str]:
    headers = {name.decode(): exchange.header(name) for name in FORWARDED if name in exchange.headers}
    return headers | {"content-type": "application/json", "x-request-id": exchange.id.decode()}


def _line(exchange: Exchange, seconds: float) -> dict[str, object]:
    """The request as the access log has it: who and how, never what was asked."""
    told = dict(exchange.sent)
    named = {name: told[header].decode() for name, header in (("cache", CACHE.encode()), ("release", RELEASE.encode())) if header in told}
    line = {"id": exchange.id.decode(), "method": exchange.method, "path": exchange.path[:200], "status": exchange.status}
    return {**line, **exchange.notes, **named, "tokens": exchange.spent(), "ms": round(seconds * 1000, 1)}
