"""Where an edge is tested: its process, a client in front of it, and behind it an origin that each test steers.

An edge joins by a line in `EDGES`: how its process is started, and what is not its own to do.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from ragstone import access, store
from ragstone.store import Store
from ragstone.wire import EventReader
from tests.conformance.origin import Origin

ROOT = Path(__file__).parents[2]
LOCAL = "from ragstone import config; from ragstone.edge import run; run(config.load(), lambda url: print(url, flush=True))"


@dataclass(frozen=True)
class Edge:
    """How an edge is started, and what it does not do, by the reason."""

    url: str
    others: Mapping[str, str] = field(default_factory=dict)
    redis: str = ""

    @property
    def command(self) -> list[str]:
        return ["env", f"RAGSTONE_EDGE_URL={self.url}", f"RAGSTONE_EDGE_REDIS={self.redis}", sys.executable, "-c", LOCAL]

    def needs(self, task: str) -> None:
        """Skips the test where the task is another's."""
        if task in self.others:
            pytest.skip(self.others[task])


EDGES = {
    "local": Edge("local"),
    "cloudflare": Edge(
        "cloudflare://edge.test",
        {
            "metrics": "Cloudflare counts a Worker's requests; an isolate's own counts would say nothing of the others",
            "drain": "Cloudflare ends an old version once its requests are answered; no process of ours is told to end",
            "leaving": "workerd does not always tell a Worker that its caller left: what is past the cache may run on",
            "parser": "Cloudflare's network reads HTTP before a Worker does: the answer to what is none is the runtime's",
        },
    ),
}


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cache(self) -> str | None:
        return self.headers.get("x-ragstone-cache")

    @property
    def events(self) -> list[Any]:
        """The chunks of a stream that is whole."""
        reader = EventReader()
        events = [json.loads(data) for data in reader.feed(self.body)]
        assert reader.done, self.body[-300:]
        return events

    @property
    def text(self) -> str:
        """The answer, in whichever form it came."""
        if self.headers["content-type"].startswith("application/json"):
            return str(self.json["choices"][0]["message"]["content"])
        return "".join(choice["delta"].get("content") or "" for event in self.events for choice in event["choices"])


@dataclass(frozen=True)
class Bench:
    """An edge under test with its origin, and the keys' store."""

    url: str
    origin: Origin
    keys: Store
    folder: Path
    token: str
    process: subprocess.Popen[str]

    def request(self, method: str, path: str, body: object = None, token: str | None = None, **headers: str) -> Response:
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=60)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        authorization = {"authorization": f"Bearer {self.token if token is None else token}"} if token != "" else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, data, {**authorization, "content-type": "application/json", **named})
            answer = connection.getresponse()
            return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def chat(self, body: object, token: str | None = None, **headers: str) -> Response:
        return self.request("POST", "/v1/chat/completions", body, token, **headers)

    def key(self, *, tenant: str = "acme", groups: tuple[str, ...] = ("public",), rpm: int = 10**6, tpm: int = 10**9) -> str:
        token, _ = access.create(self.folder / "keys", self.keys, tenant=tenant, groups=groups, rpm=rpm, tpm=tpm, expires=0)
        return token

    @property
    def health(self) -> Any:
        return self.request("GET", "/healthz", token="").json

    def promote(self, release: str) -> None:
        """The origin puts the release in force, and the edge has seen it."""
        self.origin.release = release
        self.origin.number += 1
        until(lambda: bool(self.health["release"] == release))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it did not happen in 30 s"
        time.sleep(0.01)


@contextmanager
def running(command: list[str], folder: Path, **settings: object) -> Iterator[Bench]:
    """An edge of its own, and an origin of its own, with `RAGSTONE_EDGE_*` settings."""
    at = store.connect(str(folder / "store"))
    token, _ = access.create(folder / "keys", at, tenant="acme", groups=["public"], rpm=10**6, tpm=10**9, expires=0)
    origin = Origin(keys=access.published(at)).start()
    given = {"edge_origin": origin.url, "edge_port": 0, "edge_release_check": 0.05, **settings}
    environment = {f"RAGSTONE_{name.upper()}": str(value) for name, value in given.items()}
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environment, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        assert url, "the edge did not start"
        yield Bench(url, origin, at, folder, token, process)
    finally:
        process.terminate()
        process.wait(30)
        origin.close()


def question(**fields: Any) -> dict[str, Any]:
    """A question that nobody asked before; `test` steers the origin."""
    return {"model": "production", "messages": [{"role": "user", "content": f"How do I bleed pump {uuid4()}?"}], **fields}


def asked(bench: Bench, body: dict[str, Any]) -> int:
    return len(bench.origin.asked(body["messages"][-1]["content"]))


async def post(session: aiohttp.ClientSession, bench: Bench, body: object, token: str = "", **headers: str) -> Response:
    named = {"authorization": f"Bearer {token or bench.token}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with session.post(f"{bench.url}/v1/chat/completions", json=body, headers=named) as answer:
        return Response(answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read())


def threaded(bench: Bench, body: object) -> Response:
    """A chat whose origin may be held: it is let go as long as the answer is not there."""

    async def scene() -> Response:
        async with aiohttp.ClientSession() as session:
            waiting = asyncio.create_task(post(session, bench, body))
            while not waiting.done():
                bench.origin.go()
                await asyncio.wait([waiting], timeout=0.02)
            return waiting.result()

    return asyncio.run(scene())


def drained(bench: Bench, listens: Callable[[], object]) -> Response:
    """The answer that was under way when the process was told to end: it is made on only once nothing `listens` any more."""

    async def scene() -> Response:
        async with aiohttp.ClientSession() as session:
            waiting = asyncio.create_task(post(session, bench, question(test={"hold": "stream"}, stream=True)))
            await asyncio.to_thread(until, lambda: bool(bench.origin.seen))
            bench.process.terminate()
            await asyncio.to_thread(until, lambda: not listens())
            bench.origin.go()
            return await waiting

    return asyncio.run(scene())
