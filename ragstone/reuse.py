"""Finished answers, given again to a question that asks the same in other words and finds the same evidence. It knows no HTTP.

All else must be equal: the release and its generator, the audience, every field of the body, what was said before.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from ragstone import canonical, paraphrase, telemetry
from ragstone.access import Principal
from ragstone.cache import Cache, Entry, since
from ragstone.rag import Answer, Citation, Grounds
from ragstone.serve import Usage

MARK = "-reused"


@dataclass(frozen=True)
class Place:
    """Where the answer to a question is looked for, and kept."""

    key: str
    form: paraphrase.Form
    begun: float
    """When it was asked, in Unix seconds."""


class Reuse:
    """Answers in `most` bytes of memory, the least recently used of which go; 0 keeps none."""

    def __init__(self, most: int) -> None:
        self._kept = Cache(most)
        self._on = most > 0

    def place(self, body: Mapping[str, Any], principal: Principal, grounds: Grounds) -> Place | None:
        """None where nothing is to be reused: it is off, there is no evidence, or the body has no key of its own."""
        if not self._on or not grounds.evidence:
            return None
        *before, last = body["messages"]
        asked = canonical.key({**body, "messages": [*before, {**last, "content": None}]}, principal.tenant, principal.groups)
        if asked is None:
            return None
        form = paraphrase.form(grounds.question)
        found = sorted(hit.chunk.id for hit in grounds.evidence)
        key = canonical.text([asked, grounds.release, grounds.service, found, list(form.said)])
        return Place(hashlib.sha256(key.encode()).hexdigest(), form, time.time())

    def find(self, place: Place, grounds: Grounds, purged: float) -> Answer | None:
        """The answer that was made for the same question in other words, or in the same ones, no earlier than `purged`."""
        entry = since(self._kept.get(place.key), purged)
        kept = orjson.loads(entry.body) if entry else None
        if kept is None or not paraphrase.same(place.form, paraphrase.form(kept["question"])):
            return None
        telemetry.reused.inc()
        found = {hit.chunk.id: {"score": hit.score, "fused": hit.fused} for hit in grounds.evidence}
        citations = tuple(Citation(**{**one, "path": tuple(one["path"]), **found[one["chunk"]]}) for one in kept["citations"])
        return Answer(kept["text"], citations, kept["basis"], "stop", Usage(), grounds, kept["question"])

    def keep(self, place: Place, answer: Answer) -> None:
        """Keep the answer for others, if it is whole and rests on evidence."""
        if answer.finish != "stop" or answer.basis == "abstained":
            return
        grounds = answer.grounds
        kept = {"question": grounds.question, "text": answer.text, "basis": answer.basis, "citations": list(map(asdict, answer.citations))}
        entry = Entry(orjson.dumps(kept), grounds.etag, grounds.release, time.time(), place.begun)
        self._kept.put(place.key, entry, grounds.release)


def marked(etag: str) -> str:
    """The validator of an answer that was reused: it is confirmed only where answers still are.

    >>> marked('"5d0c"')
    '"5d0c-reused"'
    """
    return f'{etag[:-1]}{MARK}"'


async def said(answer: Answer) -> AsyncGenerator[str | Answer, None]:
    """The answer as an orchestrator says it."""
    yield answer.text
    yield answer
