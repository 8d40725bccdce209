"""The local index at scale, beside exact search and a graph: how fast it is built, opened and asked, what it finds, what memory it holds.

    python -m benchmarks.index [--chunks N] [--peers PYTHON] [--rounds N] [--folder FOLDER] [--engine URL]

Vectors are drawn from 2,000 clumps in 24 directions, turned into 384 dimensions with noise in all of them, and scaled to length 1;
questions are drawn alike. Of 20,000 a question's nearest has a cosine of .81, its tenth .67. Texts have 60 words: three in ten are
grammar, which the analyser leaves out; the others are of a vocabulary of 50,000 under Zipf's law as Mandelbrot has it (exponent 1.07,
ranks from 11 on), and every other one is what usually follows the word before it, for in text pairs come again. So the most frequent word
is in 41 % of the chunks, and 58 % of the pairs of 250,000 words are distinct; in windows of 60 words of four judged collections it was 31
to 45 %, and 51 to 68 %. A question's words are drawn from its nearest chunk. One chunk in ten is in the group that the filter asks for.
All is drawn from a seed.

Every measurement is a process of its own on one core, and the engines take turns, in another order each round; ratios are formed within
a round, of CPU time, since where cores are busy the clock says little. PYTHON has faiss-cpu and usearch (`pip install faiss-cpu usearch`);
without it this Python's are taken, and what is missing is left out and said so. FOLDER keeps the corpus and the indexes for the next run.

URL is `opensearch://host:9200/name` or `elasticsearch://…`: an index there is loaded once, asked the same in each round, and removed. Its
process is the client, so of an engine only the clock counts. `python -m tests.engines up` prints the URL of a node on loopback, over http.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.neighbours import DIMENSIONS, ENGINES, NEAREST, alone, recall, timed, vectors
from benchmarks.record import ROOT, Goal, goal, judge, record
from ragstone import config
from ragstone.analyser import STOP_WORDS
from ragstone.corpus.snapshot import Chunks
from ragstone.hosted import Hosted
from ragstone.index import Candidate, Index, Query, local
from ragstone.index import connect as place_at
from ragstone.store import connect, publish

LEAST = {"recall@10": 0.99, "recall@10 under a filter of 10 %": 0.99, "index stage, docs/s": 8_000}
MOST = {
    "vector: CPU p50 / faiss flat": 0.06,
    "vector: CPU p50 / usearch bf16": 1.5,
    "hybrid: wall p50, ms": 2,
    "open: wall p50, ms": 50,
    "index stage, GiB": 2,
    "served, GiB": 2,
}
"""The goals."""
SEED, SLAB = 17, 50_000
QUESTIONS, OPENED = 300, 20
CLUMPS, DIRECTIONS, SPREAD, NOISE = 2_000, 24, 0.5, 0.3
WORDS, VOCABULARY, GRAMMAR, HABIT, SHIFT = 60, 50_000, 0.3, 0.5, 10
ASKED = 6
SYLLABLES = ("ba", "ke", "li", "mo", "nur", "ra", "set", "ti", "vol", "zu")
EVERYONE, FEW = ("public",), ("few",)
OURS, ENGINE = "ragstone", "engine"
MEASURES = ("corpus", "build", "load", "remove", OURS)
DIGEST = "benchmark"
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--engine", default="", metavar="URL")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure == "corpus":
        make(asked.folder, asked.chunks)
    elif asked.measure:
        alone()
        print(json.dumps(measure(asked.measure, asked.folder, asked.engine)))
    else:
        compare(asked)


def measure(what: str, folder: Path, engine: str) -> dict[str, float]:
    """What a process of its own measures."""
    if what == "build":
        return build(folder)
    if not engine:
        return ask(folder, lambda: local.open(folder / "index", "d")) | memory()
    place = at(engine)
    if what == OURS:
        return ask(folder, lambda: place.open(folder / "place", DIGEST))
    place.remove(place._name(DIGEST))
    return load(place, folder) if what == "load" else {}


def compare(asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = (asked.folder or Path(name)) / str(asked.chunks)
        if not (folder / "truth.npy").is_file():
            ours("corpus", folder, "--chunks", str(asked.chunks))
        engines = [OURS, *(engine for engine in ENGINES if has(asked.peers, engine)), *([ENGINE] if asked.engine else [])]
        built = ours("build", folder)
        if asked.engine:
            built |= ours("load", folder, "--engine", asked.engine)
        turns = (engines[turn % len(engines) :] + engines[: turn % len(engines)] for turn in range(asked.rounds))
        rounds = [round_of(turn, folder, asked) for turn in turns]
        if asked.engine:
            ours("remove", folder, "--engine", asked.engine)
    figures = summary(built, rounds, engines)
    record(f"index-{asked.chunks}", {**figures, "rounds": [{one: rounded(of) for one, of in each.items()} for each in rounds]})
    judge(goals(figures))


def has(python: str, engine: str) -> bool:
    """Whether that Python has what the engine needs; said where not."""
    module, _ = ENGINES[engine]
    found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0
    if not found:
        print(f"{python} has no {module}, so {engine} is left out: pip install faiss-cpu usearch, then --peers PYTHON", file=sys.stderr)
    return found


def round_of(engines: list[str], folder: Path, asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The figures of each engine, one after the other."""
    script = str(ROOT / "benchmarks" / "neighbours.py")
    ways = {OURS: lambda: ours(OURS, folder), ENGINE: lambda: ours(OURS, folder, "--engine", asked.engine)}
    return {engine: ways.get(engine, lambda name=engine: run(asked.peers, script, name, str(folder)))() for engine in engines}


def ours(measure: str, folder: Path, *options: str) -> dict[str, float]:
    return run(sys.executable, "-m", "benchmarks.index", "--measure", measure, "--folder", str(folder), *options)


def run(*command: str) -> dict[str, float]:
    """What a process of one thread prints as its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
    return figures


def summary(built: dict[str, float], rounds: list[dict[str, dict[str, float]]], engines: list[str]) -> dict[str, object]:
    """The medians of the rounds; of ratios the least, the median and the largest."""
    found: dict[str, object] = {name: round(value, 3) for name, value in built.items()}
    for engine, before in ((OURS, ""), (ENGINE, f"{ENGINE}: ")):
        for name in rounds[0].get(engine, {}):
            found[before + name] = round(float(np.median([each[engine][name] for each in rounds])), 3)
    for engine in [engine for engine in engines if engine in ENGINES]:
        ratios = sorted(each[OURS]["vector: CPU p50, ms"] / each[engine]["CPU p50, ms"] for each in rounds)
        found[f"vector: CPU p50 / {engine}"] = [round(ratios[0], 3), round(float(np.median(ratios)), 3), round(ratios[-1], 3)]
    return found


def goals(figures: dict[str, object]) -> dict[str, Goal]:
    """What was reached of each goal that was measured."""
    reached = {name: float(str(value[1] if isinstance(value, list) else value)) for name, value in figures.items() if name in MOST | LEAST}
    return {name: goal(value, most=MOST.get(name), least=LEAST.get(name)) for name, value in reached.items()}


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


def make(folder: Path, size: int) -> None:
    """The corpus: `chunks.jsonl` as a snapshot has it, `vectors.f32` in the order of the ids, the questions and their exact neighbours."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(SEED)
    ids = sorted(hashlib.sha256(f"chunk {row}".encode()).hexdigest()[:20] for row in range(size))
    place = Place(draw)
    with (folder / "vectors.f32").open("wb") as file:
        for start in range(0, size, SLAB):
            file.write(place.draw(min(SLAB, size - start)).data)
    few = draw.random(size) < 0.1
    with (folder / "chunks.jsonl").open("w") as lines:
        for row, (id, text) in enumerate(zip(ids, texts(draw, size), strict=True)):
            groups = [*EVERYONE, *FEW] if few[row] else [*EVERYONE]
            head = {"id": id, "document": f"{row // 4}.md", "title": f"Manual {row // 4}", "path": ["Care"], "start": 0, "end": len(text)}
            lines.write(json.dumps({**head, "text": text, "groups": groups, "metadata": {"path": f"{row // 4}.md", "type": "md"}}) + "\n")
    questions = place.draw(QUESTIONS)
    np.save(folder / "questions.npy", questions)
    np.save(folder / "few.npy", nearest(vectors(folder), questions, np.flatnonzero(few)))
    truth = nearest(vectors(folder), questions, np.arange(size))
    chunks, pick = Chunks(folder / "chunks.jsonl"), random.Random(SEED)
    content = [[word for word in chunks[int(row[0])].text.split() if word not in STOP_WORDS] for row in truth]
    (folder / "words.json").write_text(json.dumps([" ".join(pick.sample(words, ASKED)) for words in content]))
    np.save(folder / "truth.npy", truth)


class Place:
    """Where vectors lie: clumps in a space of few directions, and how these stand in that of all dimensions."""

    def __init__(self, draw: np.random.Generator) -> None:
        self._draw = draw
        self._centres = draw.normal(size=(CLUMPS, DIRECTIONS))
        self._directions = draw.normal(size=(DIRECTIONS, DIMENSIONS)) / np.sqrt(DIMENSIONS * DIRECTIONS)

    def draw(self, count: int) -> np.ndarray:
        within = self._centres[self._draw.integers(CLUMPS, size=count)] + SPREAD * self._draw.normal(size=(count, DIRECTIONS))
        return unit(within @ self._directions + NOISE / np.sqrt(DIMENSIONS) * self._draw.normal(size=(count, DIMENSIONS)))


def unit(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def texts(draw: np.random.Generator, size: int, words: int = WORDS) -> Iterator[str]:
    vocabulary = ["".join(SYLLABLES[int(digit)] for digit in f"{rank:05d}") for rank in range(VOCABULARY)]
    share = np.cumsum(1 / np.arange(SHIFT + 1, SHIFT + VOCABULARY + 1) ** 1.07)
    habits, grammar = np.searchsorted(share / share[-1], draw.random(VOCABULARY)), sorted(STOP_WORDS)
    for start in range(0, size, SLAB):
        shape = (min(SLAB, size - start), words)
        ranks = np.searchsorted(share / share[-1], draw.random(shape))
        follows = draw.random(shape) < HABIT
        for at in range(1, words):
            ranks[:, at] = np.where(follows[:, at], habits[ranks[:, at - 1]], ranks[:, at])
        small, which = draw.random(shape) < GRAMMAR, draw.integers(len(grammar), size=shape)
        for row in range(shape[0]):
            yield " ".join(
                grammar[one] if is_small else vocabulary[rank]
                for rank, is_small, one in zip(ranks[row].tolist(), small[row].tolist(), which[row].tolist(), strict=True)
            )


def nearest(held: np.ndarray, questions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The `NEAREST` rows of each question among `rows`, best first, by exact search."""
    best = np.full((len(questions), NEAREST), -2.0, np.float32)
    found = np.zeros((len(questions), NEAREST), np.int64)
    for start in range(0, len(rows), SLAB):
        some = rows[start : start + SLAB]
        cosines = np.hstack([best, questions @ held[some].T])
        both = np.hstack([found, np.broadcast_to(some, (len(questions), len(some)))])
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :NEAREST]
        best, found = np.take_along_axis(cosines, order, 1), np.take_along_axis(both, order, 1)
    return found


def build(folder: Path) -> dict[str, float]:
    """The index stage with vectors that are there: from the snapshot's file to the published folder."""
    for name in ("index", "store"):
        shutil.rmtree(folder / name, ignore_errors=True)
    began, spent = time.perf_counter(), time.process_time()
    chunks = Chunks(folder / "chunks.jsonl")
    local.build(folder / "index", chunks, vectors(folder))
    publish(connect(str(folder / "store")), "indexes/d", folder / "index")
    took, spent = time.perf_counter() - began, time.process_time() - spent
    shutil.rmtree(folder / "store")
    size = sum(path.stat().st_size for path in (folder / "index").rglob("*") if path.is_file())
    return {
        "index stage, docs/s": len(chunks) / took,
        "index stage, docs/s of CPU": len(chunks) / spent,
        "index stage, GiB": resident("VmHWM"),
        "index, MB": size / 1e6,
    }


def at(engine: str) -> Hosted:
    """The place of indexes in a search engine."""
    place = place_at(config.Index(url=engine))
    assert isinstance(place, Hosted), f"{engine} names no search engine"
    return place


def load(place: Hosted, folder: Path) -> dict[str, float]:
    """The same stage in a search engine: until all is loaded and the index closed to writing."""
    chunks, note = Chunks(folder / "chunks.jsonl"), folder / "place"
    shutil.rmtree(note, ignore_errors=True)
    note.mkdir()
    began = time.perf_counter()
    place.build(note, DIGEST, chunks, vectors(folder))
    return {f"{ENGINE}: index stage, docs/s": len(chunks) / (time.perf_counter() - began)}


def ask(folder: Path, opened: Callable[[], Index]) -> dict[str, float]:
    """The opened index, asked by vector alone, under the filter, and with words."""
    opening = timed(lambda at: opened().close(), OPENED)
    index, questions = opened(), np.load(folder / "questions.npy")
    words, ids = json.loads((folder / "words.json").read_text()), np.load(folder / "index" / local.IDS)

    def search(at: int, groups: tuple[str, ...] = EVERYONE, text: str = "") -> list[Candidate]:
        return index.search(Query(text, questions[at], groups, NEAREST))

    def rows(at: int, groups: tuple[str, ...]) -> list[int]:
        best = sorted((one for one in search(at, groups) if one.in_dense), key=lambda one: -one.dense)
        return [int(np.searchsorted(ids, one.chunk.encode())) for one in best]

    asked = {
        "vector": timed(search, QUESTIONS),
        "vector under the filter": timed(lambda at: search(at, FEW), QUESTIONS),
        "hybrid": timed(lambda at: search(at, EVERYONE, words[at]), QUESTIONS),
        "hybrid under the filter": timed(lambda at: search(at, FEW, words[at]), QUESTIONS),
        "hybrid, 200 of each list": timed(lambda at: index.search(Query(words[at], questions[at], EVERYONE)), QUESTIONS),
        "open": opening,
    }
    return {
        "recall@10": recall(lambda at: rows(at, EVERYONE), np.load(folder / "truth.npy")),
        "recall@10 under a filter of 10 %": recall(lambda at: rows(at, FEW), np.load(folder / "few.npy")),
        **{f"{what}: {name}": value for what, figures in asked.items() for name, value in figures.items()},
    }


def memory() -> dict[str, float]:
    """Of this process, which has served."""
    return {"served, GiB": resident("VmHWM"), "served, GiB that are not mapped files": resident("RssAnon")}


def resident(kind: str) -> float:
    """GiB of this process' memory of a kind, as Linux counts it: `ru_maxrss` would count what the process was forked from."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{kind}:")]
    return int(line.split()[1]) * 1024 / GIB


if __name__ == "__main__":
    main()
