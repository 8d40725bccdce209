"""Long commands as others see them: under way, ended, killed, stopped, one at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragstone import runs
from ragstone.errors import Conflict, TrainError
from ragstone.runs import Runs
from ragstone.show import Silence
from tests.origins import until

HOLD = """
import sys
from pathlib import Path
from ragstone import runs
from ragstone.show import Silence

class Loud(Silence):
    def say(self, text):
        print(text, flush=True)

with runs.kept(Path(sys.argv[1]), "train", Loud()) as (show, ended):
    with show.bar("mine", 7):
        print("begun", flush=True)
        sys.stdin.read()
    ended.result = {"verdict": "good"}
"""


@contextmanager
def process(work: Path, detached: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, which ends once its standard input does."""
    command = [sys.executable, "-c", HOLD, str(work)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=detached) as made:
        try:
            yield made
        finally:
            made.kill()


def line(made: subprocess.Popen[str]) -> str:
    assert made.stdout
    return made.stdout.readline().strip()


def end(made: subprocess.Popen[str]) -> int:
    assert made.stdin
    made.stdin.close()
    return made.wait(60)


def test_what_was_told_last_is_written_before_a_long_pause(tmp_path: Path) -> None:
    seen = Runs(tmp_path, tmp_path)
    with runs.kept(tmp_path, "build", Silence()) as (show, _), show.bar("parse", 3) as advance:
        show.failed("a.pdf", "is no PDF")
        advance(1, 3, "b.pdf")
        until(lambda: seen.all("build")[0].note == "b.pdf")
        (run,) = seen.all("build")
        assert (run.done, run.total, run.failures) == (1, 3, ({"path": "a.pdf", "reason": "is no PDF"},))
    assert seen.all("build")[0].note == ""


def test_a_run_is_seen_from_outside_and_its_result_outlives_it(tmp_path: Path) -> None:
    seen = Runs(tmp_path, tmp_path)
    with process(tmp_path) as made:
        assert line(made) == "begun"
        (run,) = seen.all("train")
        assert (run.state, run.pid, run.stage, run.total) == ("running", made.pid, "mine", 7)
        assert end(made) == 0
    (run,) = Runs(tmp_path, tmp_path).all("train")
    assert (run.state, run.result) == ("done", {"verdict": "good"})


def test_a_killed_run_is_not_taken_for_one_under_way(tmp_path: Path) -> None:
    with process(tmp_path) as made:
        assert line(made) == "begun"
        made.kill()
        made.wait(60)
    assert [run.state for run in Runs(tmp_path, tmp_path).all("train")] == ["killed"]


def test_a_run_is_stopped_from_outside(tmp_path: Path) -> None:
    seen = Runs(tmp_path, tmp_path)
    with process(tmp_path) as made:
        assert line(made) == "begun"
        stopped = seen.stop("train")
        assert stopped
        assert stopped.pid == made.pid
        assert made.wait(60) != 0
    assert [run.state for run in seen.all("train")] == ["stopped"]
    assert seen.stop("train") is None


@pytest.mark.parametrize("end", ["raise ImportError('initialization failed') from None", "advance(1)", "pass"])
def test_a_stop_that_other_code_swallowed_still_stops(tmp_path: Path, end: str) -> None:
    program = f"""
import signal
from pathlib import Path
from ragstone import runs
from ragstone.show import Silence
with runs.kept(Path({str(tmp_path)!r}), "train", Silence()) as (show, ended):
    with show.bar("mine", 7) as advance:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            {end}
    with show.bar("next", 7):
        ended.result = "it went on"
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode != 0
    assert [(run.state, run.result) for run in Runs(tmp_path, tmp_path).all("train")] == [("stopped", None)]


def test_one_that_ends_while_it_is_looked_at_is_not_taken_for_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Runs(tmp_path, tmp_path)
    with process(tmp_path) as made:
        assert line(made) == "begun"
        monkeypatch.setattr(runs, "is_held", lambda folder: end(made) == 1)
        assert [run.state for run in seen.all("train")] == ["done"]


def test_what_an_origin_began_is_ended_with_it_and_what_a_person_began_is_not(tmp_path: Path) -> None:
    with process(tmp_path / "own", detached=True) as own, process(tmp_path / "theirs") as theirs:
        assert line(own) == line(theirs) == "begun"
        for work in (tmp_path / "own", tmp_path / "theirs"):
            runs.end_detached(work)
        assert own.wait(60) != 0
        assert end(theirs) == 0


def test_a_second_run_waits_for_the_end_of_the_first(tmp_path: Path) -> None:
    with process(tmp_path) as first:
        assert line(first) == "begun"
        with process(tmp_path) as second:
            assert "waiting for its end" in line(second)
            assert end(first) == 0
            assert line(second) == "begun"
            assert end(second) == 0
    later, earlier = Runs(tmp_path, tmp_path).all("train")
    assert (later.pid, earlier.pid) == (second.pid, first.pid)
    assert later.began >= earlier.seen


def test_none_is_started_beside_one_under_way(tmp_path: Path) -> None:
    with process(tmp_path) as made:
        assert line(made) == "begun"
        with pytest.raises(Conflict, match=f"process {made.pid}"):
            Runs(tmp_path, tmp_path).start("train", [])


def test_a_command_that_ended_before_it_could_write_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    seen = Runs(tmp_path / "work", tmp_path)
    assert seen.start("train", ["--minutes", "many"]).state == "running"
    until(lambda: seen.all("train")[0].state == "failed")
    assert "--minutes" in seen.all("train")[0].error


def test_a_failure_is_kept_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(TrainError), runs.kept(tmp_path, "train", Silence()):
        raise TrainError("there are no pairs to train on")
    assert [(run.state, run.error) for run in Runs(tmp_path, tmp_path).all("train")] == [("failed", "there are no pairs to train on")]


def test_of_many_figures_some_are_kept_from_the_first_to_the_newest(tmp_path: Path) -> None:
    with runs.kept(tmp_path, "train", Silence()) as (show, _), show.bar("train") as advance:
        for step in range(5_000):
            advance(step, 5_000, figures={"loss": 1.0})
    curve = Runs(tmp_path, tmp_path).all("train")[0].curve
    assert runs.POINTS / 2 <= len(curve) <= runs.POINTS
    assert (curve[0]["step"], curve[-1]["step"] > 4_900) == (0, True)


def test_only_the_last_runs_are_remembered(tmp_path: Path) -> None:
    for number in range(runs.KEPT + 3):
        with runs.kept(tmp_path, "train", Silence()) as (_, ended):
            ended.result = number
    assert [run.result for run in Runs(tmp_path, tmp_path).all("train")] == list(range(runs.KEPT + 2, 2, -1))
