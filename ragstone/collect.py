"""What the store can do without: indexes that no release needs any more, in an engine outside it too, and what killed writers left half.

It knows nothing of a run under way: an index that was just made is needed by none until its release is saved. A folder counts as left
half when nothing was put into it for a day.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ragstone import index as indexes
from ragstone import release as releases
from ragstone.config import Settings
from ragstone.manifest import NAME
from ragstone.store import Stat, Store, published

ROOT = "indexes/"
FOLDERS = ("corpora/", "models/", ROOT)
"""What is published as folders."""

DAY = 24 * 60 * 60
"""Seconds without a write after which a folder without a manifest is one whose writer was killed."""


@dataclass(frozen=True)
class Half:
    """A folder that was never published, and the bytes that are in it."""

    prefix: str
    size: int


@dataclass(frozen=True)
class Unneeded:
    """An index by its digest, the bytes of it in the store, and where the rest is: `name at url`, nothing for one in the store alone."""

    digest: str
    size: int
    place: str


def unneeded(store: Store, back: int | None = None) -> list[Unneeded]:
    """The indexes of no release that is in force on any channel, or that a rollback could put back in force, by digest.

    `back` bounds how many releases a channel goes back; None goes back as far as `ragstone release rollback` does.
    """
    needed = {releases.load(store, id).index for id in releases.reachable(store, back)}
    sizes: dict[str, int] = {}
    for stat in store.list(ROOT):
        digest = stat.key.split("/")[1]
        sizes[digest] = sizes.get(digest, 0) + stat.size
    old = [digest for digest in sorted(sizes) if digest not in needed and published(store, f"{ROOT}{digest}")]
    return [Unneeded(digest, sizes[digest], _place(store, digest)) for digest in old]


def halves(store: Store, before: float) -> list[Half]:
    """Folders that no reader sees, no release names, and nobody has written to since `before` (Unix seconds)."""
    held: dict[str, list[Stat]] = {}
    for root in FOLDERS:
        for stat in store.list(root):
            held.setdefault("/".join(stat.key.split("/")[:2]), []).append(stat)
    named = {part for id in releases.saved(store) for part in _parts(store, id)}
    left = {prefix: stats for prefix, stats in held.items() if prefix not in named and all(0 < stat.at < before for stat in stats)}
    return [Half(prefix, sum(stat.size for stat in stats)) for prefix, stats in sorted(left.items()) if not published(store, prefix)]


def remove_half(store: Store, half: Half) -> None:
    """The end of it, unless it was published since."""
    if not published(store, half.prefix):
        for stat in list(store.list(f"{half.prefix}/")):
            store.delete(stat.key)


def _parts(store: Store, id: str) -> list[str]:
    """The folders that a release names."""
    made = releases.load(store, id)
    return [f"corpora/{made.snapshot}", f"models/{made.model}", f"{ROOT}{made.index}"]


def remove(settings: Settings, store: Store, digest: str) -> None:
    """The end of an index: in the engine first, for only the store says where it is there. Raises `IndexingError`, `StoreError`."""
    note = f"{ROOT}{digest}/{indexes.PLACE}"
    if store.stat(note):
        indexes.remove(json.loads(store.get(note)), settings.index)
    remove_folder(store, f"{ROOT}{digest}")


def remove_folder(store: Store, prefix: str) -> None:
    """The end of a published folder."""
    keys = [stat.key for stat in store.list(f"{prefix}/")]
    for key in sorted(keys, key=lambda key: not key.endswith(f"/{NAME}")):  # from then on nobody sees the rest
        store.delete(key)


def _place(store: Store, digest: str) -> str:
    note = f"{ROOT}{digest}/{indexes.PLACE}"
    if not store.stat(note):
        return ""
    said = json.loads(store.get(note))
    return f"{said['index']} at {said['url']}"
