"""What memory a build takes at most, step by step: by the kernel's VmHWM, and of it what is no mapped file, looked at 50 times a second.

    python -m benchmarks.memory [--chunks N] [--words N]

Documents of ten sections are written, a chunk each. One process stages and parses them. Another does the rest as `ragstone build` does: it
builds the local index under the default model, with vectors that are drawn so that none is encoded, calibrates, and promotes a release.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.index import SEED, SLAB, resident, run, texts
from benchmarks.record import goal, judge, record
from ragstone import config, draft, indexing, project
from ragstone.config import Settings
from ragstone.corpus import snapshot as snapshots
from ragstone.show import Silence
from ragstone.store import Store, connect

SECTIONS = 10
NOBODY = "openai+http://127.0.0.1:9/v1?model=none"
"""A generator that is named in the release and never asked."""
MOST = 2.0
"""GiB that a build may take. Pages of mapped files are the system's to take back, so they count for the index alone, where they are few."""
OWN = "GiB that are not mapped files"
LOOK = 0.02
"""Seconds between two looks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=STEPS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        settings = config.load(asked.folder, {})
        print(json.dumps(STEPS[asked.measure](settings, connect(settings.store_url))))
        return
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), asked.chunks, asked.words)
        figures = {what: round(value, 3) for step in STEPS for what, value in measured(step, Path(name)).items()}
    record(f"memory-{asked.chunks}", {**figures})
    bounded = ("snapshot, GiB", "index, GiB", f"calibration and release, {OWN}")
    judge({what: goal(figures[what], most=MOST) for what in bounded})


def measured(step: str, folder: Path) -> dict[str, float]:
    return run(sys.executable, "-m", "benchmarks.memory", "--measure", step, "--folder", str(folder))


def write(folder: Path, chunks: int, words: int) -> None:
    """The project: its documents and settings."""
    (folder / "docs").mkdir()
    (folder / "ragstone.toml").write_text(f'[corpus]\nchunk_words = {words + 20}\n[serve]\nurl = "{NOBODY}"\n')
    draw = np.random.default_rng(SEED)
    some = texts(draw, chunks, words)
    for number in range(chunks // SECTIONS):
        parts = (f"## Part {number}.{part}\n\n{next(some)}." for part in range(SECTIONS))
        (folder / "docs" / f"{number}.md").write_text(f"# Manual {number}\n\n" + "\n\n".join(parts) + "\n")


def parsed(settings: Settings, at: Store) -> dict[str, float]:
    """Stage and snapshot."""
    project.stage(settings, at, Silence())
    digest = project.snapshot(settings, at, Silence())
    return {"chunks": snapshots.size(at, digest).chunks, "snapshot, GiB": resident("VmHWM")}


def built(settings: Settings, at: Store) -> dict[str, float]:
    """What `ragstone build` does with that, its vectors drawn."""
    digest, model = project.snapshot(settings, at, Silence()), project.base(settings, at, Silence())
    draw(settings, at, digest, model)
    begin = forget()
    index = most("index", lambda: indexing.index(settings, at, digest, model, Silence()))
    return {"before the index, GiB": begin, **index, **most("calibration and release", lambda: project.build(settings, at, Silence()))}


def most(step: str, work: Callable[[], object]) -> dict[str, float]:
    """What the process holds at most while it works."""
    forget()
    seen, done = [0.0], threading.Event()

    def look() -> None:
        while not done.wait(LOOK):
            seen.append(resident("RssAnon"))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        work()
    finally:
        done.set()
        watching.join()
    return {f"{step}, GiB": resident("VmHWM"), f"{step}, {OWN}": max(seen)}


def draw(settings: Settings, at: Store, digest: str, model: str) -> None:
    """The draft of the index, with a row for each chunk."""
    dimensions, rows = indexing.sized(at, model).dimensions, snapshots.size(at, digest).chunks
    with draft.held(settings.work_folder, indexing.named(settings, digest, model)) as place:
        for part in drawn(rows, dimensions):
            draft.Draft(place, dimensions).add(part)


def forget() -> float:
    """GiB that are held now: from here on VmHWM is the most of what follows."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmHWM")


def drawn(rows: int, dimensions: int) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(SEED)
    for start in range(0, rows, SLAB):
        found = draw.normal(size=(min(SLAB, rows - start), dimensions)).astype(np.float32)
        yield found / np.linalg.norm(found, axis=1, keepdims=True)


STEPS = {"snapshot": parsed, "build": built}


if __name__ == "__main__":
    main()
