"""What every store does. A new connector adds one line to `CONNECTORS`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ragstone.errors import Conflict, NotFound, StoreError
from ragstone.store import Stat, Store, connect, fetch, publish, published

CONNECTORS: dict[str, Callable[[pytest.FixtureRequest, Path], str]] = {
    "file": lambda request, folder: f"file://{folder / 'store'}",
    "oss": lambda request, folder: request.getfixturevalue("cloud").store(),
    "s3": lambda request, folder: request.getfixturevalue("s3").url(),
}
"""Scheme -> the URL of an empty store, given an empty folder."""


@pytest.fixture(params=CONNECTORS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "cache"))
    return connect(CONNECTORS[request.param](request, tmp_path))


def test_what_is_put_is_read_back(store: Store) -> None:
    store.put("a/b.txt", b"bytes")
    assert store.get("a/b.txt") == b"bytes"
    with store.open("a/b.txt") as stream:
        assert stream.read() == b"bytes"
    assert store.stat("a/b.txt") == Stat("a/b.txt", 5)


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.put("empty", b"")
    assert (store.get("empty"), store.stat("empty")) == (b"", Stat("empty", 0))


def test_a_file_is_streamed_in(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(3 << 20))
    store.put("big", path)
    assert store.get("big") == path.read_bytes()


def test_put_replaces(store: Store) -> None:
    store.put("a", b"a long first version")
    store.put("a", b"second")
    assert store.get("a") == b"second"


PARTS = [(0, None, b"0123456789"), (3, None, b"3456789"), (2, 5, b"234"), (8, 20, b"89"), (5, 5, b"")]


@pytest.mark.parametrize(("start", "end", "read"), PARTS)
def test_a_part_is_read_by_its_bytes(store: Store, start: int, end: int | None, read: bytes) -> None:
    store.put("digits", b"0123456789")
    assert store.get("digits", start, end) == read


def test_create_refuses_a_key_that_is_taken(store: Store) -> None:
    store.create("a", b"first")
    with pytest.raises(Conflict):
        store.create("a", b"second")
    assert store.get("a") == b"first"


def test_of_many_creators_one_wins(store: Store) -> None:
    barrier = threading.Barrier(8)
    won: list[int] = []

    def create(number: int) -> None:
        barrier.wait()
        try:
            store.create("race", str(number).encode())
        except Conflict:
            return
        won.append(number)

    for _ in range(5):
        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.get("race") == str(won.pop()).encode()
        store.delete("race")


def test_a_reader_sees_the_old_bytes_or_the_new(store: Store) -> None:
    versions = {letter * 200_000 for letter in (b"a", b"b")}
    store.put("a", b"a" * 200_000)
    done = threading.Event()

    def write() -> None:
        for _ in range(10):
            for version in versions:
                store.put("a", version)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert store.get("a") in versions
    writer.join()


def test_what_is_not_there_is_not_found(store: Store) -> None:
    store.put("folder/file", b"")
    for key in ("missing", "folder", "folder/file/below"):
        assert store.stat(key) is None
        with pytest.raises(NotFound, match=key):
            store.get(key)
        with pytest.raises(NotFound, match=key):
            store.open(key)


def test_listing_is_by_prefix_and_sorted_by_bytes(store: Store) -> None:
    keys = ["a/b/1", "a/b/10", "a/b/2", "a/b-x/1", "a/bé", "b/1"]
    for key in keys:
        store.put(key, key.encode())
    under = sorted((key for key in keys if key.startswith("a/b")), key=str.encode)
    assert [stat.key for stat in store.list("a/b")] == under
    assert [stat.key for stat in store.list("a/b/")] == ["a/b/1", "a/b/10", "a/b/2"]
    assert [stat.size for stat in store.list("a/b/")] == [5, 6, 5]
    assert [stat.key for stat in store.list("")] == sorted(keys, key=str.encode)
    assert list(store.list("none/")) == []


def test_deleting_is_final_and_may_be_repeated(store: Store) -> None:
    store.put("a", b"")
    store.delete("a")
    store.delete("a")
    assert store.stat("a") is None


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../outside", "a/../../outside", "a\0b", ".", "a//b", "a/./b", "a/"])
def test_what_is_no_key_is_refused(store: Store, key: str) -> None:
    for act in (lambda: store.put(key, b""), lambda: store.create(key, b""), lambda: store.get(key), lambda: store.delete(key)):
        with pytest.raises(StoreError, match="not a key"):
            act()


def test_listing_does_not_leave_the_store(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"")
    with pytest.raises(StoreError, match="not a key"):
        list(store.list("../"))


def test_a_write_that_fails_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        store.put("a", tmp_path / "missing")
    assert list(store.list("")) == []


def test_a_folder_is_published_whole(store: Store, tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "one").write_bytes(b"1")
    (made / "deep/two").write_bytes(b"22")
    assert not published(store, "models/x")
    publish(store, "models/x", made)
    publish(store, "models/x", made)
    folder = fetch(store, "models/x")
    assert (folder / "one").read_bytes() == b"1"
    assert (folder / "deep/two").read_bytes() == b"22"


def test_without_its_manifest_nothing_is_published(store: Store) -> None:
    store.put("models/x/one", b"1")
    assert not published(store, "models/x")
    with pytest.raises(NotFound):
        fetch(store, "models/x")


def test_a_published_folder_that_lost_a_part_is_an_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"123")
    publish(store, "models/x", tmp_path)
    store.put("models/x/one", b"12")
    with pytest.raises(StoreError, match=r"models/x/one is missing or cut short"):
        fetch(store, "models/x")
    store.delete("models/x/one")
    with pytest.raises(StoreError, match="missing"):
        fetch(store, "models/x")


def test_a_published_file_that_was_altered_is_an_error_even_at_the_same_size(store: Store, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"123")
    publish(store, "models/x", tmp_path)
    store.put("models/x/one", b"124")
    with pytest.raises(StoreError, match=r"models/x/one is not what was published"):
        fetch(store, "models/x")


def test_a_manifest_that_names_a_file_outside_is_an_error(store: Store) -> None:
    store.put("models/x/manifest.json", b'{"files": {"../../outside": {"size": 1, "sha256": "0"}}}')
    with pytest.raises(StoreError, match=r"models/x/manifest\.json .* is no manifest"):
        fetch(store, "models/x")


def test_two_connections_see_the_same_store(store: Store) -> None:
    store.put("a", b"1")
    assert connect(store.url).get("a") == b"1"


def test_a_listing_says_when_an_object_was_written(store: Store) -> None:
    began = time.time()
    store.put("a", b"1")
    (stat,) = store.list("")
    assert began - 60 < stat.at < time.time() + 60


def test_keys_sort_by_their_bytes_whatever_folders_they_are_in(store: Store) -> None:
    keys = ["a-b", "a/b/c", "a.b", "a0", "b/é", "b/z"]
    for key in keys:
        store.put(key, b"1")
    assert [stat.key for stat in store.list("")] == sorted(keys, key=str.encode)
