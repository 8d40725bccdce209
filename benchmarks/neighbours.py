"""The peers of `benchmarks.index`, run by a Python that has them: exact search by faiss, and usearch's HNSW graph over bf16.

    python benchmarks/neighbours.py ENGINE FOLDER

It imports NumPy and the engine, nothing of ours. FOLDER is what `benchmarks.index` made. Each engine is told to use one thread.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DIMENSIONS, NEAREST, EF = 384, 10, 128
WARM = 20
Vectors = Any
Search = Callable[[int], Sequence[int]]
"""The rows nearest to a question, by its number."""


def vectors(folder: Path) -> Vectors:
    path = folder / "vectors.f32"
    return np.memmap(path, np.float32, "r", shape=(path.stat().st_size // (4 * DIMENSIONS), DIMENSIONS))


def flat(folder: Path) -> tuple[Search, dict[str, float]]:
    import faiss

    faiss.omp_set_num_threads(1)
    index, questions = faiss.IndexFlatIP(DIMENSIONS), np.load(folder / "questions.npy")
    index.add(np.ascontiguousarray(vectors(folder)))
    return lambda at: index.search(questions[at : at + 1], NEAREST)[1][0], {}


def hnsw(folder: Path) -> tuple[Search, dict[str, float]]:
    from usearch.index import Index

    held, questions, told = vectors(folder), np.load(folder / "questions.npy"), {}
    kept = folder / "hnsw.usearch"
    if not kept.is_file():
        index, began = Index(ndim=DIMENSIONS, metric="ip", dtype="bf16", connectivity=16, expansion_add=EF), time.process_time()
        index.add(np.arange(len(held)), held, threads=1)
        told = {"build, vectors/s of CPU": len(held) / (time.process_time() - began)}
        index.save(str(kept))
    index = Index.restore(str(kept), view=True)
    index.expansion_search = EF
    return lambda at: index.search(questions[at], NEAREST, threads=1).keys, told


ENGINES = {"faiss flat": ("faiss", flat), "usearch bf16": ("usearch", hnsw)}


def timed(ask: Callable[[int], object], count: int) -> dict[str, float]:
    """Milliseconds of one question after the other, by the clock and of CPU."""
    wall, cpu = [], []
    for at in range(-min(WARM, count), count):
        began, spent = time.perf_counter(), time.process_time()
        ask(max(0, at))
        spent, took = time.process_time() - spent, time.perf_counter() - began
        if at >= 0:
            wall.append(1000 * took)
            cpu.append(1000 * spent)
    both = {"CPU": cpu, "wall": wall}
    return {f"{kind} p{part}, ms": float(np.percentile(both[kind], part)) for kind in both for part in (50, 99)}


def recall(search: Search, truth: Any) -> float:
    """The share of the exact neighbours that is found."""
    return float(np.mean([len(set(map(int, search(at))) & set(row.tolist())) / len(row) for at, row in enumerate(truth)]))


def alone() -> None:
    """Keep this process to one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> None:
    _, engine, name = sys.argv
    alone()
    truth = np.load(Path(name) / "truth.npy")
    search, told = ENGINES[engine][1](Path(name))
    print(json.dumps({**told, **timed(search, len(truth)), "recall@10": recall(search, truth)}))


if __name__ == "__main__":
    main()
