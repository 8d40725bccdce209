"""What a published folder holds, and its copies in this machine's cache."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ragstone import manifest
from ragstone.errors import StoreError
from ragstone.manifest import Manifest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/published"


@pytest.fixture
def published(tmp_path: Path) -> Manifest:
    folder = tmp_path / "made"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/one").write_bytes(b"123")
    return Manifest(manifest.write(folder), "models/x", "s3://bucket")


def pull(name: str, path: Path) -> None:
    path.write_bytes(b"123")


def cut_short(path: Path) -> None:
    path.write_bytes(b"12")


def test_a_copy_that_is_not_what_was_published_is_not_kept(published: Manifest, cache: Path) -> None:
    with pytest.raises(StoreError, match="models/x/deep/one is missing or cut short in s3://bucket"):
        published.copy(lambda name, path: cut_short(path))
    assert list(cache.iterdir()) == []


def test_what_killed_processes_left_is_removed_after_a_day(published: Manifest, cache: Path) -> None:
    old, young = cache / ".new-old", cache / ".new-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 2 * manifest.DAY,) * 2)
    assert (published.copy(pull) / "deep/one").read_bytes() == b"123"
    assert not old.exists()
    assert young.exists()


def test_a_cache_that_can_not_be_written_is_named(published: Manifest, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"a file")
    with pytest.raises(StoreError, match="can't copy models/x"):
        published.copy(pull)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"files": {"../out": {"size": 1, "sha256": "0"}}}', b'{"files": {"a": {"size": "x"}}}'])
def test_what_is_no_manifest_is_an_error_of_the_store(data: bytes) -> None:
    with pytest.raises(StoreError, match="is no manifest"):
        Manifest(data, "models/x", "s3://bucket").check(Path())
