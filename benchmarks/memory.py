"""What memory a build takes at most, step by step: VmHWM of a process of its own for each.

    python -m benchmarks.memory [--chunks N] [--words N]

Documents of ten sections are written, a chunk each. `snapshot` stages and parses them; `index` builds their local index under the default
model with vectors that are drawn, so that none is encoded; `build` does all that is left in one process, as `ragstone build` does: it
stages again, finds snapshot and index, calibrates and promotes. `whole` builds the index and does all that in one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.index import SEED, SLAB, resident, run, texts
from benchmarks.record import record
from ragstone import config, draft, indexing, project
from ragstone.config import Settings
from ragstone.corpus import snapshot as snapshots
from ragstone.show import Silence
from ragstone.store import Store, connect

SECTIONS = 10
NOBODY = "openai+http://127.0.0.1:9/v1?model=none"
"""A generator that is named in the release and never asked."""
MOST = 2.0
"""GiB that a build may take."""


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
        figures = {step: measured(step, Path(name)) for step in STEPS}
    record(f"memory-{asked.chunks}", {step: {name: round(value, 3) for name, value in told.items()} for step, told in figures.items()})
    over = [step for step, told in figures.items() if told["GiB"] > MOST]
    sys.exit(f"more than {MOST:g} GiB: {', '.join(over)}" if over else 0)


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


def made(settings: Settings, at: Store) -> dict[str, float]:
    project.stage(settings, at, Silence())
    digest = project.snapshot(settings, at, Silence())
    return {"chunks": snapshots.size(at, digest).chunks, **peak()}


def indexed(settings: Settings, at: Store) -> dict[str, float]:
    digest, model = project.snapshot(settings, at, Silence()), project.base(settings, at, Silence())
    dimensions, rows = indexing.sized(at, model).dimensions, snapshots.size(at, digest).chunks
    with draft.held(settings.work_folder, indexing.named(settings, digest, model)) as place:
        for part in drawn(rows, dimensions):
            draft.Draft(place, dimensions).add(part)
    before = resident("VmHWM")
    indexing.index(settings, at, digest, model, Silence())
    return {"GiB before": before, **peak()}


def built(settings: Settings, at: Store) -> dict[str, float]:
    project.build(settings, at, Silence())
    return peak()


def whole(settings: Settings, at: Store) -> dict[str, float]:
    """With the index that is there taken away first, and what was calibrated on it."""
    for name in ("indexes", "calibrations"):
        shutil.rmtree(settings.folder / ".ragstone" / "store" / name)
    indexed(settings, at)
    return built(settings, at)


def drawn(rows: int, dimensions: int) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(SEED)
    for start in range(0, rows, SLAB):
        found = draw.normal(size=(min(SLAB, rows - start), dimensions)).astype(np.float32)
        yield found / np.linalg.norm(found, axis=1, keepdims=True)


def peak() -> dict[str, float]:
    return {"GiB": resident("VmHWM"), "GiB that are not mapped files, at the end": resident("RssAnon")}


STEPS = {"snapshot": made, "index": indexed, "build": built, "whole": whole}


if __name__ == "__main__":
    main()
