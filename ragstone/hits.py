"""Hits in memory, decided without waiting for anything: the edge's hot path. What is no plain hit is left to the edge."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ragstone import answers, telemetry
from ragstone.access import Principal, Verifier
from ragstone.accesslog import AccessLog
from ragstone.atonce import Head
from ragstone.cache import Cache, Entry, asked, decide, since
from ragstone.errors import Unauthorized
from ragstone.exchange import Headers, request_id
from ragstone.limit import Limits, headers
from ragstone.origin import Pointer

CHAT = "/v1/chat/completions"
LONGEST = 8192
"""Bytes of a body that is remembered, and …"""
REMEMBERED = 2048
"""… how many are, before all are forgotten."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a body asks for."""

    key: str
    streamed: bool
    include_usage: bool


class Hits:
    """Of one edge, whose parts it looks at. It knows bodies by their bytes and who asked: the same need not be understood twice."""

    def __init__(self, verifier: Verifier, limits: Limits, cache: Cache, log: AccessLog | None, ttl: float) -> None:
        self._verifier, self._limits, self._cache, self._log, self._ttl = verifier, limits, cache, log, ttl
        self._answered = telemetry.requests.labels("edge", CHAT, "200")
        self._forms: dict[tuple[bytes, str, tuple[str, ...]], Form] = {}

    def understood(self, body: bytes, who: Principal, key: str | None, streamed: bool, include_usage: bool) -> None:
        """Remember what a body asks for, where its answer is kept."""
        if len(self._forms) >= REMEMBERED:
            self._forms.clear()
        if key and len(body) <= LONGEST:
            self._forms[body, who.tenant, who.groups] = Form(key, streamed, include_usage)

    def answer(self, head: Head, body: bytes, pointer: Pointer) -> tuple[Headers, bytes] | None:
        """The response, counted and logged; None, and nothing done, where it is not a plain hit of the release in force."""
        began = time.perf_counter()
        who = self._who(head)
        form = self._forms.get((body, who.tenant, who.groups)) if who else None
        entry = self._fresh(head, form, pointer) if form else None
        if who is None or form is None or entry is None or (left := self._counted(who)) is None:
            return None
        told, whole = answers.replied(entry, "hit", form.streamed, form.include_usage)
        self._answered.inc()
        named = request_id(head.headers)
        if self._log:
            line = {"id": named.decode(), "method": head.method, "path": head.path, "status": 200, "key": who.key, "tenant": who.tenant}
            took = round(1000 * (time.perf_counter() - began), 1)
            self._log.add({**line, "cache": "hit", "release": entry.release, "tokens": 0, "ms": took})
        return [*told, *left, (b"x-request-id", named)], whole

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

    def _counted(self, who: Principal) -> Headers | None:
        """The headers of the key's limits, with this request; None when it is one too many."""
        now = time.monotonic()
        allowance = self._limits.of(who.key, who.rpm, who.tpm, now, who.tenant)
        return None if allowance.take("requests", 1, now) else headers(*allowance.standings(now))
