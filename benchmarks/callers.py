"""Callers over plain sockets, which cost the machine little, and the processor time of whom they ask."""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

NUMBER = b"00000000"
"""Where a request says this, each call says a number of its own: no two ask the same."""
CHAT = "/v1/chat/completions"


@dataclass
class Load:
    """What came of many calls: the seconds of each."""

    took: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """Seconds until the first bytes of the body."""


@dataclass
class Line:
    """One connection, and the answer that comes on it."""

    connection: socket.socket
    began: float = 0.0
    first: float = 0.0
    seen: bytes = b""

    def ask(self, request: bytes, number: int) -> None:
        self.seen, self.first = b"", 0.0
        self.began = time.perf_counter()
        self.connection.sendall(request.replace(NUMBER, b"%08d" % number))

    def read(self, must: bytes) -> bool:
        """Whether the answer is whole. Raises `RuntimeError` on one that is no 200, or does not say what it must."""
        part = self.connection.recv(1 << 18)
        self.seen += part
        head, gap, body = self.seen.partition(b"\r\n\r\n")
        if not part or (gap and not (head.startswith(b"HTTP/1.1 200") and must in head.lower())):
            raise RuntimeError(f"an answer without {must!r}: {self.seen[:500]!r}")
        if body and not self.first:
            self.first = time.perf_counter()
        return bool(gap) and _whole(head.lower(), body)


def _whole(head: bytes, body: bytes) -> bool:
    _, told, rest = head.partition(b"content-length: ")
    return len(body) >= int(rest.split(b"\r\n")[0]) if told else body.endswith(b"0\r\n\r\n")


def request(url: str, body: Mapping[str, object], headers: Mapping[str, str], path: str = CHAT) -> bytes:
    """The bytes of a POST."""
    data = json.dumps(body).encode()
    named = {"host": urlsplit(url).netloc, "content-type": "application/json", **headers, "content-length": str(len(data))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join([*lines, "", ""]).encode() + data


def load(url: str, data: bytes, *, seconds: float = 0, calls: int = 0, callers: int = 1, must: bytes = b"", first: int = 0) -> Load:
    """Each caller asks as soon as its answer is whole, over one connection, for so many seconds or calls; numbers begin at `first`."""
    found, ends = Load(), time.perf_counter() + seconds if seconds else float("inf")
    numbers = iter(range(first, first + calls)) if calls else iter(range(first, 10**8))
    with ExitStack() as held, selectors.DefaultSelector() as waiting:
        for _ in range(callers):
            line = Line(held.enter_context(_connected(url)))
            waiting.register(line.connection, selectors.EVENT_READ, line)
            _next(line, data, numbers, waiting)
        while waiting.get_map():
            for key, _ in _told(waiting):
                _answer(key.data, data, numbers if time.perf_counter() < ends else iter(()), waiting, found, must)
    return found


def _told(waiting: selectors.BaseSelector) -> list[tuple[selectors.SelectorKey, int]]:
    """Who has something to read. Raises `RuntimeError` when nobody has for a minute."""
    if not (told := waiting.select(60)):
        raise RuntimeError("no answer in 60 s")
    return told


def _answer(line: Line, data: bytes, numbers: Iterator[int], waiting: selectors.BaseSelector, found: Load, must: bytes) -> None:
    if line.read(must):
        found.took.append(time.perf_counter() - line.began)
        found.first.append(line.first - line.began)
        _next(line, data, numbers, waiting)


def _next(line: Line, data: bytes, numbers: Iterator[int], waiting: selectors.BaseSelector) -> None:
    number = next(numbers, None)
    if number is None:
        waiting.unregister(line.connection)
    else:
        line.ask(data, number)


def _connected(url: str) -> socket.socket:
    connection = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port or 80), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def spent(process: int) -> float:
    """Seconds of processor time that a process and all below it have spent."""
    fields = _stat(process)
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0
    return own + sum(spent(child) for child in below(process))


def below(process: int) -> list[int]:
    """The processes that it started and that run."""
    numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [number for number in numbers if (fields := _stat(number)) and int(fields[1]) == process]


def _stat(process: int) -> list[str]:
    """What the kernel says of it, from its state on; nothing when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return []
