"""What caches of answers do wrong: each case over HTTP against both edges of Ragstone, LiteLLM, Portkey and nginx.

    python -m benchmarks.faults [--peers FOLDER]

FOLDER is that of `benchmarks.gateways`; a peer that is not there is left out. All stand before one small origin that the cases steer
(`tests/conformance`). A case says what was seen; it holds or it does not. Counts and verdicts, no timings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.gateways import PEERS, Target, edge
from benchmarks.record import record
from tests.conformance.bench import EDGES, question

AT_ONCE = 50
NO_CACHE = "no cache"

Seeing = tuple[bool, str]
"""Whether the case holds, and what was seen."""
CASES: dict[str, Callable[[Target], Seeing]] = {}
UNCACHED = frozenset(
    {
        "a field that is there twice is refused",
        "the origin's own headers stay inside",
        "`retry-after` of the origin reaches the caller",
        "a stream that broke does not end as if it were whole",
    }
)
"""Cases that say something of a proxy without a cache too."""


def case(name: str) -> Callable[[Callable[[Target], Seeing]], Callable[[Target], Seeing]]:
    return lambda rule: CASES.setdefault(name, rule)


@case("a second equal question is answered from the cache")
def _hit(at: Target) -> Seeing:
    return expect(at.twice(question()), 1)


@case("JSON and stream share an entry")
def _forms(at: Target) -> Seeing:
    body = question()
    return expect(at.twice(body, {**body, "stream": True}), 1)


@case("the order of fields and `1` for `1.0` share an entry")
def _order(at: Target) -> Seeing:
    body = question(temperature=1)
    return expect(at.twice(body, json.dumps(dict(reversed({**body, "temperature": 1.0}.items()))).encode()), 1)


@case("a field that the cache does not know makes another entry")
def _unknown(at: Target) -> Seeing:
    body = question(ragstone={"similarity_threshold": 0.75})
    return expect(at.twice(body, {**body, "ragstone": {"similarity_threshold": 0.1}}), 2)


@case("seeds 2^53 and 2^53 + 1 are two questions")
def _large(at: Target) -> Seeing:
    body = question(seed=2**53)
    return expect(at.twice(body, {**body, "seed": 2**53 + 1}), 2)


@case("a body of 100 kB is told from another")
def _long(at: Target) -> Seeing:
    asked = question()["messages"]
    one, other = ({"model": "production", "messages": [{"role": "system", "content": letter * 100_000}, *asked]} for letter in "xy")
    return expect(at.twice(one, other), 2)


@case("two callers share no entry")
def _tenants(at: Target) -> Seeing:
    body = question()
    at.chat(body, 0)
    at.chat(body, 1)
    return expect(at.asked(body), 2)


@case(f"{AT_ONCE} equal questions at once make one origin request")
def _flight(at: Target) -> Seeing:
    body = question(test={"hold": "head"})
    asyncio.run(crowd(at, body))
    return expect(at.asked(body), 1)


def broken(fault: Mapping[str, Any]) -> Callable[[Target], Seeing]:
    """Whether a stream that the origin broke is asked for anew."""

    def rule(at: Target) -> Seeing:
        body = question(test=dict(fault), stream=True)
        at.chat(body)
        before, second = at.asked(body), at.chat(body)
        replayed = at.asked(body) == before
        return not replayed, "replayed" + (" as whole" if b"[DONE]" in second.body else "") if replayed else "asked anew"

    return rule


CASES["a stream that ended early is not kept"] = broken({"cut": "early"})
CASES["a stream whose connection broke is not kept"] = broken({"cut": "before finish"})
CASES["a stream without a finish reason is not kept"] = broken({"cut": "no finish"})
CASES["a stream without `[DONE]` is not kept"] = broken({"cut": "no done"})
CASES["a stream that ends in an error event is not kept"] = broken({"error": True})


@case("a stream that broke does not end as if it were whole")
def _whole(at: Target) -> Seeing:
    body = question(test={"cut": "early"}, stream=True)
    answer = at.chat(body)
    if answer.status != 200:
        return False, f"no stream: {answer.status}"
    return b"[DONE]" not in answer.body, "`[DONE]`" if b"[DONE]" in answer.body else "no `[DONE]`"


@case("an error of the origin is not kept")
def _error(at: Target) -> Seeing:
    body = question(test={"status": 400})
    at.chat(body)
    before = at.asked(body)
    at.chat(body)
    return at.asked(body) > before, "asked anew" if at.asked(body) > before else "replayed"


@case("a caller's `no-store` is obeyed")
def _no_store(at: Target) -> Seeing:
    return expect(at.twice(question(), cache_control="no-store"), 2)


@case("the origin's `no-store` is obeyed")
def _forbidden(at: Target) -> Seeing:
    return expect(at.twice(question(test={"headers": {"cache-control": "no-store"}})), 2)


@case("an answer of an earlier release is not served unasked")
def _release(at: Target) -> Seeing:
    body = question()
    at.chat(body)
    at.origin.release, at.origin.number = f"r-{secrets.token_hex(4)}", at.origin.number + 1
    time.sleep(1)
    at.chat(body)
    return expect(at.asked(body), 2)


@case("usage and citations survive the cache, in both forms")
def _whole_answer(at: Target) -> Seeing:
    body = question(stream_options={"include_usage": True})
    at.chat({**body, "stream": True})
    at.chat({**body, "stream": True})
    again = at.chat({**body, "stream": True}).body
    lost = [name for name in ("pump.md", "total_tokens") if name.encode() not in again]
    return not lost, f"lost: {', '.join(lost)}" if lost else "kept"


@case("a field that is there twice is refused")
def _duplicate(at: Target) -> Seeing:
    body = json.dumps(question())
    status = at.chat((body[:-1] + ', "temperature": 0, "temperature": 1}').encode()).status
    return status == 400, str(status)


@case("the origin's own headers stay inside")
def _headers(at: Target) -> Seeing:
    seen = [name for name in at.chat(question()).headers if name.endswith("x-secret")]
    return not seen, seen[0] if seen else "inside"


@case("`retry-after` of the origin reaches the caller")
def _retry(at: Target) -> Seeing:
    told = at.chat(question(test={"status": 429})).headers.get("retry-after")
    return told == "7", told or "nothing"


def expect(seen: int, wanted: int) -> Seeing:
    return seen == wanted, f"{seen} asked"


async def crowd(at: Target, body: dict[str, Any]) -> None:
    """Many callers at once, whose answer is held until no more of them come to the origin."""
    data, url = json.dumps(body).encode(), f"{at.url}/v1/chat/completions"
    headers = {"content-type": "application/json", **at.callers[0]}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        calls = [asyncio.create_task(fetch(session, url, data, headers)) for _ in range(AT_ONCE)]
        seen = -1
        while not at.asked(body) or at.asked(body) > seen:
            seen = at.asked(body)
            await asyncio.sleep(2)
        while any(not call.done() for call in calls):
            at.origin.go()
            await asyncio.wait(calls, timeout=0.2)


async def fetch(session: aiohttp.ClientSession, url: str, data: bytes, headers: Mapping[str, str]) -> None:
    async with session.post(url, data=data, headers=headers) as answer:
        await answer.read()


# ---- the run


def judge(at: Target) -> dict[str, Seeing]:
    """What each case saw."""
    caches, _ = _hit(at)
    found = {}
    for name, rule in CASES.items():
        found[name] = rule(at) if caches or name in UNCACHED else (False, NO_CACHE)
        print(f"{at.name}: {name}: {found[name]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path)
    peers = parser.parse_args().peers
    results: dict[str, dict[str, Seeing]] = {}
    with tempfile.TemporaryDirectory() as name:
        there = [(Path(name) / known, opened) for known, opened in PEERS.items() if peers and (peers / known).exists()]
        for edge_name in EDGES:
            with edge(edge_name, Path(name) / edge_name) as at:
                results[at.name] = judge(at)
        for folder, opened in there:
            with opened(peers.resolve(), folder) as at:
                results[at.name] = judge(at)
    record("faults", {name: {case: verdict(seen) for case, seen in found.items()} for name, found in results.items()})
    table(results)
    ours = [seen for name, found in results.items() if name.startswith("Ragstone") for seen in found.values()]
    sys.exit(0 if all(holds for holds, _ in ours) else "a case does not hold for an edge of ours")


def verdict(seen: Seeing) -> str:
    holds, what = seen
    return "–" if what == NO_CACHE else "yes" if holds else f"no: {re.sub(r'[|]', '', what)}"


def table(results: Mapping[str, Mapping[str, Seeing]]) -> None:
    print("\n| | " + " | ".join(results) + " |\n|---|" + "---|" * len(results))
    for name in CASES:
        print(f"| {name} | " + " | ".join(verdict(found[name]) for found in results.values()) + " |")


if __name__ == "__main__":
    main()
