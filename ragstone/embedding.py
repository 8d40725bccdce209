"""The program of one embedding replica: vectors of texts behind a port of its own, until the process that started it is gone.

Like `replica`, it reads one line of JSON (the fields of `Embedding`) and writes its address. A request to `/v1/vectors` is JSON of `kind`
and `texts`, and the answer float32, a row a text; `/v1/embeddings` is OpenAI's. Requests that come meanwhile are encoded together.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import orjson
from aiohttp import web

from ragstone import fields, replica, vectors, wire
from ragstone.batch import Batches
from ragstone.errors import RequestError
from ragstone.replica import Told
from ragstone.vectors import DOCUMENT, QUERY

if TYPE_CHECKING:
    from ragstone.embedder import Embedder, Vectors

MOST = 64
"""Texts that are encoded together at most; a text more costs all who wait."""
BODY = 64 << 20
"""Bytes of a request: whoever asks was let in by the origin, which has its own bound."""


@dataclass(frozen=True)
class Embedding(Told):
    """What a replica runs: a model folder. 0 threads are as many as there are cores."""

    folder: str
    name: str
    threads: int

    program: ClassVar[str] = __file__


def encoded(embedder: Embedder, kind: str, texts: Sequence[str]) -> Vectors:
    """One unit vector a text, each as an index or a question has it. Raises `ValueError` for a chunk that is none."""
    from ragstone.corpus import views

    if kind == QUERY:
        return embedder.queries(texts)
    if kind == DOCUMENT:
        return embedder.documents(texts)
    return embedder.passages([views.of_passage(text) for text in texts])


async def serve(embedding: Embedding) -> None:
    """Listen on a loopback port that the OS chose, and say which."""
    from pathlib import Path

    from ragstone.embedder import Embedder

    served = Served(Embedder(Path(embedding.folder), threads=embedding.threads), f"Bearer {embedding.key}")
    app = web.Application(client_max_size=BODY)
    app.router.add_post("/v1/vectors", served.rows)
    app.router.add_post("/v1/embeddings", served.openai)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"address": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.Event().wait()


class Served:
    """A model behind two paths; who does not show the key learns nothing."""

    def __init__(self, embedder: Embedder, bearer: str) -> None:
        self._embedder, self._bearer = embedder, bearer
        self._batches = Batches[str, "Vectors"](lambda kind, texts: encoded(embedder, kind, texts), MOST)

    async def rows(self, request: web.Request) -> web.Response:
        """Float32, a row a text."""
        if not self._admits(request):
            return web.Response(status=401)
        asked = await request.json()
        found = await self._batches.ask(asked["kind"], asked["texts"])
        return web.Response(body=found.astype("<f4").tobytes())

    async def openai(self, request: web.Request) -> web.Response:
        """OpenAI's answer, or its error."""
        if not self._admits(request):
            return web.Response(status=401)
        try:
            return await self._answer(await request.read())
        except RequestError as error:
            return web.Response(body=wire.error_body(error), status=error.status, content_type="application/json")

    async def _answer(self, body: bytes) -> web.Response:
        asked = vectors.read(fields.read(body))
        asked.check_chunks()
        asked.check_dimensions(self._embedder.dimensions)
        found = await self._batches.ask(asked.kind, asked.texts)
        tokens = await asyncio.to_thread(lambda: sum(map(self._embedder.tokens, asked.texts)))
        return web.Response(body=orjson.dumps(vectors.answer(asked, found, tokens)), content_type="application/json")

    def _admits(self, request: web.Request) -> bool:
        return hmac.compare_digest(request.headers.get("authorization", ""), self._bearer)


def main() -> None:
    """Serve what the line on standard input says, until the parent is gone."""
    embedding = Embedding(**json.loads(sys.stdin.buffer.readline()))
    replica.follow_parent()
    asyncio.run(serve(embedding))


if __name__ == "__main__":
    main()
