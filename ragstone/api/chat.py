"""`POST /v1/chat/completions`: the answer as one completion, or as a stream of its sentences."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict
from functools import partial
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ragstone import cache, reuse, shares, telemetry, wire
from ragstone.access import Principal
from ragstone.api import body
from ragstone.api.body import Chat
from ragstone.api.call import authorise, confirmed, origin, unless_gone, validators, veiled
from ragstone.api.releases import Opened
from ragstone.errors import GeneratorError, RagstoneError
from ragstone.fields import Fields
from ragstone.rag import Answer, Grounds, Options
from ragstone.reuse import Place
from ragstone.shadow import Copy, Said, Watch
from ragstone.slow import Slow
from ragstone.wire import REUSED, Head

log = logging.getLogger("ragstone.api")
REUSED_MOST = 200
"""Characters of a question in a header."""


async def complete(request: Request) -> Response:
    """The answer. With `If-None-Match` only retrieval is done where the evidence is the same: 304."""
    principal, began = authorise(request), time.perf_counter()
    fields = await body.read(request, origin(request).limit)
    asked = body.chat(fields)
    async with AsyncExitStack() as held:
        opened = await held.enter_async_context(origin(request).releases.use(asked.model, shares.opening(fields.values)))
        options = asked.options(opened.settings.serve.max_tokens, opened.settings.serve.temperature)
        grounds = await origin(request).compute(lambda: opened.rag.prepare(asked.messages, principal, options))
        headers = validators(opened, grounds.etag)
        if confirmed(request, grounds.etag):
            return Response(status_code=304, headers=headers)
        searched = time.perf_counter() - began
        place = _place(request, fields, principal, grounds)
        if place and confirmed(request, reuse.marked(grounds.etag)):
            return Response(status_code=304, headers=validators(opened, reuse.marked(grounds.etag)))
        kept = origin(request).reuse.find(place, grounds, origin(request).releases.pointer.purged) if place else None
        if kept:
            headers = validators(opened, reuse.marked(grounds.etag)) | {REUSED: quote(kept.reused[:REUSED_MOST], safe=" ")}
            answer = Spoken(reuse.said(kept), grounds)
        else:
            answer = Spoken(opened.rag.answer(grounds, options), grounds, partial(_ended, request, opened, options, place, searched))
        if asked.stream:
            await held.enter_async_context(answer)
            if await unless_gone(request.receive, answer.begin()) is None:
                return Response(status_code=499)
            return Stream(answer, asked, held.pop_all(), headers, request.state.id)
        async with answer:
            whole = await unless_gone(request.receive, answer.whole())
        if whole is None:
            return Response(status_code=499)
        return Response(wire.completion(_head(asked), whole.text, whole.finish, whole.usage, told(whole)), 200, headers, "application/json")


def told(answer: Answer) -> dict[str, Any]:
    """The answer's `ragstone` field: what it rests on, and what was searched for."""
    grounds = answer.grounds
    return {
        "release": grounds.release,
        "basis": answer.basis,
        "question": grounds.question,
        "rewritten": grounds.rewritten,
        "abstained": answer.basis == "abstained",
        "best": round(grounds.best, 4),
        "threshold": grounds.threshold,
        "citations": [asdict(one) | {"score": round(one.score, 4), "fused": round(one.fused, 6)} for one in answer.citations],
        **({"reused": answer.reused} if answer.reused else {}),
    }


class Spoken:
    """An answer under way, as the orchestrator says it. Leaving the block stops its generation."""

    def __init__(
        self, parts: AsyncGenerator[str | Answer, None], grounds: Grounds, ended: Callable[[Answer, Said], None] = lambda *_: None
    ) -> None:
        self._parts = parts
        self._first: str | Answer | None = None
        self._began = time.perf_counter()
        self._watch, self._ended = Watch(grounds.service), ended

    async def __aenter__(self) -> Spoken:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    async def begin(self) -> bool:
        """Wait for the first sentence, so that an error before it is still an HTTP status. Raises `GeneratorError`."""
        self._first = await anext(self._parts)
        self._watch.heard()
        return True

    async def parts(self) -> AsyncGenerator[str | Answer, None]:
        """The sentences, then the answer."""
        if self._first is not None:
            yield self._first
        async for part in self._parts:
            self._watch.heard()
            if isinstance(part, Answer):
                self._ended(part, self._watch.said(part))
            yield part
        telemetry.seconds.labels("total").observe(time.perf_counter() - self._began)

    async def whole(self) -> Answer:
        """The answer, once it is finished. Raises `GeneratorError`."""
        async with aclosing(self.parts()) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    return part
        raise GeneratorError("the answer did not come to an end")


class Stream(Response):
    """Server-sent events: role, sentences, the finish with our extra field, the usage if asked for, `[DONE]`.

    A failure on the way is an error event, and no `[DONE]` follows. `held` is let go when the response is over, however it ends.
    """

    def __init__(self, answer: Spoken, asked: Chat, held: AsyncExitStack, headers: Mapping[str, str], id: str) -> None:
        super().__init__(None, 200, {**headers, "x-accel-buffering": "no"}, "text/event-stream; charset=utf-8")
        del self.headers["content-length"]
        self._answer, self._asked, self._held, self._id = answer, asked, held, id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events()) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncGenerator[bytes, None]:
        try:
            head = _head(self._asked)
            yield wire.sse(wire.chunk(head, "", role="assistant"))
            async with aclosing(self._answer.parts()) as parts:
                async for part in parts:
                    if isinstance(part, str):
                        yield wire.sse(wire.chunk(head, part))
                    else:
                        yield self._last(head, part)
        except RagstoneError as error:
            yield wire.sse(wire.error_body(veiled(error, self._id)))
        except Exception as error:
            log.exception("internal error in a stream, request %s", self._id)
            yield wire.sse(wire.error_body(veiled(RagstoneError(type(error).__name__), self._id)))

    def _last(self, head: Head, answer: Answer) -> bytes:
        # not in a chunk without choices, which breaks the many clients that read choices[0] of every chunk
        events = wire.sse(wire.chunk(head, finish=answer.finish, ragstone=told(answer)))
        if self._asked.include_usage:
            events += wire.sse(wire.last_chunk(head, answer.usage))
        return events + wire.DONE


def _place(request: Request, fields: Fields, principal: Principal, grounds: Grounds) -> Place | None:
    """Where an answer to be reused is; None where none is, or the caller's `no-store` forbids it."""
    if cache.asked(request.headers.get("cache-control", "")).no_store:
        return None
    return origin(request).reuse.place(fields.values, principal, grounds)


def _ended(request: Request, opened: Opened, options: Options, place: Place | None, search: float, answer: Answer, said: Said) -> None:
    """Keep the answer for others, remember it if it was slow, and ask the shadow the same, once the caller has it."""
    if place:
        origin(request).reuse.keep(place, answer)
    who: Principal = request.state.principal
    first, total = search + said.first, search + said.total
    kind = (said.tokens, said.basis, opened.id, said.service, who.tenant, who.groups, request.state.id, answer.grounds.question)
    origin(request).slowest.add(Slow(time.time(), total, search, first, *kind))
    copy = Copy(answer.grounds, options, answer, said)
    origin(request).shadow.follow(lambda: origin(request).releases.use(opened.id), copy)


def _head(asked: Chat) -> Head:
    return Head(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), asked.model)
