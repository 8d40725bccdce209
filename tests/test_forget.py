"""Forgetting a document: where it was is said, it is nowhere afterwards, what can't be taken out is named, and it does not come back."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ragstone import config, forget, manifest, project, release, runs
from ragstone import store as stores
from ragstone.corpus import feedback, stage
from ragstone.corpus.feedback import Feedback
from ragstone.errors import CorpusError, ReleaseError
from ragstone.show import Advance, Silence
from tests.origins import Site, site
from tests.speaker import Speaker

SAID = b"ninety seconds"
"""Words of the document that is forgotten."""


@pytest.fixture(scope="module")
def house(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a vote, a verdict and a model that all speak of the document."""
    folder = tmp_path_factory.mktemp("house")
    at = site(folder, speaker.url)
    store, made = at.store, release.load(at.store, release.resolve(at.store, "production"))
    (hit, *_) = project.retrieve(at.settings, store, "How long is the feed pump primed?", ("public",))
    feedback.keep(store, Feedback(time.time(), made.id, "How long?", "a" * 64, (hit.chunk.id,), "up", "k", ("public",), True))
    feedback.keep(store, Feedback(time.time(), made.id, "Which torque?", "b" * 64, ("c" * 20,), "up", "k", ("public",), True))
    changes = [{"question": "primed for ninety seconds", "document": "pump.md"}, {"question": "85 newton metres", "document": "valve.md"}]
    store.create("verdicts/one.json", json.dumps({"verdict": {"changes": changes}, "model": "m" * 64, "at": 0}).encode())
    store.create(f"models/{'m' * 64}/report.json", json.dumps({"snapshot": made.snapshot, "changes": changes[1:]}).encode())
    store.create(f"models/{'m' * 64}/{manifest.NAME}", b'{"files": {}}')
    return folder


@pytest.fixture
def at(house: Path, tmp_path: Path) -> Site:
    """A copy of it, to be changed."""
    shutil.copytree(house, tmp_path / "house")
    settings = config.load(tmp_path / "house", {})
    return Site(settings, stores.connect(settings.store_url))


def everything(at: Site) -> dict[str, bytes]:
    return {stat.key: at.store.get(stat.key) for stat in at.store.list("")}


def found(at: Site, question: str) -> list[str]:
    return [hit.chunk.document for hit in project.retrieve(at.settings, at.store, question, ("public",))]


def test_a_look_names_every_place_and_changes_nothing(at: Site) -> None:
    before = everything(at)
    told = forget.report(at.settings, at.store, ["pump.md"])
    assert everything(at) == before
    assert (told.forgotten, told.groups, told.source, len(told.contents)) == (False, ("public",), ("pump.md",), 1)
    assert (len(told.snapshots), len(told.indexes), told.releases) == (1, 1, (release.resolve(at.store, "production"),))
    assert (told.feedback, told.questions, dict(told.channels)) == (1, 1, {"production": ""})
    assert [one.model for one in told.models] == ["m" * 64]
    assert any("the weights of model mmmmmmmmmmmm" in one for one in told.stays)


def test_what_is_forgotten_is_nowhere_in_the_store_and_all_else_is_found(at: Site) -> None:
    assert "pump.md" in found(at, "priming the feed pump")
    old = release.resolve(at.store, "production")
    told = forget.forget(at.settings, at.store, ["pump.md"], Silence(), grace=0)
    assert told.channels["production"] == release.resolve(at.store, "production") != old
    assert not [key for key, data in everything(at).items() if SAID in data]
    assert "pump.md" not in found(at, "priming the feed pump")
    assert found(at, "torque of the bonnet")[0] == "valve.md"
    assert [row["question"] for _, row in feedback.rows(at.store)] == ["Which torque?"]
    assert not stores.published(at.store, f"indexes/{told.indexes[0]}")


def test_the_successor_differs_in_its_documents_alone_and_the_old_release_is_withdrawn(at: Site) -> None:
    old = release.resolve(at.store, "production")
    forget.forget(at.settings, at.store, ["pump.md"], Silence(), grace=0)
    new = release.load(at.store, release.resolve(at.store, "production"))
    assert {part for part, _, _ in release.diff(release.load(at.store, old), new)} <= {"snapshot", "index", "calibration"}
    with pytest.raises(ReleaseError, match="withdrawn"):
        release.promote(at.store, "production", old)
    with pytest.raises(ReleaseError, match="no release before"):
        release.rollback(at.store, "production")
    assert old not in release.reachable(at.store)


def test_answers_that_edges_keep_are_made_anew(at: Site) -> None:
    began = int(time.time() * 1000) / 1000
    forget.forget(at.settings, at.store, ["pump.md"], Silence(), grace=0)
    assert release.purged(at.store, "production") >= began


def test_a_canary_without_the_document_keeps_its_share_and_one_with_it_gets_a_successor(at: Site) -> None:
    old = release.resolve(at.store, "production")
    other = release.save(at.store, twin(at, old))
    release.canary(at.store, "production", other, 20)
    forget.forget(at.settings, at.store, ["pump.md"], Silence(), grace=0)
    record = release.current(at.store, "production")
    assert record
    assert [*record.canary.values()] == [20]
    assert {record.release, *record.canary}.isdisjoint({old, other})
    assert release.load(at.store, next(iter(record.canary))).prompt.endswith(" ")


def twin(at: Site, id: str) -> release.Release:
    made = release.load(at.store, id)
    return replace(made, prompt=made.prompt + " ")


def test_it_is_not_staged_again_under_its_name_or_another_until_that_is_undone(at: Site) -> None:
    forget.forget(at.settings, at.store, ["pump.md"], Silence(), grace=0)
    shutil.copyfile(at.docs / "pump.md", at.docs / "copy.md")
    listing = stage.stage(at.store, at.docs)
    assert not {"pump.md", "copy.md"} & {*listing.files}
    assert {failure.path for failure in listing.failures} == {"pump.md", "copy.md"}
    assert not [key for key, data in everything(at).items() if SAID in data]
    forget.undo(at.store, ["pump.md"])
    assert {"pump.md", "copy.md"} <= {*stage.stage(at.store, at.docs).files}
    with pytest.raises(CorpusError, match="was not forgotten"):
        forget.undo(at.store, ["pump.md"])


class Broken(Silence):
    """Somebody presses Ctrl-C while the successor's index is built."""

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[Advance]:
        if label == "index":
            raise KeyboardInterrupt
        yield lambda done, total=None, note="", left=None, figures=None: None


def test_a_run_that_was_interrupted_is_typed_again_and_ends_the_same(at: Site) -> None:
    old = release.resolve(at.store, "production")
    with pytest.raises(KeyboardInterrupt):
        forget.forget(at.settings, at.store, ["pump.md"], Broken(), grace=0)
    assert release.resolve(at.store, "production") == old
    assert "pump.md" in found(at, "priming the feed pump"), "it is served whole until the successor is"
    forget.forget(at.settings, at.store, ["pump.md"], Silence(), grace=0)
    assert not [key for key, data in everything(at).items() if SAID in data]


def test_nothing_is_forgotten_that_was_never_there_or_while_training_reads_it(at: Site) -> None:
    with pytest.raises(CorpusError, match=r"nothing\.md was never staged"):
        forget.forget(at.settings, at.store, ["nothing.md"], Silence(), grace=0)
    before = everything(at)
    with runs.kept(at.settings.work_folder, "train", Silence()), pytest.raises(CorpusError, match="training run is reading"):
        forget.forget(at.settings, at.store, ["pump.md"], Silence(), grace=0)
    assert everything(at) == before
