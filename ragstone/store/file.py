"""A store in a folder of this machine: `file:///srv/ragstone`.

Writes go to a temporary name beside their target, are synced, then renamed (`put`) or hard-linked (`create`, which fails when
the name is taken: POSIX's put-if-absent). Names starting with `.tmp-` are never listed, so a killed writer leaves nothing visible; what
it left is removed by the next process that writes into that folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from ragstone.errors import Conflict, NotFound, StoreError
from ragstone.key import checked
from ragstone.manifest import NAME, Manifest
from ragstone.store import Stat

TEMPORARY = ".tmp-"


def connect(url: str) -> FileStore:
    """The store at `file://<absolute path>`; the folder is made on first write."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise StoreError(f"{url} names the host {parts.netloc!r}; a file store is on this machine", f"file:///{parts.netloc}{parts.path}")
    return FileStore(Path(unquote(parts.path)))


class FileStore:
    """Objects as files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = f"file://{root}"
        self._swept = set[Path]()

    def put(self, key: str, data: bytes | Path) -> None:
        target = self._path(key)
        with self._written(target, data) as temporary:
            try:
                os.replace(temporary, target)
            except OSError as error:
                raise StoreError(f"can't write {target}: {error.strerror}") from error
        _sync_folder(target.parent)

    def create(self, key: str, data: bytes) -> None:
        target = self._path(key)
        with self._written(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError as error:
                raise Conflict(f"{key} is already in {self.url}") from error
            except OSError as error:  # a file system without hard links, say
                raise StoreError(f"can't create {target}: {error.strerror}") from error
        _sync_folder(target.parent)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        with self.open(key) as file:
            file.seek(start)
            return file.read(-1 if end is None else max(0, end - start))

    def open(self, key: str) -> BinaryIO:
        try:
            return self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFound(f"{self.url} holds no {key}") from error

    def stat(self, key: str) -> Stat | None:
        path = self._path(key)
        return Stat(key, path.stat().st_size) if path.is_file() else None

    def list(self, prefix: str) -> Iterator[Stat]:
        """Keys in the order of their bytes, as object stores list them; the names of one folder are held at a time."""
        above = prefix.rpartition("/")[0]
        start = self._path(above) if above else self.root
        for key in _keys(start, f"{above}/" if above else ""):
            if key.startswith(prefix):
                with suppress(FileNotFoundError):  # deleted since
                    status = (self.root / key).stat()
                    yield Stat(key, status.st_size, status.st_mtime)

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def folder(self, prefix: str) -> Path:
        prefix = prefix.removesuffix("/")
        folder = self._path(prefix)
        Manifest(self.get(f"{prefix}/{NAME}"), prefix, self.url).check(folder)
        return folder

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    @contextmanager
    def _written(self, target: Path, data: bytes | Path) -> Iterator[Path]:
        """The data in a synced temporary file beside `target`, gone after the block; a full disk leaves nothing behind."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._sweep(target.parent)
            file, temporary = _claimed(target.parent)
        except OSError as error:
            raise StoreError(f"can't write {target}: {error.strerror}") from error
        with file:
            try:
                _fill(file, data)
                yield temporary
            except OSError as error:
                raise StoreError(f"can't write {target}: {error.strerror}") from error
            finally:
                temporary.unlink(missing_ok=True)

    def _sweep(self, folder: Path) -> None:
        """Remove what killed writers left, once for each folder: looking into one of a million files takes long."""
        if folder in self._swept:
            return
        self._swept.add(folder)
        for entry in os.scandir(folder):
            if entry.name.startswith(TEMPORARY) and entry.is_file():
                _remove_unclaimed(Path(entry.path))


def _keys(folder: Path, above: str) -> Iterator[str]:
    """The keys below a folder, which itself is `above`; a folder's name sorts with its slash, as the keys in it do."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        names = sorted(f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries)
        for name in names:
            if name.endswith("/"):
                yield from _keys(folder / name, f"{above}{name}")
            elif not name.startswith(TEMPORARY):
                yield f"{above}{name}"


def _claimed(folder: Path) -> tuple[BinaryIO, Path]:
    """A new temporary file, locked until it is closed or its process ends: that tells it from one that a killed writer left."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
        file = os.fdopen(descriptor, "wb")
        with suppress(OSError):  # a file system without locks: nothing is swept there
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(name):
            return file, Path(name)
        file.close()  # it was swept before it was locked


def _remove_unclaimed(path: Path) -> None:
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _fill(file: BinaryIO, data: bytes | Path) -> None:
    if isinstance(data, Path):
        with data.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 20)
    else:
        file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
