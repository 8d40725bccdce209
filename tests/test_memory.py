"""What indexing and calibration hold of a corpus: not more of a larger one, but for a few bytes a chunk."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ragstone import calibrate, config, draft, encoding, index, indexing, project, store
from ragstone.config import Settings
from ragstone.corpus import snapshot as snapshots
from ragstone.show import Silence
from ragstone.store import Store
from tests.tiny import WIDTH, tiny

FEW, MANY, EACH = 30, 150, 20
"""Documents of the small corpus and of the large one, and chunks of each."""
PLACE = 400
"""Bytes that a chunk may cost, beside what is bounded: its id and where it stands. Its text and what Python makes of it are 4,000."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held at a time is less than the small corpus."""
    monkeypatch.setattr(encoding, "FIRST", 100)
    monkeypatch.setattr(encoding, "MOST", 100)
    monkeypatch.setattr(index, "SLAB", 100)
    monkeypatch.setattr(calibrate, "SAMPLE", 100)


def corpus(folder: Path, base: Path, documents: int) -> tuple[Settings, Store, str, str]:
    """A project of so many documents, all its vectors drawn: its settings and store, the digests of its snapshot and model."""
    (folder / "docs").mkdir(parents=True)
    for number in range(documents):
        parts = (f"## Part {number}.{row}\n\n" + f"Pump {number * EACH + row} is fitted to valve {row}. " * 40 for row in range(EACH))
        (folder / "docs" / f"{number}.md").write_text(f"# Manual {number}\n\n" + "\n\n".join(parts))
    (folder / "ragstone.toml").write_text(f'[corpus]\nchunk_words = 400\n[train]\nbase = "{base}"\n')
    settings = config.load(folder, {})
    at = store.connect(settings.store_url)
    project.stage(settings, at, Silence())
    return settings, at, project.snapshot(settings, at, Silence()), project.base(settings, at, Silence())


def peak(work: Callable[[], object]) -> int:
    """Bytes that the work held at most beyond what there was."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def measured(folder: Path, base: Path, documents: int) -> dict[str, int]:
    """The peaks of the steps by their names, and how many chunks there were."""
    settings, at, snapshot, model = corpus(folder, base, documents)
    told = snapshots.size(at, snapshot)
    with draft.held(settings.work_folder, digest := indexing.named(settings, snapshot, model)) as place:
        vectors = np.random.default_rng(documents).normal(size=(told.chunks, WIDTH)).astype(np.float32)
        draft.Draft(place, WIDTH).add(vectors)
    peaks = {
        "snapshot": peak(lambda: project.snapshot(settings, at, Silence())),
        "index": peak(lambda: indexing.index(settings, at, snapshot, model, Silence())),
        "calibrate": peak(lambda: project.calibrate(settings, at, snapshot, model, digest, Silence())),
    }
    return peaks | {"chunks": told.chunks}


def test_neither_indexing_nor_calibration_holds_more_of_a_larger_corpus(tmp_path: Path) -> None:
    base = tiny(tmp_path / "tiny")
    small, large = (measured(tmp_path / f"{documents}", base, documents) for documents in (FEW, MANY))
    more = large["chunks"] - small["chunks"]
    assert more > 2000
    for step in ("snapshot", "index", "calibrate"):
        assert large[step] < small[step] + PLACE * more, step
