"""Replicas under load, beside Ray Serve: how soon there are more and fewer, how soon one wakes, what choosing one costs.

    python -m benchmarks.scaling [--runs N] [--ray]

Six clients ask SmolLM2 one question after the other; a replica has one thread and one slot, the CPU target is 70 %, and there may be three.
Seconds count from the first request, or from the end of the last; a model's load, which is part of them, is given beside. Every answer is
checked to be whole. `--ray` (it needs `ragstone[ray]`) has the same llama.cpp under the same rule on Ray Serve too, in turns; Ray is up,
with its one replica, before the first request.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress

from benchmarks.record import goal, record
from ragstone import serve
from ragstone.config import Serve, Settings
from ragstone.errors import GeneratorError
from ragstone.serve import Generator, Message, Sampling
from ragstone.serve.local import LocalGenerator

ASKED = [Message("user", "Tell a long story about a pump.")]
CLIENTS, MOST, CHOICES = 6, 3, 2000
OUT, AWAKE = 6.0, 1.0
"""Seconds: until three replicas are ready, a model's load not counted; until a sleeping one says its first token."""
LIMIT = 120.0
"""Seconds after which it ends without figures: replicas that are kept from the cores never reach the target."""
BOUNDS: Mapping[str, object] = {"threads": 1, "slots": 1, "context": 1024, "replicas_most": MOST, "target_cpu": 70.0, "scale_down": 5.0}
APP = "scaling"

Scaled = dict[str, float]
"""Seconds until two and three replicas were ready and until one was left; how many requests there were, and how many failed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ray", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.runs, arguments.ray))


async def measure(runs: int, ray: bool) -> None:
    loads = [await load() for _ in range(runs)]
    ways = {"local": local, **({"ray": on_ray} if ray else {})}
    scaled: dict[str, list[Scaled]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            scaled[name].append(await way())
    woken = [await wake() for _ in range(runs)]
    figures = out(scaled["local"])
    three, asleep = figures["3 replicas ready after, s"]["median"], told([asleep for asleep, _ in woken])
    record(
        "scaling",
        {
            "runs": runs,
            "load of a model, s": told(loads),
            **figures,
            **counts(scaled["local"]),
            "first token of a sleeping replica, s": asleep,
            "first token of a waking one, s": told([awake for _, awake in woken]),
            "choosing a replica, us": told([await choose() for _ in range(runs)], 1),
            **(beside(figures, scaled["ray"]) if ray else {}),
            "goals": {
                "3 replicas ready, but for a model's load, s": goal(round(three - told(loads)["median"], 2), most=OUT),
                "first token of a sleeping replica, s": goal(asleep["median"], most=AWAKE),
                "failed": goal(counts(scaled["local"])["failed"], most=0),
            },
        },
    )


def out(runs: list[Scaled]) -> dict[str, dict[str, float]]:
    return {
        "2 replicas ready after, s": told([one["two"] for one in runs]),
        "3 replicas ready after, s": told([one["three"] for one in runs]),
        "1 replica again after, s (window of 5 s)": told([one["back"] for one in runs]),
    }


def counts(runs: list[Scaled]) -> dict[str, int]:
    return {name: sum(int(one[name]) for one in runs) for name in ("requests", "failed")}


def beside(ours: Mapping[str, Mapping[str, float]], runs: list[Scaled]) -> dict[str, object]:
    """Ray's figures, and how many times as long it takes as this machine's own."""
    theirs = out(runs)
    return {
        "ray": {**theirs, **counts(runs)},
        "ray, times local": {name: round(theirs[name]["median"] / ours[name]["median"], 2) for name in theirs},
    }


def generator(**values: object) -> LocalGenerator:
    serve = {"url": "local://smollm2", "threads": 1, "slots": 1, "context": 1024, **values}
    return LocalGenerator(Settings(serve=Serve(**serve)))  # type: ignore[arg-type]


async def load() -> float:
    one, began = generator(), time.perf_counter()
    await one.start()
    took = time.perf_counter() - began
    await one.close()
    return took


async def local() -> Scaled:
    one = generator(**BOUNDS)
    await one.start()
    replicas = one._replicas
    assert replicas is not None
    found = await scale(one, lambda: len(replicas.ready))
    await one.close()
    return found


async def on_ray() -> Scaled:
    """An application of Ray Serve, in a Ray that this process keeps until it ends."""
    one = serve.connect(Settings(serve=Serve(url=f"ray?app={APP}", **BOUNDS)))  # type: ignore[arg-type]
    await one.start()
    found = await scale(one, running)
    await one.close()
    return found


def running() -> int:
    """How many replicas Ray Serve says that run."""
    from ray import serve as rayserve

    from ragstone.serve import ray

    return int(rayserve.status().applications[APP].deployments[ray.PART].replica_states.get("RUNNING", 0))


async def scale(one: Generator, ready: Callable[[], int]) -> Scaled:
    asked = {"requests": 0.0, "failed": 0.0}
    began = time.perf_counter()
    clients = [asyncio.create_task(client(one, asked)) for _ in range(CLIENTS)]
    found = {"two": await until(ready, 2, began), "three": await until(ready, MOST, began)}
    for task in clients:
        task.cancel()
    await asyncio.wait(clients)
    return found | asked | {"back": await until(ready, 1, time.perf_counter())}


async def client(one: Generator, asked: Scaled) -> None:
    with suppress(asyncio.CancelledError):
        while True:
            try:
                async with aclosing(one.stream(ASKED, Sampling(max_tokens=64))) as pieces:
                    last = [piece async for piece in pieces][-1]
                asked["failed"] += last.finish is None
            except GeneratorError:
                asked["failed"] += 1
            asked["requests"] += 1


async def until(ready: Callable[[], int], count: int, began: float) -> float:
    while (found := await asyncio.to_thread(ready)) != count:
        if time.perf_counter() - began > LIMIT:
            raise SystemExit(f"after {LIMIT:g} s there are {found} replicas, not {count}: does other work take the cores?")
        await asyncio.sleep(0.02)
    return time.perf_counter() - began


async def wake() -> tuple[float, float]:
    """Seconds to the first token of a replica that slept, and of the same one awake."""
    one = generator(sleep=1.0)
    await one.start()
    await first_token(one)
    await asyncio.sleep(4)
    found = await first_token(one), await first_token(one)
    await one.close()
    return found


async def first_token(one: LocalGenerator) -> float:
    began = time.perf_counter()
    async with aclosing(one.stream(ASKED, Sampling(max_tokens=2))) as pieces:
        await anext(pieces)
        return time.perf_counter() - began


async def choose() -> float:
    """Microseconds to take a replica and give it back, of three, eight at a time."""
    one = generator(replicas=3)
    await one.start()
    assert one._replicas is not None
    replicas = one._replicas

    async def take() -> None:
        for _ in range(CHOICES):
            async with replicas.lend(1.0):
                await asyncio.sleep(0)

    began = time.perf_counter()
    await asyncio.gather(*(take() for _ in range(8)))
    took = (time.perf_counter() - began) / (8 * CHOICES)
    await one.close()
    return took * 1e6


def told(values: list[float], digits: int = 2) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
    }


if __name__ == "__main__":
    main()
