"""How fast passages and questions become vectors: our encoder against Sentence-Transformers in fp32, each engine in a process of its own.

The engines take turns, three times each, on two threads, so that what else the machine does meets both. The ratio of their best runs
counts. On a busy machine PyTorch's threads wait for each other and wall time flatters us: quote only what an idle machine gave.
Passages are the topics of Python's own help, about 180 words each.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.record import record
from ragstone import embedder, weights
from ragstone.embedder import Embedder, Vectors

REPETITIONS = 3
THREADS = 2
PASSAGES, QUESTIONS = 64, 40
QUESTION = "How are keyword arguments of a function passed on"

Encode = Callable[[list[str]], Vectors]


def passages() -> list[str]:
    from pydoc_data.topics import topics

    words = " ".join(text for _, text in sorted(topics.items())).split()
    return [" ".join(words[start : start + 180]) for start in range(0, 180 * PASSAGES, 180)]


def ours(folder: Path) -> Encode:
    embedder.prepare(weights.pull("minilm"), folder, name="minilm", base="minilm")
    return Embedder(folder, threads=THREADS).documents


def sentence_transformers(folder: Path) -> Encode:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    model = SentenceTransformer(str(weights.pull("minilm")), device="cpu")

    def encode(texts: list[str]) -> Vectors:
        return np.asarray(model.encode(texts, batch_size=32, normalize_embeddings=True), np.float32)

    return encode


ENGINES = {"ours": ours, "sentence-transformers": sentence_transformers}


def measure(engine: str, out: Path) -> None:
    """One run of one engine, in this process: prints its figures and leaves its vectors in `out`."""
    with tempfile.TemporaryDirectory() as folder:
        encode = ENGINES[engine](Path(folder))
        texts = passages()
        encode(texts[:8])
        began, cpu = time.perf_counter(), cpu_seconds()
        np.save(out, encode(texts))
        wall, cpu = time.perf_counter() - began, cpu_seconds() - cpu
        took = []
        for number in range(QUESTIONS):
            start = time.perf_counter()
            encode([f"{QUESTION} {number}?"])
            took.append(time.perf_counter() - start)
    print(json.dumps({"passage": wall / PASSAGES, "passage, CPU": cpu / PASSAGES, "question": float(np.median(took))}))


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(engine: str, out: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.encoding", engine, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = {engine: Path(folder, f"{engine}.npy") for engine in ENGINES}
        runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
        for _ in range(REPETITIONS):
            for engine in ENGINES:
                runs[engine].append(run(engine, out[engine]))
        cosines = (np.load(out["ours"]) * np.load(out["sentence-transformers"])).sum(axis=1)
    best = {engine: {key: min(one[key] for one in several) for key in several[0]} for engine, several in runs.items()}
    other = best["sentence-transformers"]
    ratios = {f"{key}, Sentence-Transformers / ours": round(other[key] / value, 2) for key, value in best["ours"].items()}
    record(
        "encoding",
        {
            **ratios,
            "cosine to fp32, mean and least": [round(float(cosines.mean()), 4), round(float(cosines.min()), 4)],
            "runs, ms": {engine: [milliseconds(one) for one in several] for engine, several in runs.items()},
        },
    )


def milliseconds(figures: dict[str, float]) -> dict[str, float]:
    return {key: round(value * 1000, 1) for key, value in figures.items()}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
