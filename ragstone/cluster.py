"""A cluster of search engines over HTTP: JSON in, JSON out, and bulk loading at the pace that it sets. It knows no index.

A client of our own, because the official one brings requests, protobuf and more with it, and all that is needed of it is this.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
import urllib3

from ragstone.errors import IndexingError

BODY = 4 << 20
"""Bytes of a bulk request: many engines' proxies take no more than 10 MiB, and a refused one is sent again."""

ABREAST = 2
"""Bodies on their way at a time: an engine works at each with one thread of a shard's."""

LINES = "application/x-ndjson"

BUSY = (429, 502, 503, 504)
"""The statuses that may be gone at the next try."""


@dataclass(frozen=True)
class Patience:
    """Seconds: to connect, for one answer, before the first retry, between two of them at most."""

    connect: float = 5.0
    read: float = 60.0
    backoff: float = 0.5
    longest: float = 30.0
    tries: int = 3
    """How often something is asked in all: somebody may be waiting for it."""
    loads: int = 8
    """How often a part of a load is sent in all: nobody waits, and what was done would be lost."""


@dataclass(frozen=True)
class Request:
    """A request as a value: it can be sent, and shown to a person beforehand."""

    method: str
    path: str
    body: object = None
    why: str = ""
    busy: tuple[int, ...] = ()
    """Statuses besides `BUSY` that may be gone at the next try."""

    def at(self, url: str) -> str:
        """What a person reads: why, the address, and the body."""
        body = self.body if isinstance(self.body, bytes) else b"" if self.body is None else packed(self.body)
        return f"# {self.why}\n{self.method} {url}{self.path}\n{str(body, 'utf-8')}".rstrip()


class Cluster:
    """The HTTP client of one cluster: JSON in, JSON out. Safe to use from several threads."""

    def __init__(self, kind: str, url: str, user: str, password: str, ca: str = "", patience: Patience = Patience()) -> None:
        self.url = url
        self._kind = kind
        self._patience = patience
        self._headers = {**(urllib3.make_headers(basic_auth=f"{user}:{password}") if user else {}), "accept": "application/json"}
        timeout = urllib3.Timeout(connect=patience.connect, read=patience.read)
        self._pool = urllib3.PoolManager(maxsize=16, timeout=timeout, ca_certs=ca or None)

    def ask(self, method: str, path: str, body: object = None, *, missing: bool = False) -> Any:
        """The answer's JSON; None for a 404 where something may be missing. Raises `IndexingError`."""
        return self._send(method, path, b"" if body is None else packed(body), "application/json", self._patience.tries, missing)

    def send(self, request: Request, *, missing: bool = False) -> Any:
        """The same for a request that is a value."""
        body = b"" if request.body is None else packed(request.body)
        tries = self._patience.loads if request.busy else self._patience.tries
        return self._send(request.method, request.path, body, "application/json", tries, missing, request.busy)

    def lines(self, path: str, body: bytes) -> Any:
        """The same for JSON lines that are posted."""
        return self._send("POST", path, body, LINES, self._patience.tries)

    def greet(self, path: str = "/") -> Any:
        """What the node says of itself, asked once: that nobody is there is told at once."""
        return self._send("GET", path, b"", "application/json", 1)

    def load(self, index: str, lines: Iterable[bytes], body: int = BODY) -> None:
        """Send bulk lines, a few bodies abreast, and again what the engine was too busy for: it sets the pace.

        The next body is made while these are on their way, and waits for the oldest of them.
        """
        with ThreadPoolExecutor(ABREAST) as pool:
            sent: deque[Future[None]] = deque()
            for batch in _batches(lines, body):
                if len(sent) == ABREAST:
                    sent.popleft().result()
                sent.append(pool.submit(self._insist, index, batch))
            for one in sent:
                one.result()

    def _insist(self, index: str, batch: Sequence[bytes]) -> None:
        left = self._push(index, batch)
        for turn in range(1, self._patience.loads):
            if not left:
                return
            time.sleep(min(self._patience.longest, self._patience.backoff * 2 ** (turn - 1)))
            left = self._push(index, left)
        if left:
            busy = f"{self._kind} at {self.url} refused {len(left)} chunks {self._patience.loads} times: too busy"
            raise IndexingError(busy, "ragstone build")

    def _push(self, index: str, batch: Sequence[bytes]) -> list[bytes]:
        """What of the batch the engine was too busy to take."""
        return _left(self._send("POST", f"/{index}/_bulk", b"".join(batch), LINES, self._patience.loads), batch)

    def close(self) -> None:
        self._pool.clear()

    def _send(self, method: str, path: str, body: bytes, media: str, tries: int, missing: bool = False, busy: tuple[int, ...] = ()) -> Any:
        headers = {**self._headers, "content-type": media}
        try:
            response = self._pool.request(method, self.url + path, body=body or None, headers=headers, retries=self._retries(tries, busy))
        except urllib3.exceptions.HTTPError as error:
            raise IndexingError(f"{self._kind} at {self.url} can't be reached: {_cause(error)}", "start it, or set index.url") from error
        if response.status == 404 and missing:
            return None
        if response.status >= 300:
            asked = f"{method} {path.partition('?')[0]}"
            hint = "set RAGSTONE_INDEX_USER and RAGSTONE_INDEX_PASSWORD of a user who may" if response.status in (401, 403) else ""
            raise IndexingError(f"{self._kind} at {self.url} answered {response.status} to {asked}: {reason(response.data)}", hint)
        try:
            return orjson.loads(response.data)
        except ValueError as error:
            raise IndexingError(f"{self.url} answered with something that is not JSON: it is not {self._kind}") from error

    def _retries(self, tries: int, busy: tuple[int, ...]) -> urllib3.Retry:
        """Any request may be sent twice: ids are given, and what is there is never overwritten."""
        return urllib3.Retry(
            tries - 1,
            redirect=False,
            allowed_methods=None,
            status_forcelist=BUSY + busy,
            backoff_factor=self._patience.backoff,
            backoff_max=self._patience.longest,
            raise_on_status=False,
        )


def packed(value: object) -> bytes:
    """JSON; arrays of numpy are lists of numbers in it."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def reason(answer: Any) -> str:
    """What an error of the engine says, in its own words, short. `answer` is JSON or the bytes of it."""
    if isinstance(answer, bytes):
        try:
            answer = orjson.loads(answer)
        except ValueError:
            return str(answer[:200], "utf-8", "replace")
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    causes = error.get("root_cause") or [error] if isinstance(error, dict) else [error]
    return str(causes[0].get("reason", causes[0]) if isinstance(causes[0], dict) else causes[0])[:300]


def _batches(lines: Iterable[bytes], body: int) -> Iterator[list[bytes]]:
    """As many as make about one body."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and size + len(line) > body:
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    yield batch


def _left(answer: Mapping[str, Any], batch: Sequence[bytes]) -> list[bytes]:
    """What the engine was too busy to take. A chunk that is there already came with an earlier try."""
    left = []
    for line, item in zip(batch, answer["items"], strict=True):
        status = item["create"]["status"]
        if status in BUSY:
            left.append(line)
        elif status >= 300 and status != 409:
            raise IndexingError(f"the engine refused chunk {item['create']['_id']!r}: {reason(item['create'])}")
    return left


def _cause(error: urllib3.exceptions.HTTPError) -> object:
    return getattr(error, "reason", None) or error
