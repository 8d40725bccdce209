"""What stores in buckets share: the URL, keys, ranges as a stream, patience with a service that fails for a while. Knows no service."""

from __future__ import annotations

import io
import itertools
import random
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from ragstone.connect import is_here
from ragstone.errors import ConfigError, Conflict, NotFound, StoreError
from ragstone.key import Stat, checked
from ragstone.manifest import NAME, Manifest

CHUNK = 8 << 20
"""Bytes of a part that is sent, and of a range that is read ahead: what is done again when a connection is lost."""
PARTS = 9_000
"""Parts of an object at most; both services take 10,000."""
PAGE = 1000
"""Objects of one page of a listing at most; both services give no more."""
PATIENCE = 180.0
"""Seconds that a call is tried for while the service fails. Signatures and short-lived keys last five minutes and more."""
FIRST = 15.0
"""The same, for the first call of all: an endpoint that never answered is more likely a wrong one than one that recovers."""
PAUSES = 0.1, 5.0
"""Seconds of the first pause between two tries, and of the longest."""
WRITER = "ragstone-writer"
"""Metadata of an object that was created: a number that its writer drew, to know it by when the answer was lost."""

T = TypeVar("T")


class Unsure(StoreError):
    """The call may have done its work or not; it may be tried again."""


@dataclass(frozen=True)
class Place:
    """Where in which bucket a store is: what its URL says.

    >>> read("s3://bucket/a/b?region=eu-central-1").prefix
    'a/b'
    """

    url: str
    bucket: str
    prefix: str = ""
    region: str = ""
    endpoint: str = ""
    """The service's address, where it is not the region's own."""

    def key(self, key: str) -> str:
        """The name in the bucket of a key of the store."""
        return f"{self.prefix}/{key}" if self.prefix else key


def read(url: str) -> Place:
    """What `<scheme>://<bucket>/<prefix>?region=…&endpoint=…` says. `insecure=true` lets the endpoint be `http://` on another machine.

    Raises `ConfigError` on what it can't mean.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    insecure = options.pop("insecure", "false") == "true"
    if unknown := sorted(set(options) - {"region", "endpoint"}):
        raise ConfigError(f"project.store has no option {unknown[0]!r} for a bucket; there are endpoint, insecure, region")
    if parts.username or parts.password:
        raise ConfigError("project.store holds a key: it would be logged", f"{parts.scheme}://<bucket>, and the key in the environment")
    if not parts.netloc:
        raise ConfigError(f"{url} names no bucket", f"{parts.scheme}://<bucket>/<prefix>")
    address = urlsplit(options.get("endpoint", "https://"))
    if address.scheme not in ("http", "https"):
        raise ConfigError(f"{options['endpoint']!r} in project.store is no endpoint", "endpoint=https://host")
    if address.scheme == "http" and not is_here(address.hostname) and not insecure:
        raise ConfigError(f"{options['endpoint']} is not encrypted", f"https://{address.netloc}, or insecure=true in project.store")
    return Place(url, parts.netloc, unquote(parts.path).strip("/"), **options)


def part_size(size: int) -> int:
    """Bytes of the parts that a file of `size` bytes is sent in.

    >>> part_size(1) == CHUNK, part_size(PARTS * CHUNK * 3) == 3 * CHUNK
    (True, True)
    """
    return CHUNK * max(1, -(-size // (PARTS * CHUNK)))


def patiently(act: Callable[[], T], seconds: float) -> T:
    """What `act` returns, tried again with growing pauses for so long as it is `Unsure`."""
    until, pause = time.monotonic() + seconds, PAUSES[0]
    while True:
        try:
            return act()
        except Unsure:
            if time.monotonic() + pause > until:
                raise
        time.sleep(random.uniform(pause / 2, pause))  # not all that failed together try again together
        pause = min(2 * pause, PAUSES[1])


class Bucket(ABC):
    """A store in a bucket, as far as services do not differ. A connector says how its service does each thing once, given checked keys."""

    def __init__(self, place: Place) -> None:
        self.place, self.url = place, place.url
        self._met = False

    @abstractmethod
    def _look(self) -> None:
        """One cheap call that fails as the others would, but with the reason: the answer to a HEAD has none."""

    @abstractmethod
    def _put(self, key: str, data: bytes | Path) -> None: ...

    @abstractmethod
    def _create(self, key: str, data: bytes, writer: str) -> None:
        """Create the object with `WRITER` in its metadata, asking once. Raises `Conflict` when it is there, `Unsure` without an answer."""

    @abstractmethod
    def _writer(self, key: str) -> str:
        """Who created the object."""

    @abstractmethod
    def _get(self, key: str, start: int, end: int | None) -> bytes:
        """The bytes of a range that is not empty; none where it begins after the end."""

    @abstractmethod
    def _stat(self, key: str) -> Stat | None: ...

    @abstractmethod
    def _page(self, folder: str, after: str) -> tuple[Sequence[Stat], bool]:
        """Up to `PAGE` objects below the folder, sorted by key, that follow the key `after`; and whether there are more."""

    @abstractmethod
    def _delete(self, key: str) -> None: ...

    def put(self, key: str, data: bytes | Path) -> None:
        key = checked(key)
        self._meet()

        def once() -> None:
            if isinstance(data, Path) and not data.is_file():
                raise StoreError(f"can't read {data}: No such file")
            self._put(key, data)

        patiently(once, PATIENCE)

    def create(self, key: str, data: bytes) -> None:
        key = checked(key)
        self._meet()
        writer, tries = uuid.uuid4().hex, itertools.count()

        def once() -> None:
            again = next(tries) > 0
            try:
                self._create(key, data, writer)
            except Conflict:  # with ourselves, when the answer to an earlier try was lost
                if not again or self._writer(key) != writer:
                    raise

        patiently(once, PATIENCE)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        key = checked(key)
        self._meet()
        if end is not None and end <= start:
            self._size(key)
            return b""
        return patiently(lambda: self._get(key, start, end), PATIENCE)

    def open(self, key: str) -> BinaryIO:
        key = checked(key)
        return io.BufferedReader(_Ranges(self.get, key, self._size(key)), CHUNK)

    def stat(self, key: str) -> Stat | None:
        key = checked(key)
        self._meet()
        return patiently(lambda: self._stat(key), PATIENCE)

    def list(self, prefix: str) -> Iterator[Stat]:
        """Keys in the order of their bytes, as the service lists them; the empty objects that other tools make for folders are none."""
        folder = prefix.rpartition("/")[0]
        if folder:
            checked(folder)
        self._meet()
        return (stat for stat in self._pages(folder) if stat.key.startswith(prefix) and not stat.key.endswith("/"))

    def delete(self, key: str) -> None:
        key = checked(key)
        self._meet()
        patiently(lambda: self._delete(key), PATIENCE)

    def folder(self, prefix: str) -> Path:
        prefix = checked(prefix.removesuffix("/"))
        return Manifest(self.get(f"{prefix}/{NAME}"), prefix, self.url).copy(lambda name, path: self._pull(f"{prefix}/{name}", path))

    def absent(self, key: str) -> NotFound:
        """The error that says so."""
        return NotFound(f"{self.url} holds no {key}")

    def _pages(self, folder: str) -> Iterator[Stat]:
        after, more = "", True
        while more:
            page, more = patiently(partial(self._page, folder, after), PATIENCE)
            yield from page
            after = page[-1].key if page else after

    def _pull(self, key: str, path: Path) -> None:
        try:
            with self.open(key) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
        except NotFound as error:
            raise StoreError(f"{key} is missing or cut short in {self.url}") from error

    def _size(self, key: str) -> int:
        found = self.stat(key)
        if found is None:
            raise self.absent(key)
        return found.size

    def _meet(self) -> None:
        """Ask something once before anything else: what is wrong with the URL or the keys is said at once, and in words."""
        if not self._met:
            patiently(self._look, FIRST)
            self._met = True


class _Ranges(io.RawIOBase):
    """An object as a file that is read by ranges: a lost connection costs one of them."""

    def __init__(self, get: Callable[[str, int, int], bytes], key: str, size: int) -> None:
        self._get, self._key, self._size, self._at = get, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # narrower than "any buffer"
        read = self._next(len(buffer))
        buffer[: len(read)] = read
        return len(read)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self._next(CHUNK), b""))

    def _next(self, most: int) -> bytes:
        end = min(self._at + most, self._size)
        read = self._get(self._key, self._at, end) if self._at < end else b""
        self._at += len(read)
        return read
