"""Documents that were forgotten on purpose: neither their paths nor their contents are staged again, until a person undoes that."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ragstone.corpus import Failure
from ragstone.errors import CorpusError
from ragstone.store import Store

PREFIX = "raw/forgotten/"


@dataclass(frozen=True)
class Forgotten:
    """All of them."""

    paths: frozenset[str] = frozenset()
    contents: frozenset[str] = frozenset()

    def why(self, path: str, content: str = "") -> Failure | None:
        """Why the file is not staged; None where it may be."""
        if path in self.paths:
            return Failure(path, f"was forgotten on purpose; to take it again: ragstone forget --undo {path}")
        if content in self.contents:
            return Failure(path, "has the content of a document that was forgotten on purpose")
        return None


def of(store: Store) -> Forgotten:
    """What the store was told to forget. Costs one listing, and a read for each."""
    notes = [json.loads(store.get(stat.key)) for stat in list(store.list(PREFIX))]
    return Forgotten(frozenset(note["path"] for note in notes), frozenset(digest for note in notes for digest in note["contents"]))


def add(store: Store, path: str, contents: Sequence[str]) -> None:
    """From now on neither the path nor these contents, by their SHA-256, are staged."""
    store.put(_key(path), json.dumps({"path": path, "contents": list(contents), "at": time.time()}).encode())


def lift(store: Store, path: str) -> None:
    """The end of that. Raises `CorpusError` for a path that was not forgotten."""
    if store.stat(_key(path)) is None:
        raise CorpusError(f"{path} was not forgotten in {store.url}", "ragstone stage")
    store.delete(_key(path))


def _key(path: str) -> str:
    return f"{PREFIX}{hashlib.sha256(path.encode()).hexdigest()}.json"
