"""Where everything lives: objects under keys, and one atomic primitive, put-if-absent (`create`).

A key is a relative POSIX path (`models/3f2a…/model.onnx`). Objects are written once; only `raw` staging ever deletes. A folder of
files (a snapshot, a model, an index) is published with its `manifest.json` last, so a reader sees it whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ragstone.connect import connector
from ragstone.errors import Conflict, NotFound, StoreError


@dataclass(frozen=True)
class Stat:
    """One object: its key and its size in bytes."""

    key: str
    size: int


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
        """A local folder holding the files of a published `prefix`: its own for files, a verified copy for remote stores."""


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
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)} for path in files}
    for path in files:
        store.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path)
    try:
        store.create(f"{prefix}/manifest.json", json.dumps({"files": entries}, indent=1, sort_keys=True).encode())
    except Conflict:
        return  # another process published the same content first


def published(store: Store, prefix: str) -> bool:
    """Whether `prefix` was published whole."""
    return store.stat(f"{prefix}/manifest.json") is not None


def fetch(store: Store, prefix: str) -> Path:
    """The local folder of a published prefix, every file checked by its SHA-256 (about 0.2 s for 100 MB).

    Raises `NotFound` when it was never published, `StoreError` when a file is missing, cut short or altered.
    """
    if not published(store, prefix):
        raise NotFound(f"{store.url} holds no {prefix}", "ragstone release list")
    folder = store.folder(prefix)
    entries: dict[str, dict[str, str | int]] = json.loads(store.get(f"{prefix}/manifest.json"))["files"]
    mend = f"remove {prefix} from the store, then: ragstone up"
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["size"]:
            raise StoreError(f"{prefix}/{name} is missing or cut short in {store.url}", mend)
        if sha256(path) != entry["sha256"]:
            raise StoreError(f"{prefix}/{name} is not what was published to {store.url}: its SHA-256 differs", mend)
    return folder


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
