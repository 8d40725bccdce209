"""What people say of answers: a log in the store of thumbs, a file for each, that nobody changes (`feedback/<day>/<id>.jsonl`).

A line names a passage and whether it helped, in the form that `ragstone train --pairs` reads. The question is kept only with the
consent of who asked it. It knows nothing of keys or HTTP.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ragstone.store import Store

ROOT = "feedback/"
THUMBS = ("up", "down")


@dataclass(frozen=True)
class Thumb:
    """A thumb up or down on an answer: the passages that it rests on, who could see them, and whether the question may be learned from."""

    thumb: str
    """One of `THUMBS`."""
    release: str
    question: str
    chunks: tuple[str, ...]
    groups: tuple[str, ...]
    """Those of who asked: a label may only mean what they may read."""
    tenant: str
    consent: bool


def add(store: Store, thumb: Thumb) -> str:
    """Append to the log; returns the key of what was written."""
    now = time.time()
    shared: dict[str, object] = {"at": now, "thumb": thumb.thumb, "release": thumb.release, "tenant": thumb.tenant}
    shared |= {"groups": thumb.groups, "consent": thumb.consent} | ({"question": thumb.question} if thumb.consent else {})
    lines = [json.dumps(shared | {"chunk_id": chunk}, ensure_ascii=False) + "\n" for chunk in thumb.chunks]
    key = f"{ROOT}{datetime.fromtimestamp(now, UTC):%Y-%m-%d}/{secrets.token_hex(8)}.jsonl"
    store.create(key, "".join(lines).encode())
    return key


def lines(store: Store) -> Sequence[str]:
    """Every line of the log, oldest day first."""
    return [line for stat in store.list(ROOT) for line in store.get(stat.key).decode().splitlines()]
