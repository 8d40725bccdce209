"""Hits in memory, decided without waiting for anything: the edge's hot path. What is no plain hit is left to the edge."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ragstone import answers, atonce, telemetry
from ragstone.access import Principal, Verifier
from ragstone.accesslog import AccessLog
from ragstone.atonce import Head
from ragstone.cache import Cache, Entry, asked, decide, since
from ragstone.errors import Unauthorized
from ragstone.exchange import request_id
from ragstone.limit import Limits, headers
from ragstone.origin import Pointer

CHAT = "/v1/chat/completions"
LONGEST = 8192
"""Bytes of a body that is remembered, and …"""
REMEMBERED = 2048
"""… how many are, before all are forgotten."""


@dataclass(slots=True)
class Form:
    """What a body asks for, and what is the same of each answer to it."""

    key: str
    streamed: bool
    include_usage: bool
    made: tuple[str, str, str] | None = None
    """What was told last of where an answer came from, …"""
    lines: bytes = b""
    """… and the header lines that say so."""


class Hits:
    """Of one edge, whose parts it looks at. It knows bodies by their bytes and who asked: the same need not be understood twice."""

    def __init__(self, verifier: Verifier, limits: Limits, cache: Cache, log: AccessLog | None, ttl: float) -> None:
        self._verifier, self._limits, self._cache, self._log, self._ttl = verifier, limits, cache, log, ttl
        self._answered = 0
        self._forms: dict[tuple[bytes, str, tuple[str, ...]], Form] = {}

    def understood(self, body: bytes, who: Principal, key: str | None, streamed: bool, include_usage: bool) -> None:
        """Remember what a body asks for, where its answer is kept."""
        if len(self._forms) >= REMEMBERED:
            self._forms.clear()
        if key and len(body) <= LONGEST:
            self._forms[body, who.tenant, who.groups] = Form(key, streamed, include_usage)

    def answer(self, head: Head, body: bytes, pointer: Pointer) -> tuple[bytes, bytes] | None:
        """Header lines and body, counted and logged; None, and nothing done, where it is not a plain hit of the release in force."""
        began = time.perf_counter()
        who = self._who(head)
        form = self._forms.get((body, who.tenant, who.groups)) if who else None
        entry = self._fresh(head, form, pointer) if form else None
        if who is None or form is None or entry is None or (left := self._counted(who)) is None:
            return None
        if form.made != (made := (entry.release, entry.etag, entry.reused)):  # not the entry: it would outlive its place in the cache
            form.made, form.lines = made, atonce.lines(answers.described(entry, "hit", form.streamed))
        self._answered += 1
        named = request_id(head.headers)
        if self._log:
            line = {"id": named.decode(), "method": head.method, "path": head.path, "status": 200, "key": who.key, "tenant": who.tenant}
            took = round(1000 * (time.perf_counter() - began), 1)
            self._log.add({**line, "cache": "hit", "release": entry.release, "tokens": 0, "ms": took})
        age = max(0, time.time() - entry.stored)
        told = b"%b%bage: %d\r\nx-request-id: %b\r\n" % (form.lines, left, age, named)
        return told, answers.written(entry, form.streamed, form.include_usage)

    def count(self) -> None:
        """Bring the metrics up to date: to count each hit in two of them cost a tenth of it."""
        answered, self._answered = self._answered, 0
        telemetry.requests.labels("edge", CHAT, "200").inc(answered)
        telemetry.cache.labels("hit").inc(answered)

    def _who(self, head: Head) -> Principal | None:
        scheme, _, token = head.headers.get(b"authorization", b"").decode("ascii", "replace").partition(" ")
        try:
            return self._verifier.verify(token.strip()) if scheme.lower() == "bearer" else None
        except Unauthorized:
            return None

    def _fresh(self, head: Head, form: Form, pointer: Pointer) -> Entry | None:
        if b"if-none-match" in head.headers:
            return None
        wanted = asked(head.headers.get(b"cache-control", b"").decode("ascii", "replace"))
        entry = since(self._cache.get(form.key), pointer.purged)
        return entry if decide(entry, wanted, pointer.release, self._ttl, time.time()) == "hit" else None

    def _counted(self, who: Principal) -> bytes | None:
        """The header lines of the key's limits, with this request; None when it is one too many."""
        now = time.monotonic()
        allowance = self._limits.of(who.key, who.rpm, who.tpm, now, who.tenant)
        return None if allowance.take("requests", 1, now) else atonce.lines(headers(*allowance.standings(now)))
