"""The pipeline over real documents with the real base model: what each step makes, finds again and refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from ragstone import config, project, release, store
from ragstone.config import Settings
from ragstone.corpus import labels
from ragstone.corpus.snapshot import load as load_snapshot
from ragstone.errors import CorpusError, TrainError
from ragstone.show import Silence
from ragstone.store import Store
from tests.events import scalars
from tests.reranker import reranking
from tests.speaker import speaking
from tests.tiny import tiny


class Lines(Silence):
    """What the pipeline says, kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def opened(settings: Settings) -> Store:
    return store.connect(settings.store_url)


def test_a_folder_becomes_a_release_in_force(settings: Settings, opened: Store, manuals: Path) -> None:
    made = project.build(settings, opened, Silence())
    record = release.current(opened, "production")
    assert record is not None
    assert record.release == made.id
    snapshot = load_snapshot(opened, made.snapshot)
    assert {document.id for document in snapshot.documents} == {"pump.md", "valve.md", "boiler.html", "crew/rota.txt"}
    hits = project.retrieve(settings, opened, "How long is the pump primed?", ("public",), None, 3)
    assert hits[0].chunk.document == "pump.md"


def test_an_unchanged_folder_makes_nothing_new(settings: Settings, opened: Store, manuals: Path) -> None:
    first = project.build(settings, opened, Silence())
    before = [stat.key for stat in opened.list("")]
    assert project.build(settings, opened, Silence()).id == first.id
    assert [stat.key for stat in opened.list("")] == before


def test_an_edit_and_a_deletion_reach_the_next_release(settings: Settings, opened: Store, manuals: Path) -> None:
    first = project.build(settings, opened, Silence())
    (manuals / "valve.md").unlink()
    (manuals / "pump.md").write_text("# Feed pump\n\nPrime the feed pump for two hundred seconds before it is started.\n")
    second = project.build(settings, opened, Silence())
    assert second.id != first.id
    assert second.model == first.model
    hits = project.retrieve(settings, opened, "How long is the pump primed?", ("public",), None, 20)
    assert "two hundred seconds" in hits[0].chunk.text
    assert "valve.md" not in {hit.chunk.document for hit in hits}


def test_only_what_changed_is_encoded_again(settings: Settings, opened: Store, manuals: Path) -> None:
    project.build(settings, opened, Silence())
    (manuals / "extra.md").write_text("# Deaerator\n\nThe deaerator drives oxygen out of the feed water.\n")
    said = Lines()
    release = project.build(settings, opened, said)
    assert any("1 of them encoded" in line for line in said.lines), said.lines
    hits = project.retrieve(settings, opened, "How long is the pump primed?", ("public",), None, 3)
    assert hits[0].chunk.document == "pump.md"
    assert release.id == project.build(settings, opened, Silence()).id


def test_going_back_to_an_earlier_folder_goes_back_to_its_release(settings: Settings, opened: Store, manuals: Path) -> None:
    first = project.build(settings, opened, Silence())
    text = (manuals / "pump.md").read_text()
    (manuals / "pump.md").write_text("# Feed pump\n\nNothing is known of it any more.\n")
    project.build(settings, opened, Silence())
    (manuals / "pump.md").write_text(text)
    assert project.build(settings, opened, Silence()).id == first.id
    assert [record.number for record in release.history(opened, "production")] == [1, 2, 3]


def test_a_release_that_was_rolled_back_is_not_promoted_by_the_next_build(settings: Settings, opened: Store, manuals: Path) -> None:
    first = project.build(settings, opened, Silence())
    (manuals / "pump.md").write_text("# Feed pump\n\nA wrong edition that somebody rolls back.\n")
    second = project.build(settings, opened, Silence())
    release.rollback(opened, "production")
    said = Lines()
    assert project.build(settings, opened, said).id == first.id
    assert any(second.id in line and "rolled back" in line for line in said.lines)


def test_another_setting_is_another_release_over_the_same_index(settings: Settings, opened: Store, manuals: Path) -> None:
    first = project.build(settings, opened, Silence())
    second = project.build(config.override(settings, "retrieve", top_k=2), opened, Silence())
    assert second.id != first.id
    assert replace(second, retrieval=first.retrieval, note="").id == first.id


def test_a_file_that_cannot_be_parsed_is_named_and_skipped(settings: Settings, opened: Store, manuals: Path) -> None:
    (manuals / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    said = Lines()
    project.build(settings, opened, said)
    assert any("broken.pdf" in line for line in said.lines)


def test_strict_makes_it_fatal(settings: Settings, opened: Store, manuals: Path) -> None:
    (manuals / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    with pytest.raises(CorpusError, match=r"broken\.pdf"):
        project.build(config.override(settings, "corpus", strict=True), opened, Silence())
    assert release.current(opened, "production") is None


@pytest.mark.parametrize("content", [None, b""], ids=["an empty folder", "a folder of empty files"])
def test_a_folder_without_a_document_says_so(settings: Settings, opened: Store, tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "docs").mkdir()
    if content is not None:
        (tmp_path / "docs" / "a.md").write_bytes(content)
    with pytest.raises(CorpusError):
        project.build(settings, opened, Silence())
    assert release.current(opened, "production") is None


def test_a_tiny_corpus_keeps_the_base_model_and_says_so(settings: Settings, opened: Store, manuals: Path) -> None:
    first = project.build(settings, opened, Silence())
    verdict = project.train(settings, opened, Silence())
    assert not verdict.promoted
    assert "the base model stays" in str(verdict)
    assert verdict.reason
    record = release.current(opened, "production")
    assert record is not None
    assert record.release == first.id
    assert project.train(settings, opened, Silence()) == verdict


def test_a_verdict_is_kept_for_what_was_demanded_of_it(settings: Settings, opened: Store, manuals: Path) -> None:
    project.build(settings, opened, Silence())
    for changed in (settings, config.override(settings, "train", fusion=False), config.override(settings, "train", margin=0.1), settings):
        project.train(changed, opened, Silence())
    assert len(list(opened.list("verdicts/"))) == 3


@pytest.mark.slow
def test_a_model_that_passes_the_gate_is_put_in_force_once_and_stays_back_when_rolled_back(
    settings: Settings, opened: Store, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    for name, text in sorted(topics.items())[:45]:
        (tmp_path / "docs" / f"{name.lower()}.txt").write_text(text)
    lenient = config.override(settings, "train", margin=-1.0, guard=1.0, minutes=0.05, epochs=1)  # whatever training gives passes
    first = project.build(lenient, opened, Silence())

    verdict = project.train(lenient, opened, Silence(), promote=False)
    assert verdict.promoted, verdict
    (model,) = {stat.key.split("/")[1] for stat in opened.list("models/")} - {first.model}
    report = json.loads((store.fetch(opened, f"models/{model}") / "report.json").read_bytes())
    assert (report["promoted"], report["incumbent"], report["questions"]) == (True, first.model, verdict.questions)
    assert {guard["guard"] for guard in report["guards"]} >= {"general", "negation"}
    assert all(change["question"] and change["before"] != change["after"] for change in report["changes"])
    assert [point["step"] for point in report["curve"]] == list(range(1, len(report["curve"]) + 1))
    assert [record.release for record in release.history(opened, "production")] == [first.id]

    assert project.train(lenient, opened, Silence()) == verdict
    record = release.current(opened, "production")
    assert record is not None
    now = release.load(opened, record.release)
    assert (now.model, now.snapshot, now.note) == (model, first.snapshot, str(verdict))
    assert project.retrieve(lenient, opened, "How are integers compared?", ("public",), None, 3)

    release.rollback(opened, "production")
    project.train(lenient, opened, Silence())
    assert project.build(lenient, opened, Silence()).id == first.id
    assert len(release.history(opened, "production")) == 3


PARTS = ["rotor", "gasket", "flange", "nozzle", "impeller", "casing", "sleeve", "coupling"]


@pytest.fixture
def labelled(settings: Settings, tmp_path: Path) -> Settings:
    """Forty short documents, four questions of people about each, and settings under which whatever training gives passes."""
    (tmp_path / "docs").mkdir()
    records = []
    for unit in range(40):
        part = f"{PARTS[unit % 8]} of unit {unit}"
        text = f"# Unit {unit}\n\nThe {part} is replaced after {unit + 11} months and weighs {unit} kg.\n"
        (tmp_path / "docs" / f"unit-{unit}.md").write_text(text)
        asked = [f"When is the {part} due?", f"How heavy is the {part}?", f"{part} interval", f"mass of the {part} in kg"]
        records += [{"question": question, "document": f"unit-{unit}.md", "thumb": "up"} for question in asked]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return config.override(settings, "train", pairs=("log.jsonl",), margin=-1.0, minutes=0.02, epochs=1, log="tensorboard:runs")


@pytest.mark.slow
def test_labels_train_and_judge_and_the_model_names_them(labelled: Settings, opened: Store, tmp_path: Path) -> None:
    first = project.build(labelled, opened, Silence())
    said = Lines()
    verdict = project.train(labelled, opened, said)
    assert (verdict.promoted, verdict.kind, verdict.questions, verdict.margin) == (True, "labelled", 60, -1.0)
    assert "on held-out labelled questions" in str(verdict)
    assert any(line.startswith("labels    160 questions with 160 answers") for line in said.lines), said.lines
    (model,) = {stat.key.split("/")[1] for stat in opened.list("models/")} - {first.model}
    card = json.loads((store.fetch(opened, f"models/{model}") / "card.json").read_bytes())
    assert card["lineage"]["recipe"]["labels"] == labels.read([tmp_path / "log.jsonl"]).digest

    (run,) = (tmp_path / "runs").iterdir()
    curves = scalars(run)
    assert [step for step, _ in curves["loss"]] == list(range(1, len(curves["loss"]) + 1))
    assert [value for _, value in curves["verdict/gain"]] == pytest.approx([verdict.gain])

    assert project.train(labelled, opened, Silence()) == verdict
    assert scalars(run) == curves
    before = {stat.key for stat in opened.list("verdicts/")}
    (tmp_path / "log.jsonl").write_text("")
    assert "held-out questions" in project.train(labelled, opened, Silence()).reason  # the documents alone are too few
    assert len({stat.key for stat in opened.list("verdicts/")} - before) == 1


def overlap(question: str, passages: Sequence[str]) -> list[float]:
    """How many of the question's words each passage has."""
    asked = set(question.lower().split())
    return [0.01 + 0.98 * len(asked & set(passage.lower().split())) / len(asked) for passage in passages]


def paraphrase(asked: str) -> str:
    """A question that a passage answers, made of a few of its words and of some that it lacks."""
    words = re.findall("[a-z]{6,}", asked.split("Write one short question")[0].split("Passage:")[1])
    return f"Could somebody kindly elucidate {' '.join(words[5:11])} to novices, thoroughly?" if len(words) > 11 else ""


@pytest.mark.slow
def test_a_named_teacher_and_written_questions_train_and_the_model_names_both(settings: Settings, opened: Store, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name, text in sorted(topics.items())[:45]:
        (tmp_path / "docs" / f"{name.lower()}.txt").write_text(text)
    with speaking() as speaker, reranking(overlap) as server:
        speaker.reply = paraphrase
        named = {"teacher": server.url, "questions": speaker.url, "questions_most": 40, "base": str(tiny(tmp_path / "base"))}
        lenient = config.override(settings, "train", margin=-1.0, guard=1.0, minutes=0.02, **named)
        project.build(lenient, opened, Silence())
        server.faults = [(401, {}, b"{}")] * 4
        with pytest.raises(TrainError, match="RAGSTONE_TRAIN_TEACHER_KEY"):
            project.train(lenient, opened, Silence())
        assert len(speaker.asked) == 40
        server.faults, said = [], Lines()
        verdict = project.train(lenient, opened, said)
        assert len(speaker.asked) == 40  # they were kept
        scored = len(server.asked)
        assert project.train(lenient, opened, Silence()) == verdict
        assert len(server.asked) == scored

    assert not list((tmp_path / ".ragstone" / "work").iterdir())
    (written,) = (line for line in said.lines if line.startswith("questions "))
    assert int(re.findall(r"questions (\d+) of 40", written)[0]) > 10
    assert len({asked["query"] for asked in server.asked if asked["query"].startswith("Could somebody kindly")}) > 10
    named_by = f"http://127.0.0.1:{server.port}/v1/rerank judge"
    assert any(line.startswith(f"teacher   {named_by} puts the right passage first for ") for line in said.lines)
    recipes = [json.loads(opened.get(stat.key))["lineage"].get("recipe") for stat in opened.list("models/") if "card.json" in stat.key]
    assert {(recipe["teacher"], len(recipe["questions"])) for recipe in recipes if recipe} == {(named_by, 64)}


def test_labels_that_can_not_be_used_are_named_and_strict_makes_them_fatal(settings: Settings, opened: Store, manuals: Path) -> None:
    project.build(settings, opened, Silence())
    (settings.folder / "pairs.csv").write_text("question,document\nHow long is it primed?,pump.md\nWho?,lost.md\n,pump.md\n")
    with_pairs = config.override(settings, "train", pairs=("pairs.csv",))
    said = Lines()
    assert not project.train(with_pairs, opened, said).promoted
    assert "labels    1 labels can't be used: pairs.csv:4 has no question" in said.lines
    assert "labels    1 labels can't be used: pairs.csv:3 the corpus has no chunk, document or passage 'lost.md'" in said.lines
    with pytest.raises(TrainError, match=r"pairs\.csv:4 has no question"):
        project.train(config.override(with_pairs, "corpus", strict=True), opened, Silence())


def test_groups_of_the_settings_reach_the_chunks(settings: Settings, opened: Store, manuals: Path) -> None:
    rules = (config.GroupRule("crew/*", ("crew",)),)
    project.build(config.override(settings, "corpus", groups=rules), opened, Silence())
    question = "Who leads the night crew?"
    assert "crew/rota.txt" not in {hit.chunk.document for hit in project.retrieve(settings, opened, question, ("public",), None, 20)}
    assert project.retrieve(settings, opened, question, ("crew",), None, 20)[0].chunk.document == "crew/rota.txt"


def test_cp_names_the_store_by_its_raw_folder() -> None:
    assert project.store_of_raw("file:///srv/store/raw") == "file:///srv/store"
    assert project.store_of_raw("s3://b/x/raw/?region=r", "s3://b/y?region=other") == "s3://b/x?region=r"
    assert project.store_of_raw("s3://b/x/raw/", "s3://b/y?region=r") == "s3://b/x?region=r"
    assert project.store_of_raw("s3://b/x/raw/", "s3://another?region=r") == "s3://b/x"
    with pytest.raises(CorpusError, match="is not the raw/ folder"):
        project.store_of_raw("file:///srv/store/documents")


@pytest.mark.slow
def test_a_build_that_is_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path, manuals: Path) -> None:
    command = [sys.executable, "-m", "ragstone", "build", str(manuals)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    interrupted.mkdir()
    whole.mkdir()
    for seconds in (0.8, 1.6, 2.4, 3.2, 4.0):
        process = subprocess.Popen(command, cwd=interrupted, env=environment, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        opened = store.connect(config.load(interrupted, {}).store_url)
        for digest in {stat.key.split("/")[1] for stat in opened.list("indexes/") if stat.key.endswith("manifest.json")}:
            store.fetch(opened, f"indexes/{digest}")
        for record in release.history(opened, "production"):
            release.load(opened, record.release)


    def finish(folder: Path) -> str:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout

    assert finish(interrupted) == finish(whole)
