"""Indexes that no release needs any more: which they are, and their end, in the store and in an engine outside it.

It knows nothing of a run under way: an index that was just made is needed by none until its release is saved.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ragstone import index as indexes
from ragstone import release as releases
from ragstone.config import Settings
from ragstone.manifest import NAME
from ragstone.store import Store

ROOT = "indexes/"


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
    return [Unneeded(digest, size, _place(store, digest)) for digest, size in sorted(sizes.items()) if digest not in needed]


def remove(settings: Settings, store: Store, digest: str) -> None:
    """The end of an index: in the engine first, for only the store says where it is there. Raises `IndexingError`, `StoreError`."""
    note = f"{ROOT}{digest}/{indexes.PLACE}"
    if store.stat(note):
        indexes.remove(json.loads(store.get(note)), settings.index)
    keys = [stat.key for stat in store.list(f"{ROOT}{digest}/")]
    for key in sorted(keys, key=lambda key: not key.endswith(f"/{NAME}")):  # from then on nobody sees the rest
        store.delete(key)


def _place(store: Store, digest: str) -> str:
    note = f"{ROOT}{digest}/{indexes.PLACE}"
    if not store.stat(note):
        return ""
    said = json.loads(store.get(note))
    return f"{said['index']} at {said['url']}"
