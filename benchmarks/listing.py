"""A listing of very many keys: seconds, and what memory it takes to read it to its end.

    python -m benchmarks.listing [--keys N] [--store URL]

Empty objects are made in folders of a thousand; without --store in a folder that is removed. A process of its own then lists them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.index import resident
from benchmarks.record import ROOT, record
from ragstone.store import Store, connect

FOLDER = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--store", default="")
    parser.add_argument("--list", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.list:
        print(json.dumps(read(connect(asked.store))))
        return
    with tempfile.TemporaryDirectory() as folder:
        url = asked.store or f"file://{folder}"
        fill(url, asked.keys)
        command = [sys.executable, "-m", "benchmarks.listing", "--list", "--store", url]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    record(f"listing-{asked.keys}", json.loads(done.stdout))


def fill(url: str, keys: int) -> None:
    """Objects under numbered keys; into a folder without the store's care for power cuts, which costs a sync each."""
    names = (f"raw/{number // FOLDER:06}/{number:09}" for number in range(keys))
    if not url.startswith("file://"):
        store = connect(url)
        for name in names:
            store.put(name, b"")
        return
    root = Path(url.removeprefix("file://"))
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def read(store: Store) -> dict[str, float]:
    before, began = resident("VmRSS"), time.perf_counter()
    many = sum(1 for _ in store.list("raw/"))
    return {"keys": many, "seconds": round(time.perf_counter() - began, 2), "GiB more at most": round(resident("VmHWM") - before, 3)}


if __name__ == "__main__":
    main()
