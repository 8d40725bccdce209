"""Requests as lines of JSON in a file that several processes append to. What was asked or answered, and API keys, never come here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import orjson

from ragstone.errors import ConfigError

MOST = 64 << 20
"""Bytes after which a file becomes `<name>.1`, in place of the one before it."""
EACH = 1024
"""Lines between two looks at its size."""
TOGETHER = 256
"""Lines that are written in one call at most."""
LAST = 10
"""Lines that are shown of what was there before."""


class AccessLog:
    """Appends to `path`. A disk that takes nothing more costs lines, not requests."""

    def __init__(self, path: Path, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        """`later` calls what it is given a moment later: then the lines of that moment are written together. Else each is by itself."""
        self._path, self._later = path, later
        self._waiting: list[bytes] = []
        self._lines = 0
        self._second = (0, "")
        self._file = _opened(path)

    def add(self, fields: Mapping[str, object]) -> None:
        """One request."""
        self._waiting.append(orjson.dumps({"at": self._now(), **fields}, option=orjson.OPT_APPEND_NEWLINE))
        if self._later is None or len(self._waiting) >= TOGETHER:
            self._write()
        elif len(self._waiting) == 1:
            self._later(self._write)

    def close(self) -> None:
        """What is added later goes nowhere."""
        self._write()
        file, self._file = self._file, -1
        os.close(file)

    def _write(self) -> None:
        lines, self._waiting = self._waiting, []
        with suppress(OSError):
            if self._lines <= 0:
                self._turn()
                self._lines = EACH
            self._lines -= len(lines)
            os.write(self._file, b"".join(lines))  # one call: lines of several processes do not mix

    def _now(self) -> str:
        """ISO 8601, to the millisecond; a second is written once, since writing one costs as much as a look into the cache."""
        second, thousandths = divmod(time.time_ns() // 1_000_000, 1000)
        if second != self._second[0]:
            self._second = (second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
        return f"{self._second[1]}.{thousandths:03d}+00:00"

    def _turn(self) -> None:
        """Begin a new file when this one is full, unless another process has done so: then go on with that."""
        mine = os.fstat(self._file)
        if mine.st_size < MOST:
            return
        with suppress(FileNotFoundError):
            if self._path.stat().st_ino == mine.st_ino:
                os.replace(self._path, f"{self._path}.1")
        before, self._file = self._file, _opened(self._path)
        os.close(before)


def follow(path: Path, wait: float = 0.5) -> Iterator[str]:
    """The last lines of the file, then each one as it comes, for ever; also when the file is begun anew, or is not there yet."""
    node, at, rest = 0, 0, b""
    while True:
        with suppress(FileNotFoundError), path.open("rb") as file:
            now = os.fstat(file.fileno()).st_ino
            if now != node:
                first, node, at, rest = not node, now, 0, b""
                if first and (kept := file.read().splitlines(keepends=True)[-LAST:]):
                    at = file.tell() - sum(map(len, kept))
            file.seek(at)
            *lines, rest = (rest + file.read()).split(b"\n")
            at = file.tell()
            yield from (line.decode(errors="replace") for line in lines)
        time.sleep(wait)


def check(path: Path) -> None:
    """Raises `ConfigError` when no line can be written there."""
    try:
        os.close(_opened(path))
    except OSError as error:
        raise ConfigError(f"edge.log = {path} can't be written: {error.strerror}", "RAGSTONE_EDGE_LOG= turns it off") from error


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
