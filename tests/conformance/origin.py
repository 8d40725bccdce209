"""A small origin for the edge's tests: the far side of the contract, over real HTTP, steered from the test.

What it answers is steered by the question itself: `say` words; `status`; `etag`; `cut`, `error`, `malformed` and `hold` break
or delay a stream.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ragstone import shares
from ragstone.errors import GeneratorError
from ragstone.wire import DONE, Head, Usage, chunk, error_body, last_chunk, sse


@dataclass(frozen=True)
class Seen:
    """One request that reached the origin."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass
class Origin:
    """Runs in a thread of its own until `close`. Fields may be set from the test at any time."""

    keys: dict[str, str] = field(default_factory=dict)
    revoked: list[str] = field(default_factory=list)
    release: str = "r-a"
    number: int = 1
    canary: dict[str, int] = field(default_factory=dict)
    purged: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)
    """Documents that are deleted: what rested on them is another answer, under another ETag."""
    confirms: bool = True
    """Whether it answers 304 to the ETag it gave."""
    pointer: object = None
    """What `/v1/release` says instead of the truth."""
    port: int = 0
    finished: int = 0
    """Streams that were written to their end."""

    def start(self) -> Origin:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def go(self) -> None:
        """Let every held answer go on, and hold the next ones anew."""
        self._loop.call_soon_threadsafe(self._release_held)

    def asked(self, question: str) -> list[Seen]:
        """The chat requests that asked this question."""
        return [one for one in list(self.seen) if one.body.get("messages", [{}])[-1].get("content") == question]

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop, self._gate = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/release", self._pointer)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_route("*", "/{rest:.*}", self._other)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        ready.set()
        await self._stop.wait()
        self._release_held()
        await runner.cleanup()

    def _release_held(self) -> None:
        gate, self._gate = self._gate, asyncio.Event()
        gate.set()

    async def _pointer(self, request: web.Request) -> web.Response:
        pointer: dict[str, Any] = {"channel": "production", "number": self.number, "release": self.release}
        pointer |= {"keys": self.keys, "revoked": self.revoked, "canary": self.canary, "purged": self.purged}
        return web.json_response(pointer if self.pointer is None else self.pointer)

    async def _other(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        self.seen.append(Seen(request.path, dict(request.headers), body))
        answer = {"path": request.path, "usage": {"prompt_tokens": 7, "total_tokens": 7}}
        return web.json_response(answer, headers={"x-ragstone-release": self.release, "x-secret": "of the origin"})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(Seen(request.path, dict(request.headers), body))
        test = body.get("test", {})
        release = shares.release(self.release, self.canary, body.get("model"), shares.opening(body))
        rests = json.dumps([body["messages"], test, self._citations()], sort_keys=True)
        etag = f'"{hashlib.sha256(rests.encode()).hexdigest()[:16]}"'
        headers = {"etag": etag, "x-ragstone-release": release, "x-secret": "of the origin", **test.get("headers", {})}
        if test.get("hold") == "head":
            await self._gate.wait()
        if "status" in test:
            error = {"error": {"message": "as the test asked", "type": "server_error", "param": None, "code": "test"}}
            return web.json_response(error, status=test["status"], headers={"retry-after": "7", "x-ragstone-release": release})
        if self.confirms and request.headers.get("if-none-match") == etag:
            return web.Response(status=304, headers=headers)
        response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream"})
        await response.prepare(request)
        await self._stream(request, response, release, test)
        return response

    def _citations(self) -> list[dict[str, object]]:
        return [] if "pump.md" in self.forgotten else [{"number": 1, "chunk": "c1", "document": "pump.md"}]

    async def _stream(self, request: web.Request, response: web.StreamResponse, release: str, test: dict[str, Any]) -> None:
        head = Head("chatcmpl-1", 1_700_000_000, "production")
        await response.write(sse(chunk(head, "", role="assistant")))
        for number, word in enumerate(test.get("say", "Restart the pump [1].").split(" ")):
            if number == 1 and test.get("hold") == "stream":
                await self._gate.wait()
            await response.write(sse(chunk(head, (" " if number else "") + word)))
        if test.get("error"):
            await response.write(sse(error_body(GeneratorError("the generator died"))))
            return
        if test.get("cut") == "before finish":
            assert request.transport
            request.transport.abort()
            return
        if test.get("cut") == "early":
            return
        if test.get("malformed"):
            await response.write(str(test["malformed"]).encode("latin-1"))
        ragstone = {"release": release, "basis": "generated", "citations": self._citations()}
        if test.get("cut") != "no finish":
            await response.write(sse(chunk(head, finish="stop", ragstone=ragstone)))
        await response.write(sse(last_chunk(head, Usage(20, 5))))
        if test.get("cut") != "no done":
            await response.write(DONE)
        self.finished += 1
