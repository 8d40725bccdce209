"""What is the file store's own: URLs, and what a disk can do to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragstone.errors import StoreError
from ragstone.store import connect


def test_a_bare_path_is_a_file_store(tmp_path: Path) -> None:
    assert connect(str(tmp_path / "a folder")).url == f"file://{tmp_path / 'a folder'}"


def test_a_url_with_escapes_names_the_same_folder(tmp_path: Path) -> None:
    connect(f"file://{tmp_path}/a%20folder").put("key", b"bytes")
    assert (tmp_path / "a folder/key").read_bytes() == b"bytes"


def test_a_store_of_another_host_is_refused() -> None:
    with pytest.raises(StoreError, match=r"(?s)names the host 'srv'.*file:///srv/data"):
        connect("file://srv/data")


def test_what_a_killed_writer_left_is_not_listed(tmp_path: Path) -> None:
    store = connect(str(tmp_path))
    store.put("models/x", b"")
    (tmp_path / "models/.tmp-half").write_bytes(b"half")
    assert [stat.key for stat in store.list("")] == ["models/x"]


def test_a_folder_in_the_way_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    store = connect(str(tmp_path))
    store.put("a/b", b"")
    for key in ("a", "a/b/c"):
        with pytest.raises(StoreError, match="can't write"):
            store.put(key, b"")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b"]
