"""A listing of very many keys: seconds to its first page and to its end, and whether the memory that it takes grows with the keys.

    python -m benchmarks.listing [--keys N] [--store file|s3]

Empty objects in folders of a thousand, made as files where the store keeps them: in a folder, or below a bucket of a real S3 server on
this machine (versitygw). A process of its own lists the first tenth of them, another one all. It takes an inode for each key where TMPDIR
says, and removes them at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import stores
from benchmarks.index import resident, run
from benchmarks.record import judge, record
from ragstone.bucket import PAGE
from ragstone.store import Store, connect

FOLDER = 1_000
MEMORY = "GiB at most"
MORE = 0.01
"""GiB that ten times as many keys may take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--store", choices=("file", "s3"), default="file")
    parser.add_argument("--list", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.list:
        print(json.dumps(read(connect(asked.list))))
        return
    with tempfile.TemporaryDirectory() as folder, stores.running(asked.store, Path(folder)) as made:
        tenth, whole = listings(next(made), asked.keys)
    record(f"listing-{asked.store}-{asked.keys}", {"a tenth": tenth, "all": whole})
    judge({"GiB more for ten times as many keys": (max(0.0, whole[MEMORY] - tenth[MEMORY]), 0.0, MORE)})


def listings(made: stores.Made, keys: int) -> list[dict[str, float]]:
    """What a process says that lists a tenth of the keys, and one that lists all."""
    told, tenth = [], keys // 10
    for begin, end in ((0, tenth), (tenth, keys)):
        fill(made.folder / "raw", begin, end)
        told.append(run(sys.executable, "-m", "benchmarks.listing", "--list", made.url))
    return told


def fill(root: Path, begin: int, end: int) -> None:
    """Empty objects under these numbers; made by one call each."""
    for first in range(begin, end, FOLDER):
        folder = root / f"{first // FOLDER:06}"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        for number in range(first, min(first + FOLDER, end)):
            os.mknod(f"{number:09}", stat.S_IFREG | 0o644, dir_fd=descriptor)
        os.close(descriptor)


def read(store: Store) -> dict[str, float]:
    began, first, many = time.perf_counter(), 0.0, 0
    for many, _ in enumerate(store.list("raw/"), 1):
        if many == PAGE:
            first = time.perf_counter() - began
    took = time.perf_counter() - began
    figures = {"keys": many, "keys/s": round(many / took), "first 1,000, s": round(first, 3), "all, s": round(took, 2)}
    return {**figures, MEMORY: round(resident("VmHWM"), 4)}


if __name__ == "__main__":
    main()
