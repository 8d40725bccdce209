"""What a published folder holds: its manifest, a folder checked against it, and a copy of it in this machine's cache. Knows no store."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ragstone.config import cache_folder
from ragstone.errors import StoreError
from ragstone.key import checked

NAME = "manifest.json"
"""Published last: a reader that finds it finds the rest."""
TEMPORARY = ".new-"
DAY = 24 * 60 * 60
"""Seconds after which an unfinished copy is one whose process was killed."""
THREADS = 4
"""Files that are copied at a time."""

Pull = Callable[[str, Path], None]
"""Called with a file's name in the published folder and where its bytes are to be written."""


@dataclass(frozen=True)
class Manifest:
    """The bytes of a `manifest.json`, the published folder that it is of, and the URL of the store that holds both."""

    data: bytes
    prefix: str
    url: str

    @cached_property
    def files(self) -> Mapping[str, tuple[int, str]]:
        """Size and SHA-256 of each file by its name. Raises `StoreError` when that is not what the manifest says."""
        try:
            entries = json.loads(self.data)["files"]
            return {checked(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, StoreError) as error:
            raise StoreError(f"{self.prefix}/{NAME} in {self.url} is no manifest", self._mend) from error

    def check(self, folder: Path) -> None:
        """Raises `StoreError`, naming the file, unless `folder` holds what was published (about 0.2 s for 100 MB)."""
        for name, (size, digest) in self.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise StoreError(f"{self.prefix}/{name} is missing or cut short in {self.url}", self._mend)
            if sha256(path) != digest:
                raise StoreError(f"{self.prefix}/{name} is not what was published to {self.url}: its SHA-256 differs", self._mend)

    @property
    def place(self) -> Path:
        """Where the folder's copy is in this machine's cache, if there is one."""
        return cache_folder() / "published" / hashlib.sha256(self.data).hexdigest()

    def copy(self, pull: Pull) -> Path:
        """The folder's checked copy in the cache, made by `pull` unless it is there.

        It is named by the manifest's digest and moved into place whole: processes may ask for it at the same time, one may be killed.
        """
        place = self.place
        if place.is_dir():
            try:
                self.check(place)
                return place
            except StoreError:  # this machine's disk lost it, not the store
                shutil.rmtree(place, ignore_errors=True)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _sweep(place.parent)
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=place.parent) as work:
                self._place(Path(work) / "whole", place, pull)
        except OSError as error:
            raise StoreError(f"can't copy {self.prefix} to {place}: {error.strerror or error}") from error
        return place

    def _place(self, folder: Path, place: Path, pull: Pull) -> None:
        for name in self.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: pull(name, folder / name), self.files))
        self.check(folder)
        (folder / NAME).write_bytes(self.data)
        try:
            folder.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was first
                raise

    @property
    def _mend(self) -> str:
        return f"remove {self.prefix} from the store, then: ragstone up"


def write(folder: Path) -> bytes:
    """The manifest of every file below `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)} for path in paths}
    return json.dumps({"files": entries}, indent=1, sort_keys=True).encode()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sweep(folder: Path) -> None:
    """Remove what killed processes left."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > DAY:
                shutil.rmtree(left, ignore_errors=True)
