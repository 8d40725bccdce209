"""Promotion and rollback under load, through the public commands: how many requests fail, and how many answers mix two releases.

    python -m benchmarks.promotion [--requests 2000]

Two editions of a corpus share no chunk. While clients ask, streams among them, the channel goes back and forth between their
releases. Every answer's evidence must belong to the release that its `x-ragstone-release` header names.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp

from benchmarks.record import ROOT, record

PORTS = {"RAGSTONE_EDGE_PORT": "8921", "RAGSTONE_API_PORT": "8922"}
URL = f"http://127.0.0.1:{PORTS['RAGSTONE_EDGE_PORT']}"
CLIENTS = 8
PAUSE = 0.3
"""Seconds a client waits between two questions: cache hits are so quick that all of them would fall into one release."""
HOLD = 15.0
"""Seconds a release is in force: long enough for its ten answers to be made on two cores, and for hits on them."""
SUBJECTS = ("pump", "valve", "boiler", "compressor", "turbine", "filter", "gasket", "manometer", "condenser", "strainer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chunks = {build(folder, edition): chunk_ids(folder) for edition in ("blue", "green")}
        command = [sys.executable, "-m", "ragstone", "up", "docs", "--minutes", "0"]
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
        try:
            record("promotion", asyncio.run(load(folder, chunks, arguments.requests)))
        finally:
            process.terminate()
            process.wait(30)


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


async def load(folder: Path, chunks: dict[str, set[str]], total: int) -> dict[str, object]:
    token = await wait_for_token(folder)
    seen: Counter[str] = Counter()
    faults: list[str] = []
    numbers = iter(range(total))
    done = asyncio.Event()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(120)) as session:
        switching = asyncio.create_task(switch(folder, list(chunks), done))
        began = time.perf_counter()
        await asyncio.gather(*(client(session, numbers, chunks, seen, faults) for _ in range(CLIENTS)))
        took = time.perf_counter() - began
        done.set()
        switches = await switching
    return {
        "requests": total,
        "streams among them": seen["stream"],
        "promotions and rollbacks": switches,
        "failed": len(faults),
        "answers whose release and evidence disagree": seen["mixed"],
        "answers by release": {release: seen[release] for release in chunks},
        "cache": {state: seen[state] for state in ("hit", "revalidated", "miss", "bypass")},
        "seconds": round(took, 1),
        "first faults": faults[:3],
    }


async def wait_for_token(folder: Path) -> str:
    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            try:
                async with session.get(f"{URL}/v1/release") as response:
                    if response.status in (200, 404):
                        async with session.get(f"http://127.0.0.1:{PORTS['RAGSTONE_API_PORT']}/readyz") as ready:
                            if ready.status == 200:
                                return (folder / ".ragstone/keys/local.token").read_text()
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)
    raise SystemExit("the system did not start")


async def switch(folder: Path, both: list[str], done: asyncio.Event) -> int:
    """Promote one release and roll back to the other, in turn, until the load is over."""
    count = 0
    for step in itertools.cycle([("release", "promote", both[0]), ("release", "rollback")]):
        if done.is_set():
            return count
        await asyncio.to_thread(ragstone, folder, *step)
        count += 1
        try:
            await asyncio.wait_for(done.wait(), HOLD)
        except TimeoutError:
            continue
    return count


async def client(
    session: aiohttp.ClientSession, numbers: itertools.count[int], chunks: dict[str, set[str]], seen: Counter[str], faults: list[str]
) -> None:
    for number in numbers:
        await asyncio.sleep(PAUSE)
        stream = number % 3 == 0
        question = f"How often is the {SUBJECTS[number % len(SUBJECTS)]} inspected?"
        body = {"model": "production", "messages": [{"role": "user", "content": question}], "max_tokens": 24, "stream": stream}
        try:
            async with session.post(f"{URL}/v1/chat/completions", json=body) as response:
                text = await response.text()
                if response.status != 200:
                    faults.append(f"{response.status}: {text[:200]}")
                    continue
                release = response.headers["x-ragstone-release"]
                seen.update((release, response.headers["x-ragstone-cache"], "stream" if stream else "json"))
                seen["mixed"] += not agrees(release, grounds(text, stream), chunks)
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
            faults.append(f"{type(error).__name__}: {error}")


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
