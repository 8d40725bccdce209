"""Local replicas under load: how soon there are more and fewer of them, how soon one wakes, what choosing one costs.

    python -m benchmarks.scaling [--runs N]

Six clients ask SmolLM2 one question after the other; a replica has one thread and one slot, the CPU target is 70 %, and there may be three.
Seconds count from the first request, or from the end of the last; a model's load, which is part of them, is given beside. Every answer is
checked to be whole.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from contextlib import aclosing, suppress

from benchmarks.record import record
from ragstone.config import Serve, Settings
from ragstone.errors import GeneratorError
from ragstone.serve import Message, Sampling
from ragstone.serve.local import LocalGenerator

ASKED = [Message("user", "Tell a long story about a pump.")]
CLIENTS, MOST, CHOICES = 6, 3, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    asyncio.run(measure(parser.parse_args().runs))


async def measure(runs: int) -> None:
    loads = [await load() for _ in range(runs)]
    scaled = [await scale() for _ in range(runs)]
    woken = [await wake() for _ in range(runs)]
    record(
        "scaling",
        {
            "runs": runs,
            "load of a model, s": told(loads),
            "2 replicas ready after, s": told([one["two"] for one in scaled]),
            "3 replicas ready after, s": told([one["three"] for one in scaled]),
            "1 replica again after, s (window of 5 s)": told([one["back"] for one in scaled]),
            "requests": sum(int(one["requests"]) for one in scaled),
            "failed": sum(int(one["failed"]) for one in scaled),
            "first token of a sleeping replica, s": told([asleep for asleep, _ in woken]),
            "first token of a waking one, s": told([awake for _, awake in woken]),
            "choosing a replica, us": told([await choose() for _ in range(runs)], 1),
        },
    )


def generator(**values: object) -> LocalGenerator:
    serve = {"url": "local://smollm2", "threads": 1, "slots": 1, "context": 1024, **values}
    return LocalGenerator(Settings(serve=Serve(**serve)))  # type: ignore[arg-type]


async def load() -> float:
    one, began = generator(), time.perf_counter()
    await one.start()
    took = time.perf_counter() - began
    await one.close()
    return took


async def scale() -> dict[str, float]:
    """Seconds until two and three replicas were ready, and until one was left."""
    one = generator(replicas_most=MOST, target_cpu=70.0, scale_down=5.0)
    await one.start()
    counts = {"requests": 0.0, "failed": 0.0}
    began = time.perf_counter()
    clients = [asyncio.create_task(client(one, counts)) for _ in range(CLIENTS)]
    found = {"two": await until(one, 2, began), "three": await until(one, 3, began)}
    for task in clients:
        task.cancel()
    await asyncio.wait(clients)
    found["back"] = await until(one, 1, time.perf_counter())
    await one.close()
    return found | counts


async def client(one: LocalGenerator, counts: dict[str, float]) -> None:
    with suppress(asyncio.CancelledError):
        while True:
            try:
                async with aclosing(one.stream(ASKED, Sampling(max_tokens=64))) as pieces:
                    last = [piece async for piece in pieces][-1]
                counts["failed"] += last.finish is None
            except GeneratorError:
                counts["failed"] += 1
            counts["requests"] += 1


async def until(one: LocalGenerator, count: int, began: float) -> float:
    assert one._replicas is not None
    while len(one._replicas.ready) != count:
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
