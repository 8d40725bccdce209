"""A foreign OpenAI-compatible server whose words each test chooses: what a generator may say is any text, also one cut off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from ragstone.wire import DONE, Head, Usage, chunk, last_chunk, sse


class Speaker:
    """Says `text`, a few characters at a time. Steered from the test's thread."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.reset()

    def reset(self, text: str = "") -> None:
        """Well again, for the next test."""
        self.text = text
        self.reply: Callable[[str], str | None] | None = None
        """What it says to the last message instead of `text`; None refuses it with 400."""
        self.finish = "stop"
        self.dies_after: int | None = None
        """Characters after which the connection is torn down."""
        self.held = False
        """Whether the second half waits for `go`."""
        self.status = 200
        self.begun = threading.Event()
        """The first half was said, and the second is held."""
        self.left = threading.Event()
        """The one who asked went away before the end."""
        self._go = asyncio.Event()

    @property
    def url(self) -> str:
        return f"openai+http://127.0.0.1:{self.port}/v1?model=speaker"

    def go(self) -> None:
        assert self._loop
        self._loop.call_soon_threadsafe(self._go.set)

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=1 << 24)
        for at in ("/v1", "/openai/v1"):  # where servers have it, and where KServe has it
            app.router.add_post(f"{at}/chat/completions", self._chat)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        ready.set()
        await stop.wait()
        await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        text = self.reply(self.asked[-1]["messages"][-1]["content"]) if self.reply else self.text
        if self.status != 200 or text is None:
            return web.json_response({"error": {"message": "as the test asked"}}, status=400 if text is None else self.status)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            await self._say(request, response, text)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return response

    async def _say(self, request: web.Request, response: web.StreamResponse, text: str) -> None:
        head = Head("c-1", 1, "speaker")
        for start in range(0, len(text), 5):
            if self.dies_after is not None and start >= self.dies_after:
                assert request.transport
                request.transport.abort()
                return
            if self.held and start >= len(text) // 2:
                self.begun.set()
                await self._go.wait()
            await response.write(sse(chunk(head, text[start : start + 5])))
        await response.write(sse(chunk(head, finish=self.finish)) + sse(last_chunk(head, Usage(100, len(text) // 4))) + DONE)


@contextmanager
def speaking() -> Iterator[Speaker]:
    """A speaker on a free port, in a thread of its own."""
    speaker, ready = Speaker(), threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(speaker.serve(ready, stop)), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield speaker
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
