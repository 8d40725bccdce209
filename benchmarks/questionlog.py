"""A skewed log of questions, with releases and deletions in it, through both edges and through LiteLLM's cache.

    python -m benchmarks.questionlog [--requests 3000] [--peers FOLDER]

Few questions are asked often (Zipf). Between them documents change, new releases leave all as it was, and documents are deleted. The origin
is a small one that retrieves and generates by sleeping; each answer names the edition of its document, so that one which is no longer true
is seen. An edge hears of a release within `edge.release_check`, and the log goes on once it has. FOLDER is that of `benchmarks.gateways`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from aiohttp import web

from benchmarks.gateways import Target, Upstream, edge, litellm
from benchmarks.record import record
from tests.conformance.bench import EDGES, Response, until
from tests.conformance.origin import Seen

DOCUMENTS = 60
EACH = 5
"""Questions about each document."""
EVENTS = 8
"""Releases in the log, at equal distances."""
RETRIEVAL, GENERATION = 0.01, 0.1
"""Seconds that the origin sleeps."""


@dataclass
class Library(Upstream):
    """An origin whose answers name the edition of the document that they rest on; a document that is gone is not known."""

    editions: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(DOCUMENTS), 1))

    def truth(self, question: str) -> str:
        """What is true now."""
        document = int(re.findall(r"\d+", question)[0])
        edition = self.editions.get(document)
        return f"Document {document} is gone." if edition is None else f"Edition {edition} of document {document} says so [1]."

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(Seen(request.path, dict(request.headers), body))
        said = self.truth(body["messages"][-1]["content"])
        headers = {"etag": f'"{hashlib.sha256(said.encode()).hexdigest()[:16]}"', "x-ragstone-release": self.release}
        await asyncio.sleep(RETRIEVAL)
        if request.headers.get("if-none-match") == headers["etag"]:
            return web.Response(status=304, headers=headers)
        await asyncio.sleep(GENERATION)
        if not body.get("stream"):
            return self._whole({"say": said})
        response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream"})
        await response.prepare(request)
        await self._stream(request, response, self.release, {"say": said})
        return response


@dataclass
class Replay:
    """What came of a log: the seconds of each answer by its state, and how many were no longer true."""

    took: dict[str, list[float]] = field(default_factory=dict)
    stale: Counter[str] = field(default_factory=Counter)
    """By the event that made them so."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--peers", type=Path)
    given = parser.parse_args()
    results: dict[str, Replay] = {}
    with tempfile.TemporaryDirectory() as name:
        starts: list[Callable[[Path, Library], AbstractContextManager[Target]]] = [partial(edge, one) for one in EDGES]
        if given.peers and (given.peers / "venv").exists():
            starts.append(partial(litellm, given.peers.resolve()))
        for number, start in enumerate(starts):
            library = Library()
            library.start()
            with start(Path(name) / str(number), library) as at:
                results[at.name] = replay(at, library, given.requests)
                print(f"{at.name}: {figures(results[at.name])}", flush=True)
            library.close()
    record("questionlog", {"requests": given.requests, **{name: figures(one) for name, one in results.items()}})
    table(results)
    ours = sum(one.stale.total() for name, one in results.items() if name.startswith("Ragstone"))
    sys.exit(f"the goal is missed: {ours} stale answers" if ours else 0)


def log(requests: int) -> list[str]:
    """The questions in order, the same in every run."""
    draw = random.Random(17)
    known = [f"What does document {number % DOCUMENTS} say of part {number // DOCUMENTS}?" for number in range(DOCUMENTS * EACH)]
    draw.shuffle(known)
    return draw.choices(known, [1 / rank for rank in range(1, len(known) + 1)], k=requests)


def replay(at: Target, library: Library, requests: int) -> Replay:
    draw, found, changed = random.Random(18), Replay(), dict[int, str]()
    for number, question in enumerate(log(requests)):
        if number and number % (requests // EVENTS) == 0:
            event(number // (requests // EVENTS), library, draw, changed)
            until(lambda: at.release in (None, library.release))
        before, began = len(library.seen), time.perf_counter()
        answer = at.chat({"model": "production", "messages": [{"role": "user", "content": question}]})
        took = time.perf_counter() - began
        assert answer.status == 200, answer.body
        found.took.setdefault(answer.cache or ("miss" if len(library.seen) > before else "hit"), []).append(took)
        if not true(answer, library.truth(question)):
            found.stale[changed[int(re.findall(r"\d+", question)[0])]] += 1
    return found


def event(number: int, library: Library, draw: random.Random, changed: dict[int, str]) -> None:
    """Every third time documents change, nothing changes, or documents are deleted; each is a release."""
    some = draw.sample(sorted(library.editions), 6)
    if number % 3 == 0:
        for document in some[:3]:
            del library.editions[document]
            changed[document] = "deleted"
    if number % 3 == 1:
        library.editions |= {document: library.editions[document] + 1 for document in some}
        changed |= dict.fromkeys(some, "changed")
    library.release, library.number = f"r-{number}", library.number + 1


def true(answer: Response, truth: str) -> bool:
    return answer.text == truth


def figures(one: Replay) -> Mapping[str, object]:
    total = sum(map(len, one.took.values()))
    shares = {f"{state}, %": round(100 * len(took) / total, 1) for state, took in sorted(one.took.items())}
    times = {f"{state}: p50 and p95, ms": [round(at * 1000, 1) for at in quantiles(took)] for state, took in sorted(one.took.items())}
    return {**shares, "stale": one.stale.total(), "stale by": dict(one.stale), **times}


def quantiles(took: list[float]) -> tuple[float, float]:
    return statistics.median(took), sorted(took)[int(len(took) * 0.95)]


def table(results: Mapping[str, Replay]) -> None:
    print("\n| | hit | revalidated | miss | stale answers | of deleted documents |\n|---|---|---|---|---|---|")
    for name, one in results.items():
        total = sum(map(len, one.took.values()))
        shares = " | ".join(f"{100 * len(one.took.get(state, [])) / total:.1f} %" for state in ("hit", "revalidated", "miss"))
        print(f"| {name} | {shares} | {one.stale.total()} | {one.stale['deleted']} |")


if __name__ == "__main__":
    main()
