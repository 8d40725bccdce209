"""The program of one embedding replica: vectors of texts behind a port of its own, until the process that started it is gone.

Like `replica`, it reads one line of JSON (the fields of `Embedding`) and writes its address. A request is JSON of `kind` and `texts`; the
answer is float32, a row a text. Requests that come meanwhile are encoded together.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ragstone.embedder import Embedder, Vectors

DOCUMENT, QUERY, CHUNK = KINDS = ("document", "query", "chunk")
"""What a text is: a passage, a question, or a chunk as an index has it, which is JSON of its title and its text."""
MOST = 64
"""Texts that are encoded together at most; a text more costs all who wait."""
BODY = 64 << 20
"""Bytes of a request: whoever asks was let in by the origin, which has its own bound."""


@dataclass(frozen=True)
class Embedding:
    """What a replica runs: a model folder. 0 threads are as many as there are cores."""

    folder: str
    name: str
    threads: int
    key: str = field(default="", repr=False)

    program: ClassVar[str] = __file__

    def keyed(self, key: str) -> Embedding:
        """The same, that asks for this key."""
        return replace(self, key=key)

    def line(self) -> bytes:
        """The line that the program reads."""
        return json.dumps(asdict(self)).encode() + b"\n"


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

    from aiohttp import web

    from ragstone.batch import Batches
    from ragstone.embedder import Embedder

    embedder = Embedder(Path(embedding.folder), threads=embedding.threads)
    batches = Batches[str, "Vectors"](lambda kind, texts: encoded(embedder, kind, texts), MOST)
    bearer = f"Bearer {embedding.key}"

    async def answer(request: web.Request) -> web.Response:
        if not hmac.compare_digest(request.headers.get("authorization", ""), bearer):
            return web.Response(status=401)
        asked = await request.json()
        vectors = await batches.ask(asked["kind"], asked["texts"])
        return web.Response(body=vectors.astype("<f4").tobytes())

    app = web.Application(client_max_size=BODY)
    app.router.add_post("/v1/vectors", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"address": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve what the line on standard input says, until the parent is gone."""
    from ragstone import replica

    embedding = Embedding(**json.loads(sys.stdin.buffer.readline()))
    replica.follow_parent()
    asyncio.run(serve(embedding))


if __name__ == "__main__":
    main()
