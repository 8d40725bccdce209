"""Replicas under load, beside Ray Serve: how soon there are more and fewer, how soon one wakes, what choosing one costs.

    python -m benchmarks.scaling [--runs N] [--ray]

Six clients ask SmolLM2 one question after the other, a long one with an answer of one token: reading it takes the replica's CPU, and
hardly any of those who ask. A replica has one thread and one slot, and there may be three. The CPU target is 70 %; where other work keeps
two replicas below it, it is 70 % of what they get, which is measured before each repeat and recorded. Seconds count from the first
request, or from the end of the last; a model's load, which is part of them, is given beside. Every answer is checked to be whole. `--ray`
(it needs `ragstone[ray]`) has the same llama.cpp under the same rule on Ray Serve too, in turns; Ray is up, with its one replica, before
the first request. A phase that is not done after 40 s counts as not reached, with the CPU that was seen, so that it always ends: with
`--ray` and five runs after about five minutes on two idle cores, after 25 where nothing is reached.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

import psutil

from benchmarks.record import goal, record
from ragstone import rayserve, replica, serve
from ragstone.config import Serve, Settings
from ragstone.errors import GeneratorError
from ragstone.load import Meter
from ragstone.serve import Generator, Message, Sampling
from ragstone.serve.local import LocalGenerator

ASKED = [Message("user", "Tell a long story about a pump.")]
LONG = [Message("user", "Tell a long story about a pump. " * 20)]
CLIENTS, MOST, CHOICES = 6, 3, 2000
TARGET, ENOUGH = 70.0, 80.0
"""Per cent of its core: the target, and what two replicas must get for the rule, with its tolerance of 10 %, to ask for a third."""
OUT, AWAKE = 6.0, 1.0
"""Seconds: until three replicas are ready, a model's load not counted; until a sleeping one says its first token."""
PHASE = 40.0
"""Seconds after which a number of replicas counts as not reached."""
BOUNDS: Mapping[str, object] = {"threads": 1, "slots": 1, "context": 1024, "replicas_most": MOST, "scale_down": 5.0}
APP = "scaling"


@dataclass
class Course:
    """One repeat: seconds until two and three replicas were ready and until one was left, None where that was not reached."""

    two: float | None = None
    three: float | None = None
    back: float | None = None
    cpu: float | None = None
    """Per cent of its core that each replica took, on average, until the load ended."""
    requests: int = 0
    failed: int = 0
    error: str = ""
    """Why it could not be run."""


Way = Callable[[float], Awaitable[Course]]
"""Runs one repeat, with the target."""


@dataclass
class Ways:
    """What was measured of each way, and before each repeat the CPU that replicas can get, per cent of a core."""

    reached: list[float] = field(default_factory=list)
    targets: list[float] = field(default_factory=list)
    courses: dict[str, list[Course]] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ray", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.runs, arguments.ray))


async def measure(runs: int, ray: bool) -> None:
    loads = told([await load() for _ in range(runs)])
    ways = await turns(runs, {"local": local, **({"ray": on_ray} if ray else {})})
    woken = [await wake() for _ in range(runs)]
    asleep = told([asleep for asleep, _ in woken])
    ours = ways.courses["local"]
    record(
        "scaling",
        {
            "runs": runs,
            "CPU of each of two replicas that are always asked, %": told(ways.reached, 0),
            "CPU target, %": told(ways.targets, 0),
            "load of a model, s": loads,
            **out(ours),
            "first token of a sleeping replica, s": asleep,
            "first token of a waking one, s": told([awake for _, awake in woken]),
            "choosing a replica, us": told([await choose() for _ in range(runs)], 1),
            **(beside(ours, ways.courses["ray"]) if ray else {}),
            "goals": {
                "3 replicas ready, but for a model's load, s": third(ours, loads["median"]),
                "CPU target of every repeat, %": goal(min(ways.targets), least=TARGET),
                "first token of a sleeping replica, s": goal(asleep["median"], most=AWAKE),
                "failed": goal(sum(one.failed for one in ours), most=0),
            },
        },
    )


async def turns(runs: int, ways: Mapping[str, Way]) -> Ways:
    found = Ways(courses={name: [] for name in ways})
    for _ in range(runs):
        found.reached.append(await reach())
        found.targets.append(TARGET if found.reached[-1] >= ENOUGH else TARGET * found.reached[-1] / 100)
        for name, way in ways.items():
            found.courses[name].append(await tried(way, found.targets[-1]))
            print(f"{name}: {found.courses[name][-1]}", flush=True)
    return found


async def tried(way: Way, target: float) -> Course:
    try:
        return await way(target)
    except GeneratorError as error:
        return Course(error=str(error))


def third(runs: list[Course], load: float) -> dict[str, float]:
    """The goal of three replicas: a repeat that did not reach them took longer than any that did."""
    times = [PHASE * 2 if one.three is None else one.three for one in runs]
    return goal(round(statistics.median(times) - load, 2), most=OUT)


def out(runs: list[Course]) -> dict[str, object]:
    return {
        "2 replicas ready after, s": reached([one.two for one in runs]),
        "3 replicas ready after, s": reached([one.three for one in runs]),
        "1 replica again after, s (window of 5 s)": reached([one.back for one in runs]),
        "CPU of each replica until the load ended, %": told([one.cpu for one in runs if one.cpu is not None], 0),
        "requests": sum(one.requests for one in runs),
        "failed": sum(one.failed for one in runs),
        **({"not run": errors} if (errors := sorted({one.error for one in runs if one.error})) else {}),
    }


def reached(times: list[float | None]) -> dict[str, float]:
    there = [one for one in times if one is not None]
    missed = len(times) - len(there)
    return {**told(there), **({f"not reached in {PHASE:g} s": missed} if missed else {})}


def beside(ours: list[Course], theirs: list[Course]) -> dict[str, object]:
    """Ray's figures, and how many times as long it takes as this machine's own."""
    mine, other = out(ours), out(theirs)
    times = {name: ratio for name in mine if name.endswith((", s", "5 s)")) and (ratio := times_longer(mine[name], other[name]))}
    return {"ray": other, "ray, times local": times}


def times_longer(ours: object, theirs: object) -> float | None:
    """The ratio of two medians, where there are both."""
    match ours, theirs:
        case {"median": float(mine)}, {"median": float(other)}:
            return round(other / mine, 2)
    return None


def generator(**values: object) -> LocalGenerator:
    serve = {"url": "local://smollm2", "threads": 1, "slots": 1, "context": 1024, **values}
    return LocalGenerator(Settings(serve=Serve(**serve)))  # type: ignore[arg-type]


async def load() -> float:
    one, began = generator(), time.perf_counter()
    await one.start()
    took = time.perf_counter() - began
    await one.close()
    return took


async def reach() -> float:
    """Per cent of its core that each of two replicas gets when both are always asked."""
    one, meter, count = generator(replicas=2), Meter(), Course()
    await one.start()
    async with asking(one, count):
        await asyncio.sleep(1)
        meter.shares(used)
        await asyncio.sleep(4)
        found = busy(meter)
    await one.close()
    return found or 0.0


async def local(target: float) -> Course:
    one = generator(**BOUNDS, target_cpu=target)
    try:
        await one.start()
        replicas = one._replicas
        assert replicas is not None
        return await scale(one, lambda: len(replicas.ready))
    finally:
        await one.close()


async def on_ray(target: float) -> Course:
    """An application of Ray Serve, in a Ray that this process keeps until it ends."""
    one = serve.connect(Settings(serve=Serve(url=f"ray?app={APP}", target_cpu=target, **BOUNDS)))  # type: ignore[arg-type]
    try:
        await one.start()
        return await scale(one, running)
    finally:
        await one.close()


def running() -> int:
    """How many replicas Ray Serve says that run."""
    from ray import serve

    return int(serve.status().applications[APP].deployments[rayserve.PART].replica_states.get("RUNNING", 0))


def used() -> dict[int, float]:
    """The CPU seconds of each replica below this process: Ray's are children of its workers."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ended just now
            if replica.Replica.program in process.cmdline():
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
    return found


def busy(meter: Meter) -> float | None:
    """Per cent of its core that each replica took since the last look."""
    shares = meter.shares(used).values()
    return 100 * statistics.mean(shares) if shares else None


async def scale(one: Generator, ready: Callable[[], int]) -> Course:
    found, meter, began = Course(), Meter(), time.perf_counter()
    async with asking(one, found):
        meter.shares(used)
        found.two = await until(ready, 2, began)
        if found.two is not None:
            found.cpu = busy(meter)
            found.three = await until(ready, MOST, began)
        found.cpu = busy(meter) or found.cpu
    if found.two is not None:
        found.back = await until(ready, 1, time.perf_counter())
    return found


@asynccontextmanager
async def asking(one: Generator, count: Course) -> AsyncIterator[None]:
    """All clients ask, until its end."""
    clients = [asyncio.create_task(client(one, count)) for _ in range(CLIENTS)]
    try:
        yield
    finally:
        for task in clients:
            task.cancel()
        await asyncio.wait(clients)


async def client(one: Generator, count: Course) -> None:
    with suppress(asyncio.CancelledError):
        while True:
            try:
                async with aclosing(one.stream(LONG, Sampling(max_tokens=1))) as pieces:
                    last = [piece async for piece in pieces][-1]
                count.failed += last.finish is None
            except GeneratorError:
                count.failed += 1
            count.requests += 1


async def until(ready: Callable[[], int], count: int, began: float) -> float | None:
    """Seconds from `began` until there are so many replicas; None when that takes longer than a phase from now."""
    deadline = time.perf_counter() + PHASE
    while await asyncio.to_thread(ready) != count:
        if time.perf_counter() > deadline:
            return None
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
    if not values:
        return {}
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
    }


if __name__ == "__main__":
    main()
