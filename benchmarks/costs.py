"""What a request costs at the Python edge, nginx, LiteLLM and Portkey: processor time by the same requests, and the goals beside it.

    python -m benchmarks.costs --peers FOLDER [--seconds 3] [--repeats 5]

FOLDER is that of `benchmarks.gateways`; a peer that is not there is left out. All stand before one origin, which answers at once. The
questions that pass are all different; those that hit are one. Processor time is that of the gateway's processes alone, and is what to
compare on a busy machine; the times of answers mean something on an idle one. The least of the repeats counts for each, as what other work
adds is no gateway's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

from benchmarks.callers import CHAT, NUMBER, Load, load, request, spent
from benchmarks.gateways import PEERS, Target, edge
from benchmarks.record import Goal, goal, judge, record

CALLERS = 8
EVENTS = 42
"""Of a stream, `[DONE]` and the usage among them."""
SAY = " ".join(["word"] * (EVENTS - 4))
FEW = 200
"""Calls to be warm, and to learn when the first token comes."""
OURS = "Python edge"
HIT, P50 = "hit, µs", "hit, p50 of 8, ms"
PASS, MISS, STREAM = "passed JSON, µs", "asked JSON, µs", "asked stream, µs"
FIRST = "first token after direct, ms"

Costs = Mapping[str, float]


def ratio(of: str, to: str, what: str) -> Callable[[Mapping[str, Costs]], float]:
    return lambda costs: costs[of][what] / costs[to][what]


LEAST = {
    "a hit, LiteLLM / Python edge, CPU": (ratio("LiteLLM", OURS, HIT), 100),
    "a new question, JSON, LiteLLM / Python edge, CPU": (ratio("LiteLLM", OURS, MISS), 50),
    "a new question, stream, LiteLLM / Python edge, CPU": (ratio("LiteLLM", OURS, STREAM), 50),
    "a new question, JSON, Portkey / Python edge, CPU": (ratio("Portkey", OURS, MISS), 5),
    "a new question, stream, Portkey / Python edge, CPU": (ratio("Portkey", OURS, STREAM), 5),
}
MOST = {
    "a hit, Python edge / nginx, CPU": (ratio(OURS, "nginx", HIT), 2),
    "a hit, p50 with 8 callers, ms": (lambda costs: costs[OURS][P50], 1),
    "JSON passed through, CPU, µs": (lambda costs: costs[OURS][PASS], 150),
    "a streamed event, CPU, µs": (lambda costs: costs[OURS][STREAM] / EVENTS, 15),
    "the first token, after direct, ms": (lambda costs: costs[OURS][FIRST], 1),
}
"""The goals: what is measured of each, and its bound."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    costs: dict[str, Costs] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, start in starts(given.peers):
            with start(Path(name) / kind) as at:
                costs[kind] = {"name": at.name, **measured(at, kind, given.seconds, given.repeats)}  # type: ignore[dict-item]
                print(f"{kind}: {costs[kind]}", flush=True)
    table(costs)
    reached = goals(costs)
    record("costs", {"seconds": given.seconds, "repeats": given.repeats, **costs, "goals": reached})
    judge(reached)


def starts(peers: Path | None) -> Iterator[tuple[str, Callable[[Path], AbstractContextManager[Target]]]]:
    yield OURS, partial(edge, "local", edge_release_check=5)
    for known, kind in (("nginx", "nginx"), ("venv", "LiteLLM"), ("portkey", "Portkey")):
        if peers and (peers / known).exists():
            yield kind, partial(PEERS[known], peers.resolve())


def measured(at: Target, kind: str, seconds: float, repeats: int) -> Costs:
    """The least of the repeats for each figure."""
    asks = Asks(at, kind == OURS, seconds)
    rounds = [asks.round() for _ in range(repeats)]
    return {what: round(min(one[what] for one in rounds), 3) for what in rounds[0]}


class Asks:
    """The requests that a gateway gets; each number is used once."""

    def __init__(self, at: Target, ours: bool, seconds: float) -> None:
        self._at, self._ours, self._seconds = at, ours, seconds
        self._number = 1
        said = {"role": "user", "content": f"How is pump {NUMBER.decode()} bled?"}
        body = {"model": "production", "messages": [said], "test": {"say": SAY}}
        self._json, self._stream = ({**body, "stream": stream} for stream in (False, True))
        for asked in (self._json, self._stream):
            self._load(asked, calls=FEW)

    def round(self) -> Costs:
        found = {MISS: self._cost(self._json)[0], STREAM: self._cost(self._stream)[0], FIRST: self._first()}
        if self._ours:
            found[PASS] = self._cost({"model": "production", "input": f"pump {NUMBER.decode()}"}, path="/v1/embeddings")[0]
        return {**found, **self._hits()}

    def _hits(self) -> Costs:
        """Of a question that was asked before; nothing where the gateway has no cache."""
        asked = {**self._json, "messages": [{"role": "user", "content": f"How is pump {self._number} bled at last?"}]}
        self._load(asked, calls=FEW, callers=1)
        before = len(self._at.origin.seen)
        cost, calls = self._cost(asked)
        if len(self._at.origin.seen) > before:
            return {}
        return {HIT: cost, P50: 1000 * statistics.median(calls.took)}

    def _cost(self, body: Mapping[str, object], path: str = CHAT) -> tuple[float, Load]:
        before = spent(self._at.process)
        calls = self._load(body, seconds=self._seconds, path=path)
        return (spent(self._at.process) - before) / len(calls.took) * 1e6, calls

    def _first(self) -> float:
        """Milliseconds by which the first token comes later than from the origin itself, asked in turn with it."""
        direct, through = [], []
        for _ in range(FEW // 10):
            direct += self._load(self._stream, calls=10, callers=1, url=self._at.origin.url).first
            through += self._load(self._stream, calls=10, callers=1).first
        return 1000 * (statistics.median(through) - statistics.median(direct))

    def _load(
        self, body: Mapping[str, object], *, seconds: float = 0, calls: int = 0, callers: int = CALLERS, path: str = CHAT, url: str = ""
    ) -> Load:
        data = request(url or self._at.url, body, self._at.callers[0], path)
        found = load(url or self._at.url, data, seconds=seconds, calls=calls, callers=callers, first=self._number)
        self._number += len(found.took)
        return found


def table(costs: Mapping[str, Costs]) -> None:
    print("\n| | " + " | ".join(costs) + " |\n|---|" + "---|" * len(costs))
    for what in (HIT, P50, PASS, MISS, STREAM, FIRST):
        print(f"| {what} | {' | '.join(str(one.get(what, '–')) for one in costs.values())} |")


def goals(costs: Mapping[str, Costs]) -> dict[str, Goal]:
    """Of what was measured."""
    found: dict[str, Goal] = {}
    for name, (seen, bound) in {**LEAST, **MOST}.items():
        with suppress(KeyError):  # that peer is not here
            found[name] = goal(round(seen(costs), 2), **{"least" if name in LEAST else "most": bound})
    return found


if __name__ == "__main__":
    main()
