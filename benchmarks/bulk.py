"""Loading a real OpenSearch node through Ragstone, beside its own client's `parallel_bulk`: chunks a second.

    python -m benchmarks.bulk URL [--chunks N] [--peers PYTHON] [--rounds N] [--folder FOLDER]

URL is `opensearch://host:9200/name`; `python -m tests.engines up` prints that of a node on loopback, over http. The corpus is that of
`benchmarks.index`: clustered vectors with texts. Ragstone is given chunks and vectors and analyses the words as it goes, as
`ragstone index` does. The peer is given the documents that come of it, ready, and sends them in bodies of the same size. Both load an index
of the same mapping, one after the other, the first to go changing by round, each in a process of its own, until all can be found.
PYTHON has opensearch-py; every index is removed again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson

from benchmarks.index import make
from benchmarks.neighbours import vectors
from benchmarks.record import ROOT, goal, judge, record
from ragstone import config, mapping
from ragstone.cluster import BODY
from ragstone.corpus.snapshot import Chunks
from ragstone.index import opensearch

OURS, PEER = "ragstone", "parallel_bulk"
SHARE = 0.8
"""Of the peer's pace, to be reached."""
DOCUMENTS, CREATION = "documents.jsonl", "creation.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.load:
        print(json.dumps(load(asked.folder, asked.url)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = (asked.folder or Path(name)) / f"bulk-{asked.chunks}"
        prepare(folder, asked.chunks, asked.url)
        rounds = [compare(folder, asked.url, asked.peers, turn) for turn in range(asked.rounds)]
    ratios = sorted(one[OURS] / one[PEER] for one in rounds)
    ratio = f"{OURS} / {PEER}"
    medians = {f"{name}, chunks/s": round(float(np.median([one[name] for one in rounds])), 1) for name in (OURS, PEER)}
    record(f"bulk-{asked.chunks}", {**medians, ratio: [round(one, 2) for one in ratios]})
    judge({f"{ratio}, median": goal(float(np.median(ratios)), least=SHARE)})


def prepare(folder: Path, chunks: int, url: str) -> None:
    """The corpus, its documents as they are sent, and the index that they go to."""
    if not (folder / "truth.npy").is_file():
        make(folder, chunks)
    held, given = Chunks(folder / "chunks.jsonl"), vectors(folder)
    with (folder / DOCUMENTS).open("wb") as file:
        file.writelines(line.partition(b"\n")[2] for line in mapping.lines(held, given.__getitem__))
    asked = opensearch.connect(config.Index(url=url))._creation("peer", "peer", given.shape[1])
    (folder / CREATION).write_bytes(orjson.dumps(asked.body))


def compare(folder: Path, url: str, peers: str, turn: int) -> dict[str, float]:
    """Chunks a second of both."""
    there = url.replace("opensearch://", "http://").replace("opensearch+", "").rpartition("/")[0]
    ways = {
        OURS: [sys.executable, "-m", "benchmarks.bulk", url, "--load", "--folder", str(folder)],
        PEER: [peers, str(ROOT / "benchmarks" / "loader.py"), there, str(folder), str(BODY)],
    }
    order = [OURS, PEER] if turn % 2 == 0 else [PEER, OURS]
    return {name: run(ways[name]) for name in order}


def run(command: list[str]) -> float:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def load(folder: Path, url: str) -> float:
    """Chunks a second through Ragstone."""
    place, chunks = opensearch.connect(config.Index(url=url)), Chunks(folder / "chunks.jsonl")
    with tempfile.TemporaryDirectory() as note:
        began = time.perf_counter()
        place.build(Path(note), "bulk", chunks, vectors(folder))
        took = time.perf_counter() - began
    place.remove(place._name("bulk"))
    return len(chunks) / took


if __name__ == "__main__":
    main()
