"""Promotion and rollback under load, through the public commands: how many requests fail, and how many answers mix two releases.

    python -m benchmarks.promotion [--requests 10000] [--hold 5] [--minutes 30] [--generator local://smollm2]

Two editions of a corpus share no chunk. While clients ask, streams among them, the channel goes back and forth between their
releases. Every answer's evidence must belong to the release that its `x-ragstone-release` header names. Two of the clients ask past the
cache and stream, so that answers are open while the release changes; those that were are counted, and must end whole. Standard error says
every few seconds how far it is and what it waits for. After `--minutes` it ends with the requests that were made until then.

A switch counts from the time that its record bears to the first look at `/v1/release` that shows it; there is one every few milliseconds.
The first opens its release and is told beside; the others put back one that was in force seconds ago and is open still: warm.

The answers are those of a small server of the benchmark, which says the sentence of the evidence, a word every 20 ms: what is measured is
the change of releases, and a language model on the same two cores answers so slowly that the run would never end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.record import ROOT, goal, record

PORTS = {"RAGSTONE_EDGE_PORT": "8921", "RAGSTONE_API_PORT": "8922"}
TELLER = 8923
WORD = 0.02
"""Seconds between two words of it."""
URL = f"http://127.0.0.1:{PORTS['RAGSTONE_EDGE_PORT']}"
CLIENTS = 16
PAUSE = 0.15
"""Seconds a client waits between two questions: cache hits are so quick that all of them would fall into one release."""
HOLD = 5.0
"""Seconds a release is in force: long enough for its ten answers to be made on two cores, and for hits on them."""
LOOK = 0.005
"""Seconds between two looks at the origin while a switch is on its way."""
SWIFT = 100.0
"""Milliseconds that a switch between warm releases may take."""
STREAMERS = 2
"""Clients that hold streams open."""
REPORT = 5.0
"""Seconds between two lines on standard error."""
START = 300.0
"""Seconds within which the system must be ready: weights are read and two processes start, on a machine that may be busy."""
TOKENS = 24
SUBJECTS = ("pump", "valve", "boiler", "compressor", "turbine", "filter", "gasket", "manometer", "condenser", "strainer")


@dataclass
class Run:
    """A load while it lasts: what came back, what failed, and the seconds that each switch took until the origin had it."""

    folder: Path
    chunks: dict[str, set[str]]
    hold: float
    seen: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)
    """Milliseconds from the record's being there to the origin's answering by it."""
    commands: list[float] = field(default_factory=list)
    """Seconds that the command took, start of Python and all."""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    deadline: float = float("inf")
    """When no further request is made, by `time.monotonic`."""
    under_way: int = 0
    waits: str = ""
    """What the channel's side waits for."""

    @property
    def over(self) -> bool:
        return self.done.is_set() or time.monotonic() > self.deadline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--hold", type=float, default=HOLD)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--generator", default=f"openai+http://127.0.0.1:{TELLER}/v1?model=teller")
    arguments = parser.parse_args()
    os.environ["RAGSTONE_SERVE_URL"] = arguments.generator
    with tempfile.TemporaryDirectory() as name, telling():
        folder = Path(name)
        say("building two releases")
        run = Run(folder, {build(folder, edition): chunk_ids(folder) for edition in ("blue", "green")}, arguments.hold)
        command = [sys.executable, "-m", "ragstone", "up", "docs", "--minutes", "0"]
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
        try:
            record("promotion", asyncio.run(load(run, arguments.requests, arguments.minutes)))
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """The small server, in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.teller", str(TELLER), str(WORD)], cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def environment() -> dict[str, str]:
    return {**os.environ, **PORTS, "PYTHONPATH": str(ROOT), "RAGSTONE_ACCESS_RPM": "1000000", "RAGSTONE_ACCESS_TPM": "100000000"}


def ragstone(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "ragstone", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True, text=True).stdout.strip()


def build(folder: Path, edition: str) -> str:
    """The release of an edition, in which every manual names its edition."""
    (folder / "docs").mkdir(exist_ok=True)
    for number, subject in enumerate(SUBJECTS):
        text = (
            f"# The {subject}\n\nThe {edition} edition of the {subject} manual. The {subject} is inspected every {number + 3} weeks by the "
            f"{edition} crew. A {subject} that leaks is shut off at once, and the {edition} crew replaces its seal before it runs again.\n"
        )
        (folder / "docs" / f"{subject}.md").write_text(text)
    return ragstone(folder, "build", "docs").splitlines()[-1]


def chunk_ids(folder: Path) -> set[str]:
    newest = max((folder / ".ragstone/store/corpora").iterdir(), key=lambda path: path.stat().st_mtime)
    return {json.loads(line)["id"] for line in (newest / "chunks.jsonl").read_text().splitlines()}


async def load(run: Run, total: int, minutes: float) -> dict[str, object]:
    say("waiting for the origin and the edge")
    token = await wait_for_token(run.folder)
    numbers = itertools.count()
    run.deadline = time.monotonic() + 60 * minutes
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(120)) as session:
        works = (switch(run, session), report(run, total), *(streamer(run, session) for _ in range(STREAMERS)))
        beside = [asyncio.create_task(work) for work in works]
        began = time.perf_counter()
        await asyncio.gather(*(client(run, session, itertools.islice(numbers, share)) for share in shares(total)))
        took = time.perf_counter() - began
        run.done.set()
        await asyncio.gather(*beside)
    return figures(run, took)


def figures(run: Run, took: float) -> dict[str, object]:
    """What is told of a load."""
    seen, warm = run.seen, run.taken[1:] or run.taken
    answered = sum(seen[kind] for kind in ("json", "stream", "held")) + len(run.faults)
    middle = round(statistics.median(warm), 1)
    return {
        "requests": answered,
        "streams among them": seen["stream"] + seen["held"],
        "streams that were open while the release changed": seen["across"],
        "promotions and rollbacks": len(run.commands),
        "failed": len(run.faults),
        "answers whose release and evidence disagree": seen["mixed"],
        "answers by release": {release: seen[release] for release in run.chunks},
        "cache": {state: seen[state] for state in ("hit", "revalidated", "miss", "bypass")},
        "a switch as a command, median s": round(statistics.median(run.commands), 3),
        "until the origin answers by it, median and most ms": [middle, round(max(warm), 1)],
        "the first of them, which opens its release, ms": round(run.taken[0], 1),
        "goals": {
            "failed": goal(len(run.faults), most=0),
            "release and evidence disagree": goal(seen["mixed"], most=0),
            "a switch between warm releases, median ms": goal(middle, most=SWIFT),
        },
        "seconds": round(took, 1),
        "first faults": run.faults[:3],
    }


def shares(total: int) -> list[int]:
    """The requests of each client."""
    return [total // CLIENTS + (at < total % CLIENTS) for at in range(CLIENTS)]


async def wait_for_token(folder: Path) -> str:
    """The key, once origin and edge have a release in force."""
    ready = [f"http://127.0.0.1:{PORTS['RAGSTONE_API_PORT']}/readyz", f"{URL}/readyz"]
    async with aiohttp.ClientSession() as session:
        for _ in range(round(START / 0.2)):
            with contextlib.suppress(aiohttp.ClientError):
                if {await status(session, url) for url in ready} == {200}:
                    return (folder / ".ragstone/keys/local.token").read_text()
            await asyncio.sleep(0.2)
    raise SystemExit(f"the system did not start in {START:g} s: try `ragstone up` by itself")


async def status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        return response.status


async def report(run: Run, total: int) -> None:
    """How far it is, until it is over."""
    while not run.done.is_set():
        asked = run.seen["json"] + run.seen["stream"]
        say(f"{asked} of {total} requests, {run.under_way} under way, {len(run.faults)} failed, {len(run.commands)} switches; {run.waits}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(run.done.wait(), REPORT)


async def switch(run: Run, session: aiohttp.ClientSession) -> None:
    """Promote one release and roll back to the other, in turn, until the load is over."""
    one, _ = run.chunks
    number = await in_force(session)
    for step in itertools.cycle([("release", "promote", one), ("release", "rollback")]):
        if run.done.is_set():
            return
        number += 1
        run.waits = f"waiting for ragstone {' '.join(step[:2])}, and for the origin to answer by record {number}"
        began = time.perf_counter()
        command = asyncio.create_task(asyncio.to_thread(ragstone, run.folder, *step))
        seen = asyncio.create_task(follow(session, run.folder, number))
        await command
        run.commands.append(time.perf_counter() - began)
        made = float(json.loads(kept(run.folder, number).read_bytes())["at"])
        run.taken.append(1000 * (await seen - made))
        run.waits = f"record {number} stays in force for {run.hold:g} s"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(run.done.wait(), run.hold)


def kept(folder: Path, number: int) -> Path:
    """Where a record of the channel is."""
    return folder / f".ragstone/store/channels/production/{number:08d}.json"


async def follow(session: aiohttp.ClientSession, folder: Path, number: int) -> float:
    """When the origin was first seen to answer by the record, by the clock; it is not asked before there is one."""
    while not kept(folder, number).exists():
        await asyncio.sleep(LOOK)
    while await in_force(session) < number:
        await asyncio.sleep(LOOK)
    return time.time()


async def in_force(session: aiohttp.ClientSession) -> int:
    """The number of the record by which the origin answers."""
    async with session.get(f"http://127.0.0.1:{PORTS['RAGSTONE_API_PORT']}/v1/release") as response:
        return int((await response.json())["number"])


async def client(run: Run, session: aiohttp.ClientSession, numbers: Iterable[int]) -> None:
    for number in numbers:
        if run.over:
            return
        await asyncio.sleep(PAUSE)
        stream = number % 3 == 0
        if (found := await ask(run, session, number, stream=stream)) is not None:
            run.seen.update((*found, "stream" if stream else "json"))


async def streamer(run: Run, session: aiohttp.ClientSession) -> None:
    """Answers that are made anew, one after the other, and were open while the release changed as often as can be."""
    for number in itertools.count():
        if run.over:
            return
        before = len(run.taken)
        if await ask(run, session, number, stream=True, headers={"cache-control": "no-cache"}) is not None:
            run.seen["held"] += 1
            run.seen["across"] += len(run.taken) > before


async def ask(
    run: Run, session: aiohttp.ClientSession, number: int, *, stream: bool, headers: dict[str, str] | None = None
) -> tuple[str, str] | None:
    """The release and the cache's state of an answer; a fault is noted."""
    question = f"How often is the {SUBJECTS[number % len(SUBJECTS)]} inspected?"
    body = {"model": "production", "messages": [{"role": "user", "content": question}], "max_tokens": TOKENS, "stream": stream}
    run.under_way += 1
    try:
        async with session.post(f"{URL}/v1/chat/completions", json=body, headers=headers) as response:
            text = await response.text()
            if response.status != 200:
                run.faults.append(f"{response.status}: {text[:200]}")
                return None
            release = response.headers["x-ragstone-release"]
            run.seen["mixed"] += not agrees(release, grounds(text, stream), run.chunks)
            return release, response.headers["x-ragstone-cache"]
    except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
        run.faults.append(f"{type(error).__name__}: {error}")
        return None
    finally:
        run.under_way -= 1


def grounds(text: str, stream: bool) -> dict[str, object]:
    """The `ragstone` field of an answer; of a stream, that of the one chunk that has it."""
    if not stream:
        found: dict[str, object] = json.loads(text)["ragstone"]
        return found
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if lines[-1] != "[DONE]":
        raise ValueError("a stream without [DONE]")
    (found,) = [chunk["ragstone"] for chunk in map(json.loads, lines[:-1]) if "ragstone" in chunk]
    return found


def agrees(release: str, found: dict[str, object], chunks: dict[str, set[str]]) -> bool:
    citations = found["citations"]
    assert isinstance(citations, list)
    return found["release"] == release and {citation["chunk"] for citation in citations} <= chunks[release]


if __name__ == "__main__":
    main()
