"""`/v1/embeddings` beside others that serve the same weights: Sentence-Transformers behind FastAPI, and infinity-emb, in one run.

    python -m benchmarks.embeddings [--peer PYTHON] [--judged FOLDER] [--texts 64] [--requests 120] [--runs 5] [--cores 2]

PYTHON is that of another environment with `infinity-emb[torch,server]`, `sentence-transformers`, `fastapi` and `uvicorn`, none of which is
ours; a server that does not start there is left out, and said so. Each server is a process on the same cores, asked by eight callers over
loopback: first questions one by one, then passages by sixteen in half as many requests. The servers take turns, in another order each run.
CPU is that of the server's processes. Vectors are compared with Sentence-Transformers' in fp32, in this process, before anything is timed;
with FOLDER, a judged collection of BEIR's layout, each server also encodes that once, and nDCG@10 is told. Ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from benchmarks.encoding import QUESTION, Judged, judged, passages
from benchmarks.record import ROOT, Goal, goal, record
from ragstone import access, config, project, store, weights
from ragstone.embedder import Vectors
from ragstone.show import Silence

CALLERS, BATCH = 8, 16
OURS, FIRST, NDCG = "ours", "sentence-transformers", "nDCG@10"
RATES = ("questions a second", "passages a second")
TIMES = 3.0
"""How many times the first's rate ours is to be at least."""
EQUAL = 0.005
"""By how much nDCG@10 may be less and still be called equal: our weights are int8."""
START = 180.0
"""Seconds until a server must answer."""

FASTAPI = """
import sys
import torch, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

torch.set_num_threads(int(sys.argv[3]))
model = SentenceTransformer(sys.argv[1], device="cpu")
app = FastAPI()

class Asked(BaseModel):
    model: str
    input: list[str]

@app.post("/v1/embeddings")
def embeddings(asked: Asked):
    vectors = model.encode(asked.input, normalize_embeddings=True)
    return {"data": [{"index": at, "embedding": one.tolist()} for at, one in enumerate(vectors)]}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
"""


@dataclass(frozen=True)
class Server:
    """A server that runs: where it is asked, as what, and the process to measure."""

    url: str
    model: str
    key: str
    process: psutil.Process

    def cpu(self) -> float:
        """The CPU seconds that it and its children have used."""
        every = [self.process, *self.process.children(recursive=True)]
        return sum(times.user + times.system for times in (one.cpu_times() for one in every))


Command = Callable[[Path, int, int], tuple[Sequence[str], str, str]]
"""From a folder, a port and a number of cores: the command, the model's name, the key."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--judged", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    texts = passages()[: arguments.texts]
    collection = judged(arguments.judged, arguments.split) if arguments.judged else None
    rounds: dict[str, list[dict[str, float]]] = {}
    same: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        reference = expected(texts)
        commands = servers(arguments.peer)
        for turn in range(arguments.runs):
            order = list(commands)[turn % len(commands) :] + list(commands)[: turn % len(commands)]
            for one in order:
                folder = Path(name) / one.replace(" ", "-")
                with running(commands[one], folder, arguments.cores) as server:
                    if server is None:
                        continue
                    if one not in same:
                        same[one] = asyncio.run(likeness(server, texts, reference, collection))
                    rounds.setdefault(one, []).append(asyncio.run(measure(server, texts, arguments.requests)))
                    print(f"round {turn + 1} of {arguments.runs}: {one}", file=sys.stderr, flush=True)
    told = {one: {what: mid([run[what] for run in runs]) for what in runs[0]} | same[one] for one, runs in rounds.items()}
    missing = sorted(set(commands) - set(rounds))
    asked = {"runs": arguments.runs, "cores": arguments.cores, "texts": len(texts), "judged": arguments.judged and arguments.judged.name}
    compared = ratios(rounds)
    record("embeddings", {**asked, "servers": told, "ours, times": compared, "goals": goals(compared, same), "did not start": missing})


def ratios(rounds: Mapping[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """How many times as many texts a second ours answers as each of the others."""
    found: dict[str, dict[str, float]] = {}
    for one in rounds:
        if not one.startswith(OURS):
            pairs = list(zip(rounds[OURS], rounds[one], strict=True))
            found[one] = {rate: mid([ours[rate] / theirs[rate] for ours, theirs in pairs]) for rate in RATES}
    return found


def goals(compared: Mapping[str, Mapping[str, float]], same: Mapping[str, Mapping[str, float]]) -> dict[str, Goal]:
    """At least three times Sentence-Transformers behind FastAPI, at equal nDCG, and ahead of all."""
    if FIRST not in compared:
        return {}
    found = {f"{rate}, times {FIRST}": goal(compared[FIRST][rate], least=TIMES) for rate in RATES}
    found["ahead of all, times the next"] = goal(min(one[rate] for one in compared.values() for rate in RATES), least=1.0)
    if NDCG in same[FIRST]:
        found["nDCG@10 over the first's"] = goal(round(same[OURS][NDCG] - same[FIRST][NDCG], 4), least=-EQUAL)
    return found


def servers(peer: Path | None) -> Mapping[str, Command]:
    """Ours, and those of the other environment."""
    found: dict[str, Command] = {OURS: ours, f"{OURS}, as a service": as_a_service}
    if peer is not None:
        weighed = str(weights.pull("minilm"))
        plain = [str(peer), "-c", FASTAPI, weighed]
        found[FIRST] = lambda folder, port, cores: ([*plain, str(port), str(cores)], "minilm", "")
        found["infinity-emb"] = lambda folder, port, cores: (infinity(peer, weighed, port), "minilm", "")
    return found


def ours(folder: Path, port: int, cores: int) -> tuple[Sequence[str], str, str]:
    """The origin, which encodes itself."""
    return [sys.executable, "-m", "ragstone", "serve", "--port", str(port)], "production", built(folder, cores)


def as_a_service(folder: Path, port: int, cores: int) -> tuple[Sequence[str], str, str]:
    """The origin before a replica of its own for embeddings."""
    key = built(folder, cores)
    (folder / "embed.json").write_text(json.dumps({"name": "embed", "kind": "embedding", "threads": cores}))
    if not (folder / ".ragstone/store/services/embed").is_dir():
        subprocess.run([sys.executable, "-m", "ragstone", "deploy", "embed.json"], cwd=folder, env=environment(), check=True)
    (folder / config.FILE).write_text('[serve]\nembeddings = "embed/v1"\n')
    return [sys.executable, "-m", "ragstone", "serve", "--port", str(port)], "production", key


def built(folder: Path, cores: int) -> str:
    """A project with a release of the base model, and a key for it."""
    if not (folder / "key").is_file():
        (folder / "docs").mkdir(parents=True)
        (folder / "docs/one.md").write_text("# Pump\n\nPrime the feed pump for ninety seconds before it is started.\n")
        settings = config.load(folder, {})
        opened = store.connect(settings.store_url)
        project.build(settings, opened, Silence())
        token, _ = access.create(settings.keys_folder, opened, tenant="b", groups=["public"], rpm=10**6, tpm=10**9, expires=0)
        (folder / "key").write_text(token)
    return (folder / "key").read_text()


def infinity(peer: Path, model: str, port: int) -> Sequence[str]:
    options = ["--model-id", model, "--served-model-name", "minilm", "--port", str(port), "--host", "127.0.0.1"]
    return [str(peer.with_name("infinity_emb")), "v2", *options, "--engine", "torch", "--device", "cpu", "--url-prefix", "/v1"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


@contextmanager
def running(command: Command, folder: Path, cores: int) -> Iterator[Server | None]:
    """The server, on so many cores, once it answers; None where it can't be had."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words, model, key = command(folder, port, cores)
    told = {**environment(), "OMP_NUM_THREADS": str(cores)}
    here = folder if words[0] == sys.executable else ROOT
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(words, cwd=here, env=told, stdout=log, stderr=log)
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, set(sorted(os.sched_getaffinity(0))[:cores]))
        server = Server(f"http://127.0.0.1:{port}/v1/embeddings", model, key, psutil.Process(process.pid))
        yield server if asyncio.run(answers(server, process)) else None
    finally:
        process.terminate()
        process.wait(60)


async def answers(server: Server, process: subprocess.Popen[bytes]) -> bool:
    """Whether it comes to answer."""
    deadline = time.monotonic() + START
    async with session(server) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                await ask(client, server, ["?"])
                return True
            except (aiohttp.ClientError, KeyError):
                await asyncio.sleep(0.2)
    return False


def session(server: Server) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"authorization": f"Bearer {server.key}"} if server.key else {})


async def ask(client: aiohttp.ClientSession, server: Server, texts: Sequence[str]) -> list[list[float]]:
    async with client.post(server.url, json={"model": server.model, "input": list(texts)}) as response:
        response.raise_for_status()
        return [one["embedding"] for one in (await response.json())["data"]]


def expected(texts: Sequence[str]) -> Vectors:
    """What Sentence-Transformers in fp32 says."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(weights.pull("minilm")), device="cpu")
    return np.asarray(model.encode(list(texts), normalize_embeddings=True), np.float32)


async def likeness(server: Server, texts: Sequence[str], reference: Vectors, collection: Judged | None) -> dict[str, float]:
    """How far its vectors are those of fp32: the mean cosine, and nDCG@10 over a judged collection."""
    async with session(server) as client:
        found = np.asarray(await ask(client, server, texts), np.float32)
        told = {"cosine": round(float((found * reference).sum(axis=1).mean()), 4)}
        if collection:
            documents, questions = [
                await every(client, server, list(part.values())) for part in (collection.documents, collection.questions)
            ]
            told[NDCG] = round(collection.ndcg(documents, questions), 4)
    return told


async def every(client: aiohttp.ClientSession, server: Server, texts: Sequence[str]) -> Vectors:
    """The vectors of all texts, in requests of sixteen by all callers."""
    turns = asyncio.Semaphore(CALLERS)

    async def part(at: int) -> list[list[float]]:
        async with turns:
            return await ask(client, server, texts[at : at + BATCH])

    parts = await asyncio.gather(*(part(at) for at in range(0, len(texts), BATCH)))
    return np.asarray([vector for part in parts for vector in part], np.float32)


async def measure(server: Server, texts: Sequence[str], requests: int) -> dict[str, float]:
    """Texts a second, and milliseconds of CPU a text: of questions, and of passages by sixteen."""
    questions = [[f"{QUESTION} {at}?"] for at in range(requests)]
    batches = [[texts[(at * BATCH + row) % len(texts)] for row in range(BATCH)] for at in range(max(CALLERS, requests // 2))]
    found: dict[str, float] = {}
    for name, bodies in (("question", questions), ("passage", batches)):
        count = sum(map(len, bodies))
        before, began = server.cpu(), time.perf_counter()
        await load(server, bodies)
        found[f"{name}s a second"] = count / (time.perf_counter() - began)
        found[f"CPU a {name}, ms"] = 1000 * (server.cpu() - before) / count
    return found


async def load(server: Server, bodies: Sequence[Sequence[str]]) -> None:
    waiting = iter(bodies)

    async def caller(client: aiohttp.ClientSession) -> None:
        for body in waiting:
            await ask(client, server, body)

    async with session(server) as client:
        await asyncio.gather(*(caller(client) for _ in range(CALLERS)))


def mid(values: Sequence[float]) -> float:
    return round(statistics.median(values), 2)


if __name__ == "__main__":
    main()
