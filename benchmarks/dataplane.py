"""What stands between a caller and a local replica: choosing the replica and counting its requests, beside asking it directly.

    python -m benchmarks.dataplane [--requests 4000] [--runs 5]

Eight callers at a time ask replicas that answer at once, so that nothing else shows; the two ways take turns, another first in each run.
The product's own client is the same in both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import orjson

from benchmarks.record import goal, record
from ragstone.completions import Completions, Endpoint, Patience
from ragstone.replicas import Replicas
from ragstone.scale import Bounds

CALLERS, REPLICAS = 8, 2
P50, P99 = 0.3, 2.0
"""Milliseconds that it may cost at most."""


@dataclass(frozen=True)
class Echo:
    """A replica without a model."""

    name: str = "echo"
    key: str = ""

    program: ClassVar[str] = str(Path(__file__).with_name("echo.py"))

    def keyed(self, key: str) -> Echo:
        return replace(self, key=key)

    def line(self) -> bytes:
        return orjson.dumps({"key": self.key}) + b"\n"


Way = Callable[[], AbstractAsyncContextManager[Endpoint]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    record("dataplane", asyncio.run(measure(arguments.requests, arguments.runs)))


async def measure(requests: int, runs: int) -> dict[str, object]:
    replicas = Replicas(Echo(), Bounds(REPLICAS, REPLICAS), 1)
    await replicas.start()
    client = Completions(Patience())
    turn = [0]

    @contextlib.asynccontextmanager
    async def directly() -> AsyncIterator[Endpoint]:
        turn[0] += 1
        yield replicas.ready[turn[0] % REPLICAS].endpoint

    ways: dict[str, Way] = {"direct": directly, "chosen": lambda: replicas.lend(5.0)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    try:
        for run in range(runs):
            for name in list(ways)[:: 1 if run % 2 else -1]:
                found[name].append(await timed(client, ways[name], requests))
    finally:
        await client.close()
        await replicas.close()
    over = [[chosen[at] - direct[at] for direct, chosen in zip(found["direct"], found["chosen"], strict=True)] for at in (0, 1)]
    told = {name: {"p50": median(values, 0), "p99": median(values, 1)} for name, values in found.items()}
    more = {"p50": mid(over[0]), "p99": mid(over[1])}
    times = {name: round(told["chosen"][name] / told["direct"][name], 2) for name in ("p50", "p99")}
    goals = {"over direct, p50, ms": goal(more["p50"], most=P50), "over direct, p99, ms": goal(more["p99"], most=P99)}
    asked = {"runs": runs, "requests a run": requests, "callers": CALLERS}
    return {**asked, "ms": told, "over direct, median ms": more, "times direct": times, "goals": goals}


async def timed(client: Completions, way: Way, requests: int) -> tuple[float, float]:
    """Milliseconds of a request: half of them take less than the first, all but one of a hundred less than the second."""
    times: list[float] = []

    async def caller() -> None:
        for _ in range(requests // CALLERS):
            began = time.perf_counter()
            async with way() as endpoint:
                await client.post(endpoint, "/echo", b"{}")
            times.append(1000 * (time.perf_counter() - began))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    p50, p99 = np.percentile(times, [50, 99])
    return float(p50), float(p99)


def median(values: list[tuple[float, float]], at: int) -> float:
    return mid([value[at] for value in values])


def mid(values: list[float]) -> float:
    return round(statistics.median(values), 3)


if __name__ == "__main__":
    main()
