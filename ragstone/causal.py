"""The program of a replica that runs a Hugging Face folder on the CPU, by transformers, behind the port and the paths of OpenAI's API.

Like `replica`, it reads one line of JSON (the fields of `Causal`) and writes its address when the model is loaded, and it ends when the
process that started it does. Slower than llama.cpp, which runs a GGUF file, but it needs no conversion.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from aiohttp import web

from ragstone import fields, replica, wire
from ragstone.errors import ConfigError, RequestError
from ragstone.fields import Fields
from ragstone.replica import Told
from ragstone.wire import Head, Message, Sampling

if TYPE_CHECKING:
    from ragstone.decode import Answer, Model

REVISION = 1
"""Part of a generator's version: raised when something else changes what is generated."""
BODY = 4 << 20
"""Bytes of a request."""


@dataclass(frozen=True)
class Folder(Told):
    """What a replica runs: a folder. `context` is in tokens and shared by the slots; 0 threads are as many as there are cores."""

    weights: str
    name: str
    context: int
    slots: int
    threads: int
    digest: str
    """Of the folder as it was asked for; another content is refused."""

    def at(self, weights: Path) -> Self:
        """The same of a folder elsewhere, whatever it holds."""
        return replace(self, weights=str(weights), digest=digest(weights))


class Causal(Folder):
    """A folder that transformers runs."""

    program: ClassVar[str] = __file__

    @property
    def version(self) -> str:
        """SHA-256 of all that changes what is generated."""
        from importlib import metadata

        engine = f"transformers {metadata.version('transformers')}, torch {metadata.version('torch')}, {REVISION}"
        return hashlib.sha256(f"{self.digest} {engine} {self.context} {self.slots}".encode()).hexdigest()


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, for which transformers looks there.

    Raises `ConfigError` where transformers is not installed.
    """
    from importlib.util import find_spec

    if find_spec("transformers") is None or find_spec("torch") is None:
        raise ConfigError(
            f"{folder} is run by transformers, which is not installed", "pip install 'ragstone[transformers]', or a GGUF file"
        )
    found = {}
    for path in sorted(one for one in folder.iterdir() if one.suffix in (".json", ".safetensors", ".jinja")):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


@dataclass(frozen=True)
class Asked:
    """A `POST /v1/chat/completions`, as far as a model alone has a use for it."""

    messages: tuple[Message, ...]
    sampling: Sampling
    stream: bool
    include_usage: bool


def read(body: bytes) -> Asked:
    """The request in a body. Raises `RequestError`."""
    asked = fields.read(body)
    usual = Sampling()
    stops = asked.values.get("stop") or []
    sampling = Sampling(
        max_tokens=asked.whole("max_tokens", 1, 1 << 20) or usual.max_tokens,
        temperature=_given(asked.number("temperature", 0, 2), 1.0),
        top_p=_given(asked.number("top_p", 0, 1), 1.0),
        seed=asked.whole("seed", -(1 << 63), (1 << 63) - 1),
        stop=(stops,) if isinstance(stops, str) else tuple(map(str, stops)),
    )
    return Asked(_messages(asked), sampling, asked.flag("stream"), asked.object("stream_options").flag("include_usage"))


def _given(value: float | None, usual: float) -> float:
    return usual if value is None else value


def _messages(asked: Fields) -> tuple[Message, ...]:
    told = asked.values.get("messages")
    if not isinstance(told, list) or not told or not all(isinstance(one, dict) for one in told):
        raise asked.wrong("messages", "a list of messages")
    roles: dict[str, Any] = {"system": "system", "user": "user", "assistant": "assistant"}
    found = []
    for one in told:
        if one.get("role") not in roles or not isinstance(one.get("content"), str):
            raise RequestError("a message must have the role system, user or assistant, and text as its content", "messages")
        found.append(Message(roles[one["role"]], one["content"]))
    return tuple(found)


class Served:
    """A model behind OpenAI's paths; as many answers are made at a time as there are slots, the others wait."""

    def __init__(self, model: Model, causal: Causal) -> None:
        self._model, self._name = model, causal.name
        self._bearer = f"Bearer {causal.key}"
        self._turns = asyncio.Semaphore(causal.slots)

    @web.middleware
    async def guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Who does not show the key learns nothing; what can't be served is OpenAI's error."""
        if not hmac.compare_digest(request.headers.get("authorization", ""), self._bearer):
            return web.Response(status=401)
        try:
            found: web.StreamResponse = await handler(request)
            return found
        except RequestError as error:
            return web.Response(body=wire.error_body(error), status=error.status, content_type="application/json")

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self._name, "object": "model", "created": 0, "owned_by": "ragstone"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """An answer, whole or as a stream; who goes away stops it."""
        asked = read(await request.read())
        prompt = await asyncio.to_thread(self._model.prompt, asked.messages)
        head = Head(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), self._name)
        async with self._turns:
            answer = await asyncio.to_thread(self._model.answer, prompt, asked.sampling)
            return await (self._stream(request, head, answer, asked) if asked.stream else self._whole(head, answer))

    async def _whole(self, head: Head, answer: Answer) -> web.Response:
        text, last = "", None
        async for part, finish in _steps(answer):
            text, last = text + part, finish
        return web.Response(body=wire.completion(head, text, last or "stop", answer.usage), content_type="application/json")

    async def _stream(self, request: web.Request, head: Head, answer: Answer, asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await response.prepare(request)
        await response.write(wire.sse(wire.chunk(head, "", role="assistant")))
        async for part, finish in _steps(answer):
            if part:
                await response.write(wire.sse(wire.chunk(head, part)))
            if finish:
                await response.write(wire.sse(wire.chunk(head, finish=finish)))
        if asked.include_usage:
            await response.write(wire.sse(wire.last_chunk(head, answer.usage)))
        await response.write(wire.DONE)
        return response


async def _steps(answer: Answer) -> AsyncIterator[tuple[str, str | None]]:
    """What each token gives, made in a thread; who leaves off stops it after one more."""
    finish = None
    while finish is None:
        text, finish = await asyncio.to_thread(answer.step)
        yield text, finish


async def serve(causal: Causal) -> None:
    """Load the folder, listen on a loopback port that the OS chose, and say which. Raises `WeightsError`, `ConfigError`."""
    import torch

    from ragstone.decode import Model

    if causal.digest != digest(Path(causal.weights)):
        raise ConfigError(f"{causal.weights} has other files than when its version was read", "deploy another --version")
    torch.set_num_threads(causal.threads or os.cpu_count() or 1)
    served = Served(Model(Path(causal.weights), causal.context // causal.slots), causal)
    app = web.Application(client_max_size=BODY, middlewares=[served.guard])
    app.router.add_get("/v1/health", served.health)
    app.router.add_get("/v1/models", served.models)
    app.router.add_post("/v1/chat/completions", served.chat)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"address": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve what the line on standard input says, until the parent is gone."""
    causal = Causal(**json.loads(sys.stdin.buffer.readline()))
    replica.follow_parent()
    try:
        asyncio.run(serve(causal))
    except Exception as error:  # transformers raises what it likes; its last words are what is told
        sys.exit(f"{causal.weights} can't be served: {error}")


if __name__ == "__main__":
    main()
