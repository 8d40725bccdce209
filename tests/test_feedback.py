"""Feedback in the store: written once, in the order of time, and read as labels where it may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ragstone import config, project, store
from ragstone.corpus import feedback, labels
from ragstone.corpus.feedback import Feedback
from ragstone.show import Silence
from tests.test_project import Lines

SAID = Feedback(1795000000.25, "r-0a1b2c3d4e5f", "How long is the pump primed?", "9f2c", ("c1",), "up", "k-1", ("public",), consent=True)


def test_what_is_kept_is_read_in_the_order_of_time_and_the_same_twice_is_once(tmp_path: Path) -> None:
    opened = store.connect(f"file://{tmp_path}")
    later = replace(SAID, at=SAID.at + 1, verdict="down")
    for one in (later, SAID, SAID):
        feedback.keep(opened, one)
    assert [row["verdict"] for _, row in feedback.rows(opened)] == ["up", "down"]


def test_what_is_kept_and_a_file_of_its_lines_are_the_same_labels(tmp_path: Path) -> None:
    opened = store.connect(f"file://{tmp_path}/store")
    said = [SAID, replace(SAID, question="Why?", consent=False), replace(SAID, groups=("public", "staff"))]
    for one in said:
        feedback.keep(opened, one)
    file = tmp_path / "feedback.jsonl"
    file.write_text("".join(f"{one.line}\n" for one in said))
    kept, read = labels.read([], feedback.rows(opened)), labels.read([file])
    assert kept.labels == read.labels
    assert [(found.withheld, found.confined) for found in (kept, read)] == [(1, 1)] * 2
    assert [label.question for label in kept.labels] == [SAID.question]


def test_a_run_reads_feedback_only_when_it_is_told_to(settings: config.Settings, manuals: Path) -> None:
    opened = store.connect(settings.store_url)
    project.build(settings, opened, Silence())
    hit = project.retrieve(settings, opened, SAID.question, ("public",), None, 1)[0]
    feedback.keep(opened, replace(SAID, hits=(hit.chunk.id, "gone")))
    silent, told = Lines(), Lines()
    project.train(settings, opened, silent, promote=False)
    project.train(config.override(settings, "train", feedback=True), opened, told, promote=False)
    assert not [line for line in silent.lines if line.startswith("labels")]
    assert any("1 questions with 2 answers" in line for line in told.lines), told.lines
    assert any("'gone'" in line for line in told.lines), told.lines
