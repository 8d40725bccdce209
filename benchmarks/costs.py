"""What a request costs at the Python edge, nginx, LiteLLM and Portkey: processor time by the same requests, and the goals beside it.

    python -m benchmarks.costs --peers FOLDER [--seconds 3] [--repeats 5]

FOLDER is that of `benchmarks.gateways`; a peer that is not there is left out. All stand before one origin, which answers at once. The
questions that pass are all different; those that hit are one. Processor time is that of the gateway's processes alone, and is what to
compare on a busy machine; the times of answers mean something on an idle one. The least of the repeats counts for each, as what other work
adds is no gateway's. What a peer can't answer is left out of its figures, and the reason kept beside them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
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
FAULT = 300
"""Characters of a reason that are kept."""
FAILED = 1_000_000
"""Numbers that a figure which failed may have used."""
FEW = 200
"""Calls to be warm, and to learn when the first token comes."""
OURS = "Python edge"
HIT, P50 = "hit, µs", "hit, p50 of 8, ms"
PASS, MISS, STREAM = "passed JSON, µs", "asked JSON, µs", "asked stream, µs"
FIRST = "first token after direct, ms"

Costs = dict[str, float]


def ratio(of: str, to: str, what: str) -> Callable[[Mapping[str, Costs]], float]:
    return lambda costs: costs[of][what] / costs[to][what]


LEAST = {
    "JSON passed through, LiteLLM / Python edge, CPU": (ratio("LiteLLM", OURS, PASS), 50),
    "JSON passed through, Portkey / Python edge, CPU": (ratio("Portkey", OURS, PASS), 5),
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
    told: dict[str, Mapping[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, start in starts(given.peers):
            costs[kind], told[kind] = row(kind, start, Path(name) / kind, given.seconds, given.repeats)
            print(f"{kind}: {told[kind]}", flush=True)
    table(costs)
    reached = goals(costs)
    record("costs", {"seconds": given.seconds, "repeats": given.repeats, **told, "goals": reached})
    judge(reached)


def row(
    kind: str, start: Callable[[Path], AbstractContextManager[Target]], folder: Path, seconds: float, repeats: int
) -> tuple[Costs, Mapping[str, object]]:
    """A gateway's figures, and what is kept of it. A peer that does not even start costs the others nothing."""
    try:
        with start(folder) as at:
            asks = Asks(at, kind == OURS, seconds)
            costs = measured(asks, repeats)
            return costs, {"name": at.name, **costs, **({"failed": asks.failed} if asks.failed else {})}
    except (SystemExit, OSError, subprocess.SubprocessError) as error:
        if kind == OURS:
            raise
        return {}, {"failed": str(error)[:FAULT]}


def starts(peers: Path | None) -> Iterator[tuple[str, Callable[[Path], AbstractContextManager[Target]]]]:
    yield OURS, partial(edge, "local", edge_release_check=5)
    for known, kind in (("nginx", "nginx"), ("venv", "LiteLLM"), ("portkey", "Portkey")):
        if peers and (peers / known).exists():
            yield kind, partial(PEERS[known], peers.resolve())


def measured(asks: Asks, repeats: int) -> Costs:
    """The least of the repeats for each figure."""
    rounds = [asks.round() for _ in range(repeats)]
    return {what: round(min(one[what] for one in rounds if what in one), 3) for what in rounds[0]}


class Asks:
    """The requests that a gateway gets; each number is used once."""

    def __init__(self, at: Target, ours: bool, seconds: float) -> None:
        self._at, self._ours, self._seconds = at, ours, seconds
        self._number = 1
        self.failed: dict[str, str] = {}
        """Figures that a peer has not, and why; one of ours that fails ends the run."""
        said = {"role": "user", "content": f"How is pump {NUMBER.decode()} bled?"}
        body = {"model": "production", "messages": [said], "test": {"say": SAY}}
        self._json, self._stream = ({**body, "stream": stream} for stream in (False, True))

    def round(self) -> Costs:
        found = self._figure(MISS, self._asked, self._json) | self._figure(STREAM, self._asked, self._stream)
        found |= self._figure(FIRST, self._first) | self._figure(HIT, self._hits)
        return found | self._figure(PASS, self._asked, {"model": "production", "input": f"pump {NUMBER.decode()}"}, "/v1/embeddings")

    def _figure(self, what: str, measure: Callable[..., float | Costs], *of: object) -> Costs:
        """Nothing where the gateway failed to answer, now or before."""
        if what in self.failed:
            return {}
        try:
            found = measure(*of)
        except (RuntimeError, OSError) as error:
            if self._ours:
                raise
            self.failed[what] = str(error)[:FAULT]
            self._number += FAILED
            return {}
        return {what: found} if isinstance(found, float) else found

    def _asked(self, body: Mapping[str, object], path: str = CHAT) -> float:
        self._load(body, calls=FEW, path=path)
        return self._cost(body, path)[0]

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
