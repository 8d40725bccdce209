"""A server of OpenAI's chat completions that says a sentence of the evidence, word by word: a generator whose time is known.

python -m benchmarks.teller PORT SECONDS-A-WORD
"""

from __future__ import annotations

import asyncio
import re
import sys

from aiohttp import web

from ragstone.wire import DONE, Head, Usage, chunk, last_chunk, sse

HEAD = Head("c-1", 1, "teller")
QUESTION = re.compile(r"Question: How often is the (\w+) inspected")


def told(prompt: str) -> str:
    """The sentence that answers the question, from the passages of the prompt."""
    asked = QUESTION.search(prompt)
    subject = asked[1] if asked else ""
    found = re.search(rf"The {subject} is inspected[^.]*\.", prompt) if subject else None
    return found[0] if found else "Yes."


async def chat(request: web.Request) -> web.StreamResponse:
    """The answer, streamed."""
    text = told((await request.json())["messages"][-1]["content"])
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for word in text.split(" "):
        await response.write(sse(chunk(HEAD, f" {word}" if word != text.split(" ")[0] else word)))
        await asyncio.sleep(float(sys.argv[2]))
    await response.write(sse(chunk(HEAD, finish="stop")) + sse(last_chunk(HEAD, Usage(9, len(text) // 4))) + DONE)
    return response


async def models(request: web.Request) -> web.Response:
    """Its one model."""
    return web.json_response({"data": [{"id": "teller"}]})


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
