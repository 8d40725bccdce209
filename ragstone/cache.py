"""Finished answers in memory, bounded by bytes, and when one may be served. `tests/vectors/cache.json` is the contract of both edges."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

Decision = Literal["hit", "revalidate", "fetch", "bypass"]

AHEAD = 60.0
"""Seconds by which an entry may be dated later than this clock, as that of another edge may be wrong; beyond, its age can't be known."""
OVERHEAD = 1024
"""Bytes an entry costs beyond its body: key, dictionary slot, Python objects."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A complete, successful answer in its JSON form, from which every other form is replayed."""

    body: bytes
    etag: str
    """The origin's validator, quoted; empty when it gave none."""
    release: str
    """The release that made it, or that last confirmed it with a 304."""
    stored: float
    """When it was made or confirmed, in Unix seconds."""
    begun: float
    """When the origin was asked to make it, in Unix seconds; a confirmation changes nothing of what it rests on."""
    reused: str = ""
    """The question that it was made for, as the origin's header says, where that was another one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller's `cache-control` asks for."""

    no_store: bool = False
    no_cache: bool = False
    max_age: float | None = None


PLAIN = Asked()


def asked(header: str) -> Asked:
    """The directives of a request's `cache-control` that a cache of answers can obey; others are ignored.

    >>> asked("No-Cache, max-age=30")
    Asked(no_store=False, no_cache=True, max_age=30.0)
    """
    if not header:
        return PLAIN
    directives = [directive.strip().lower() for directive in header.split(",")]
    ages = [float(found[1]) for directive in directives if (found := re.fullmatch(r'max-age\s*=\s*"?(\d{1,9})"?', directive))]
    return Asked("no-store" in directives, "no-cache" in directives, min(ages) if ages else None)


def decide(entry: Entry | None, asked: Asked, release: str, ttl: float, now: float) -> Decision:
    """How to answer: from the entry, after asking the origin whether it still holds, afresh, or past the cache.

    An entry of another release is never served unasked, in either direction: a rollback is a release change too.
    """
    if asked.no_store:
        return "bypass"
    if entry is None:
        return "fetch"
    lifetime = ttl if asked.max_age is None else min(ttl, asked.max_age)
    age = now - entry.stored
    if entry.release == release and not asked.no_cache and age >= -AHEAD and max(0.0, age) < lifetime:
        return "hit"
    return "revalidate" if entry.etag else "fetch"


def since(entry: Entry | None, purged: float) -> Entry | None:
    """The entry, unless it was begun before `purged`, in Unix seconds: it may rest on what the purge was for."""
    return entry if entry is not None and entry.begun >= purged else None


def may_stand_in(entry: Entry | None, asked: Asked, release: str) -> bool:
    """Whether the entry may be served, although it is no longer fresh, when the origin can't be asked: only inside its release."""
    return entry is not None and entry.release == release and not asked.no_cache and not asked.no_store


class Cache:
    """Entries by key; the least recently used go when `limit` bytes are reached."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: str, entry: Entry, release: str) -> None:
        """Keep the entry, unless it comes late: of an earlier release, where one of the `release` in force is already kept."""
        kept = self._entries.get(key)
        if kept is not None and kept.release == release != entry.release:
            return
        self.drop(key)
        if _cost(entry) > self._limit:
            return
        self._entries[key] = entry
        self.size += _cost(entry)
        while self.size > self._limit:
            _, oldest = self._entries.popitem(last=False)
            self.size -= _cost(oldest)

    def drop(self, key: str) -> None:
        """Forget the key; no error when it is not kept."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= _cost(entry)


def _cost(entry: Entry) -> int:
    return len(entry.body) + OVERHEAD
