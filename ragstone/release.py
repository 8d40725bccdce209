"""A release names everything that answers a question, by digest; a channel names the release in force.

A channel is a run of numbered records, each created once (put-if-absent). The highest number is current, the rest is the audit
trail: promotion and rollback are one atomic create, and two that race can't both win.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ragstone.config import Retrieve
from ragstone.errors import Conflict, ReleaseError
from ragstone.store import Store

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
ID = re.compile(r"r-[0-9a-f]{12}")


@dataclass(frozen=True)
class Release:
    """Snapshot + model + index + generator + retrieval settings + calibration + prompt. Equal parts are the same release."""

    snapshot: str
    model: str
    index: str
    generator: Mapping[str, int]
    """Service versions as `name/version`, and each one's share of the traffic in percent."""
    retrieval: Mapping[str, float]
    """The settings of `retrieve`, with the weights that the model learned."""
    calibration: tuple[float, ...]
    """The fitted map from a hit's raw scores to P(relevant); its meaning is `retrieve.Calibration`'s."""
    prompt: str
    rag: str = ""
    """The URL of what finds passages in place of the index, with what it needs to find those of this snapshot; empty is the index."""
    note: str = field(default="", compare=False)
    """Why it was made (the training verdict, say); no part of the id."""

    @property
    def weights(self) -> Retrieve:
        """The retrieval settings; what a release of an older version does not name has its default."""
        named: dict[str, Any] = dict(self.retrieval)
        return Retrieve(**named)

    @property
    def id(self) -> str:
        """`r-` and 12 hex digits of the digest of its parts."""
        parts = asdict(self)
        del parts["note"]
        if not self.rag:  # so a release keeps the id that it had before there was a choice
            del parts["rag"]
        return "r-" + hashlib.sha256(canonical(parts)).hexdigest()[:12]


@dataclass(frozen=True)
class Record:
    """One line of a channel's history: from `at` (Unix seconds) on, `release` was in force."""

    channel: str
    number: int
    release: str
    at: float
    returns_to: int | None = None
    """For a rollback: the number of the earlier record that it puts back in force."""
    canary: Mapping[str, int] = field(default_factory=dict)
    """Other releases that answer a share of the channel's conversations, in per cent."""


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def save(store: Store, release: Release) -> str:
    """Store the release under its id, which it returns. Saving it again changes nothing."""
    with contextlib.suppress(Conflict):  # the same parts were saved before
        store.create(f"releases/{release.id}.json", json.dumps(asdict(release), indent=1, sort_keys=True, ensure_ascii=False).encode())
    return release.id


def load(store: Store, id: str) -> Release:
    """The release by its id. Raises `ReleaseError` when the store has none."""
    if not ID.fullmatch(id) or store.stat(f"releases/{id}.json") is None:
        raise ReleaseError(f"there is no release {id[:80]!r} in {store.url}", "ragstone release list")
    parts = json.loads(store.get(f"releases/{id}.json"))
    return Release(**{**parts, "calibration": tuple(parts["calibration"])})


def saved(store: Store) -> list[str]:
    """The ids of all releases, sorted."""
    return [stat.key.removeprefix("releases/").removesuffix(".json") for stat in store.list("releases/")]


def withdraw(store: Store, id: str) -> None:
    """From now on the release can't be put in force: a part of it is gone on purpose."""
    with contextlib.suppress(Conflict):
        store.create(f"withdrawn/{id}.json", b"{}")


def withdrawn(store: Store) -> set[str]:
    """The releases that can't be put in force any more. Costs one listing."""
    return {stat.key.removeprefix("withdrawn/").removesuffix(".json") for stat in store.list("withdrawn/")}


def diff(one: Release, other: Release) -> list[tuple[str, object, object]]:
    """The parts in which two releases differ: name, the one's value, the other's; nothing when they are the same release."""
    left, right = asdict(one), asdict(other)
    return [(part, left[part], right[part]) for part in left if part != "note" and left[part] != right[part]]


def history(store: Store, channel: str) -> list[Record]:
    """Every record of the channel, oldest first."""
    return [Record(**json.loads(store.get(key))) for key in _keys(store, channel)]


def current(store: Store, channel: str) -> Record | None:
    """The record in force, or None when nothing was promoted yet. Costs one listing and one read."""
    keys = _keys(store, channel)
    return Record(**json.loads(store.get(keys[-1]))) if keys else None


def resolve(store: Store, name: str) -> str:
    """The release id that `name`, a channel or an id, stands for. Raises `ReleaseError`."""
    if ID.fullmatch(name) and store.stat(f"releases/{name}.json"):
        return name
    record = current(store, name) if NAME.fullmatch(name) else None
    if record is None:
        next_step = "ragstone release list" if saved(store) else "ragstone up ./docs"
        raise ReleaseError(f"{name[:80]!r} is neither a channel nor a release of {store.url}", next_step)
    return record.release


def promote(
    store: Store, channel: str, id: str, *, after: int | None = None, returns_to: int | None = None, canary: Mapping[str, int] | None = None
) -> Record:
    """Put release `id` in force on `channel`, atomically; `canary` shares some conversations out to other releases.

    `after` is the number of the record that the decision rests on: when another is in force by now, nothing is promoted. Raises
    `Conflict` when another promotion came first, `ReleaseError` when the release is not in the store, or was withdrawn.
    """
    load(store, id)
    if gone := {id, *(canary or {})} & withdrawn(store):
        raise ReleaseError(f"{min(gone)} was withdrawn: documents of it were forgotten", "ragstone release list")
    last = current(store, channel)
    in_force = last.number if last else 0
    number = in_force + 1
    if after is not None and after != in_force:
        raise _lost(channel, after + 1)
    record = Record(channel, number, id, time.time(), returns_to, dict(canary or {}))
    try:
        store.create(f"channels/{channel}/{number:08d}.json", json.dumps(asdict(record)).encode())
    except Conflict as error:
        raise _lost(channel, number) from error
    return record


def canary(store: Store, channel: str, id: str, share: int, *, after: int | None = None) -> Record:
    """Let release `id` answer `share` per cent of the channel's conversations, beside the one in force; 0 ends that.

    `after` is as for `promote`. Raises `ReleaseError` when nothing is in force, or a share can't be, `Conflict` when a promotion came
    first.
    """
    load(store, id)
    last = current(store, channel)
    if last is None or last.release == id or not 0 <= share < 100:
        beside = last.release if last else "no release"
        raise ReleaseError(f"{id} can't have {share} % of the conversations beside {beside}: 0 to 99 % beside another can be")
    return promote(store, channel, last.release, after=last.number if after is None else after, canary={id: share} if share else {})


def purge(store: Store, channel: str) -> float:
    """From now on no answer is served that an edge kept before; when that was, in Unix seconds."""
    at = int(time.time() * 1000)
    with contextlib.suppress(Conflict):
        store.create(f"purges/{channel}/{at:015d}.json", b"{}")
    return at / 1000


def purged(store: Store, channel: str) -> float:
    """When the channel's answers were last purged, in Unix seconds; 0 is never. Costs one listing."""
    keys = [stat.key for stat in store.list(f"purges/{channel}/")]
    return int(keys[-1].rsplit("/", 1)[1].removesuffix(".json")) / 1000 if keys else 0.0


def rollback(store: Store, channel: str) -> Record:
    """Put the release before the current one back in force; called again, it goes back one more. A canary is ended first.

    Raises `ReleaseError` at the first, `Conflict` when a promotion or another rollback came first.
    """
    records = history(store, channel)
    if not records:
        raise ReleaseError(f"channel {channel} has no release to roll back", "ragstone up")
    standing, last = _standing(records), records[-1]
    if last.canary:
        alone = [record.number for record in standing if record.release == last.release and not record.canary]
        return promote(store, channel, last.release, after=last.number, returns_to=alone[-1] if alone else None)
    gone = withdrawn(store)
    earlier = [record for record in standing if record.release != last.release and record.release not in gone]
    if not earlier:
        raise ReleaseError(f"channel {channel} has no release before {last.release}", f"ragstone release list --channel {channel}")
    return promote(store, channel, earlier[-1].release, after=last.number, returns_to=earlier[-1].number)


def reachable(store: Store, back: int | None = None) -> set[str]:
    """The releases in force on any channel, and those that `rollback` could put back in force: all, or so many before the current one."""
    channels = {stat.key.split("/")[1] for stat in store.list("channels/")}
    found: set[str] = set()
    for channel in channels:
        latest = list(dict.fromkeys(record.release for record in reversed(_standing(history(store, channel)))))
        found.update(latest if back is None else latest[: back + 1])
        now = current(store, channel)
        found.update(now.canary if now else ())
    return found - withdrawn(store)


def _standing(records: list[Record]) -> list[Record]:
    """The promotions that no rollback took back, oldest first; the last is of the release in force."""
    standing: list[Record] = []
    for record in records:
        if record.returns_to is None:
            standing.append(record)
        else:
            standing = [one for one in standing if one.number <= record.returns_to]
    return standing


def _keys(store: Store, channel: str) -> list[str]:
    """The keys of the channel's records; their numbers have eight digits, so that they sort as they follow."""
    if not NAME.fullmatch(channel):
        raise ReleaseError(f"{channel[:80]!r} is not a channel name: lower-case letters, digits and dashes are")
    return [stat.key for stat in store.list(f"channels/{channel}/")]


def _lost(channel: str, number: int) -> Conflict:
    return Conflict(f"another promotion on {channel} won number {number}; look at it first", f"ragstone release list --channel {channel}")
