"""What no channel can be rolled back to may go, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from ragstone import collect, release, store
from ragstone.config import Settings
from ragstone.errors import IndexingError
from ragstone.store import Store
from tests import node
from tests.test_cli import ragstone
from tests.test_release import PARTS


@pytest.fixture
def at(settings: Settings) -> Store:
    return store.connect(settings.store_url)


def indexed(at: Store, folder: Path, *digests: str, note: dict[str, str] | None = None) -> list[str]:
    """Releases with an index of each digest."""
    for digest in digests:
        made = folder / digest
        made.mkdir(parents=True)
        (made / "place.json" if note else made / "ids.npy").write_text(json.dumps(note) if note else "ids")
        store.publish(at, f"indexes/{digest}", made)
    return [release.save(at, dataclasses.replace(PARTS, index=digest)) for digest in digests]


def named(at: Store, back: int | None = None) -> list[str]:
    return [one.digest for one in collect.unneeded(at, back)]


def test_only_what_a_channel_can_be_rolled_back_to_is_needed(at: Store, tmp_path: Path) -> None:
    first, second, taken_back, never, canary = indexed(at, tmp_path / "made", "i1", "i2", "i3", "i4", "i5")
    for id in (first, second, taken_back):
        release.promote(at, "production", id)
    release.promote(at, "canary", canary)
    assert named(at) == ["i4"]
    release.rollback(at, "production")
    assert named(at) == ["i3", "i4"]
    release.promote(at, "production", never)
    assert named(at) == ["i3"]


def test_how_far_a_channel_goes_back_can_be_bound(at: Store, tmp_path: Path) -> None:
    for id in indexed(at, tmp_path / "made", "i1", "i2", "i3"):
        release.promote(at, "production", id)
    assert [named(at, back) for back in (0, 1, 2)] == [["i1", "i2"], ["i1"], []]


def test_one_release_promoted_twice_is_one_step_back(at: Store, tmp_path: Path) -> None:
    first, second, third = indexed(at, tmp_path / "made", "i1", "i2", "i3")
    for id in (first, second, third, second, third):
        release.promote(at, "production", id)
    assert named(at, 1) == ["i1"]


def test_an_index_is_removed_in_the_engine_and_in_the_store(settings: Settings, at: Store, tmp_path: Path) -> None:
    with node.running({"DELETE /docs-i1": {}}) as one:
        indexed(at, tmp_path / "made", "i1", note={"url": one.url, "index": "docs-i1"})
        (found,) = collect.unneeded(at)
        assert found.place == f"docs-i1 at {one.url}"
        collect.remove(settings, at, "i1")
        assert one.asked == ["DELETE /docs-i1"]
    assert not list(at.list("indexes/"))


def test_an_index_that_the_engine_has_lost_goes_from_the_store(settings: Settings, at: Store, tmp_path: Path) -> None:
    with node.running({}) as one:
        indexed(at, tmp_path / "made", "i1", note={"url": one.url, "index": "docs-i1"})
        collect.remove(settings, at, "i1")
    assert named(at) == []


def test_what_an_engine_does_not_remove_stays_in_the_store(settings: Settings, at: Store, tmp_path: Path) -> None:
    with node.running({"DELETE /docs-i1": (403, {"error": "forbidden"})}) as one:
        indexed(at, tmp_path / "made", "i1", note={"url": one.url, "index": "docs-i1"})
        with pytest.raises(IndexingError, match="forbidden"):
            collect.remove(settings, at, "i1")
    assert store.published(at, "indexes/i1")


@pytest.mark.parametrize("name", ["*", "docs-*", "docs-i1,other", "other-i1", "_all", "docs-"])
def test_a_name_that_is_none_of_the_projects_removes_nothing(settings: Settings, at: Store, tmp_path: Path, name: str) -> None:
    with node.running({}) as one:
        indexed(at, tmp_path / "made", "i1", note={"url": one.url, "index": name})
        with pytest.raises(IndexingError, match="nothing is removed"):
            collect.remove(settings, at, "i1")
        assert one.asked == []


def test_the_command_only_names_them_until_it_is_told(at: Store, tmp_path: Path) -> None:
    first, second = indexed(at, tmp_path / "made", "i1", "i2")
    release.promote(at, "production", second)
    told = ragstone(tmp_path, "collect")
    assert told.stdout.split()[0] == "i1"
    assert "ragstone collect --delete" in told.stderr
    assert named(at) == ["i1"]
    ragstone(tmp_path, "collect", "--delete")
    assert named(at) == []
    assert store.published(at, "indexes/i2")
    assert first in release.saved(at)


NOW = 2e9
"""Later than anything that a test writes."""


def test_half_a_folder_that_nobody_wrote_to_for_long_may_go(at: Store, tmp_path: Path) -> None:
    (whole,) = indexed(at, tmp_path / "made", "i1")
    named = release.load(at, whole)
    at.put(f"models/{named.model}/model.safetensors", b"weights that a release names")
    at.put("corpora/dead/chunks.jsonl", b"chunks")
    at.put("corpora/dead/documents.jsonl", b"documents")
    at.put("indexes/i9/ids.npy", b"ids")
    assert [one.prefix for one in collect.halves(at, NOW)] == ["corpora/dead", "indexes/i9"]
    assert collect.halves(at, 1e9) == [], "what was just written may be under way"
    assert "i9" not in [one.digest for one in collect.unneeded(at)]


def test_a_half_that_was_published_meanwhile_stays(at: Store) -> None:
    at.put("corpora/late/chunks.jsonl", b"chunks")
    (half,) = collect.halves(at, NOW)
    at.put("corpora/late/manifest.json", b"{}")
    collect.remove_half(at, half)
    assert at.stat("corpora/late/chunks.jsonl")


def test_the_command_removes_halves_that_are_a_day_old(settings: Settings, at: Store, tmp_path: Path) -> None:
    at.put("corpora/dead/chunks.jsonl", b"chunks")
    at.put("corpora/fresh/chunks.jsonl", b"chunks")
    old = Path(settings.store_url.removeprefix("file://")) / "corpora/dead/chunks.jsonl"
    os.utime(old, (1e9, 1e9))
    assert "corpora/dead" in ragstone(tmp_path, "collect", "--delete").stdout
    assert [stat.key for stat in at.list("corpora/")] == ["corpora/fresh/chunks.jsonl"]
