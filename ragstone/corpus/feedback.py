"""What people say of answers, as it is kept: an object of the store each, written once. What of it may train is `labels`' to say."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from ragstone.corpus.labels import Row
from ragstone.errors import Conflict
from ragstone.store import Store

PREFIX = "feedback/"

Verdict = Literal["up", "down"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Feedback:
    """A verdict on an answer. As JSON it is also a line of a file that `ragstone train --pairs` reads."""

    at: float
    """Unix seconds."""
    release: str
    """The release that answered."""
    question: str
    """As it was searched for: the answer's `ragstone.question`. Empty without consent."""
    answer: str
    """SHA-256 of the answer's text, in hex: the text itself is not kept."""
    hits: tuple[str, ...]
    """The ids of the chunks that the answer cites."""
    verdict: Verdict
    key: str
    """The id of the API key that it was asked with, never the key."""
    groups: tuple[str, ...]
    """Those of that key, so what the asker may read."""
    consent: bool = False
    """Whether the asker agreed that it may be learned from."""

    @property
    def line(self) -> str:
        """The feedback as a line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


def keep(store: Store, feedback: Feedback) -> str:
    """The key under which the store keeps it, in the order of time; the same feedback twice is kept once."""
    digest = hashlib.sha256(feedback.line.encode()).hexdigest()[:12]
    key = f"{PREFIX}{int(feedback.at * 1000):015d}-{digest}.json"
    with contextlib.suppress(Conflict):
        store.create(key, feedback.line.encode())
    return key


def rows(store: Store) -> Iterator[tuple[str, Row]]:
    """All that is kept, the oldest first: its key, and its fields."""
    for stat in store.list(PREFIX):
        yield stat.key, json.loads(store.get(stat.key))
