"""Where everything lives: objects under keys, and one atomic primitive, put-if-absent (`create`).

A key is a relative POSIX path (`models/3f2a…/model.onnx`). Objects are written once; `raw` staging deletes, and what
collects indexes that no release needs. A folder of
files (a snapshot, a model, an index) is published with its `manifest.json` last, so a reader sees it whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from ragstone import manifest
from ragstone.connect import connector
from ragstone.errors import Conflict, NotFound
from ragstone.key import Stat as Stat
from ragstone.manifest import sha256 as sha256


class Store(Protocol):
    """What every store does; `tests/conformance/test_store.py` is the contract."""

    url: str

    def put(self, key: str, data: bytes | Path) -> None:
        """Write the object, atomically: a reader sees the old bytes or the new, never a part. A `Path` is streamed from disk."""

    def create(self, key: str, data: bytes) -> None:
        """Write the object only if the key is free, atomically among all writers. Raises `Conflict` when it is not."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes `[start, end)` of the object. Raises `NotFound`."""

    def open(self, key: str) -> BinaryIO:
        """The object as a readable stream, for what does not fit in memory. Raises `NotFound`."""

    def stat(self, key: str) -> Stat | None:
        """The object's size, or None when there is none."""

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every object whose key starts with `prefix`, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove the object; no error when there is none."""

    def folder(self, prefix: str) -> Path:
        """A local folder holding the files of a published `prefix`, each checked: its own for files, a copy in the cache for buckets."""


def connect(url: str) -> Store:
    """The store behind `url`; a bare path means `file://`."""
    if "://" not in url:
        url = f"file://{Path(url).resolve()}"
    store: Store = connector("store", url).connect(url)
    return store


def publish(store: Store, prefix: str, folder: Path) -> None:
    """Put every file of `folder` under `prefix`, then create `prefix/manifest.json` naming each file's size and SHA-256.

    Only the manifest makes the prefix visible to `published`. Publishing what is already there is not an error.
    """
    if published(store, prefix):
        return
    data = manifest.write(folder)
    for name in manifest.Manifest(data, prefix, store.url).files:
        store.put(f"{prefix}/{name}", folder / name)
    with suppress(Conflict):  # another process published the same content first
        store.create(f"{prefix}/{manifest.NAME}", data)


def published(store: Store, prefix: str) -> bool:
    """Whether `prefix` was published whole."""
    return store.stat(f"{prefix}/{manifest.NAME}") is not None


def fetch(store: Store, prefix: str) -> Path:
    """The local folder of a published prefix, every file checked by its SHA-256 (about 0.2 s for 100 MB).

    Raises `NotFound` when it was never published, `StoreError` when a file is missing, cut short or altered.
    """
    if not published(store, prefix):
        raise NotFound(f"{store.url} holds no {prefix}", "ragstone release list")
    return store.folder(prefix)
