"""An index in the making: what outlives a kill, who may work on it, and what others see of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from select import select

import numpy as np
import pytest

from ragstone import draft
from ragstone.draft import Draft, Progress
from ragstone.errors import IndexingError

WIDTH = 3
ROWS = np.arange(12, dtype=np.float32).reshape(4, WIDTH)
TOLD = Progress("d" * 64, "a snapshot", "a model", 4)

HOLD = """
import sys
from pathlib import Path
from ragstone import draft
with draft.held(Path(sys.argv[1]), sys.argv[2]) as folder:
    made = draft.Draft(folder, 3)
    made.tell(draft.Progress(sys.argv[2], "a snapshot", "a model", 4, 2, 10.0))
    print("held", flush=True)
    sys.stdin.readline()
    draft.remove(folder)
"""


def holding(work: Path, index: str) -> subprocess.Popen[str]:
    """A process that begins to work on the draft."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", HOLD, str(work), index]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_what_was_added_is_there_for_the_next_process(tmp_path: Path) -> None:
    Draft(tmp_path, WIDTH).add(ROWS[:2])
    again = Draft(tmp_path, WIDTH)
    assert len(again) == 2
    again.add(ROWS[2:])
    assert np.array_equal(again.vectors, ROWS)


def test_a_row_that_a_kill_cut_off_is_not_there(tmp_path: Path) -> None:
    Draft(tmp_path, WIDTH).add(ROWS)
    os.truncate(tmp_path / draft.VECTORS, 4 * WIDTH * 3 + 5)
    again = Draft(tmp_path, WIDTH)
    assert len(again) == 3
    again.add(ROWS[3:])
    assert np.array_equal(again.vectors, ROWS)


def test_without_a_row_it_is_empty(tmp_path: Path) -> None:
    assert Draft(tmp_path, WIDTH).vectors.shape == (0, WIDTH)


def test_what_a_killed_process_left_of_the_index_is_gone(tmp_path: Path) -> None:
    made = Draft(tmp_path, WIDTH)
    (made.target() / "half").write_bytes(b"half an index")
    assert list(made.target().iterdir()) == []


def test_one_process_at_a_time_works_on_a_draft_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    racing = [holding(tmp_path, TOLD.index) for _ in range(2)]
    ready, _, _ = select([process.stdout for process in racing if process.stdout], [], [], 60)
    (holder,) = [process for process in racing if process.stdout in ready]
    assert said(holder) == "held"
    assert [one.running for one in draft.progress(tmp_path)] == [True]
    holder.kill()
    (other,) = [process for process in racing if process is not holder]
    assert said(other) == "held"
    for process in racing:
        process.kill()
        process.communicate()


def test_one_that_waited_finds_a_folder_of_its_own_when_the_other_has_removed_it(tmp_path: Path) -> None:
    first = holding(tmp_path, TOLD.index)
    assert said(first) == "held"
    second = holding(tmp_path, TOLD.index)
    first.communicate("done\n", timeout=60)
    assert said(second) == "held"
    assert [one.running for one in draft.progress(tmp_path)] == [True]
    second.communicate("done\n", timeout=60)
    assert draft.progress(tmp_path) == []


def test_progress_is_there_to_read_after_the_process_is_gone(tmp_path: Path) -> None:
    process = holding(tmp_path, TOLD.index)
    assert said(process) == "held"
    process.kill()
    process.communicate()
    assert draft.progress(tmp_path) == [Progress(TOLD.index, "a snapshot", "a model", 4, 2, 10.0, running=False)]


def test_no_draft_is_no_progress(tmp_path: Path) -> None:
    assert draft.progress(tmp_path / "nowhere") == []


def test_damaged_progress_is_named(tmp_path: Path) -> None:
    with draft.held(tmp_path, TOLD.index) as folder:
        (folder / draft.PROGRESS).write_text("{}")
        with pytest.raises(IndexingError, match=r"progress\.json is damaged"):
            draft.progress(tmp_path)
