"""What a caller is told of itself, and what it says of answers: its key, and feedback."""

from __future__ import annotations

import hashlib
import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ragstone.access import Principal
from ragstone.api import body
from ragstone.api.call import authorise, origin
from ragstone.api.releases import Opened
from ragstone.corpus import feedback
from ragstone.corpus.feedback import VERDICTS, Feedback
from ragstone.errors import IndexingError, RequestError
from ragstone.fields import Fields

HITS = 50
"""The most passages that a verdict may be about: no answer rests on more."""


async def key(request: Request) -> Response:
    """What the key that was sent stands for. Nothing in it is secret to who holds it."""
    who = authorise(request)
    told = {"key": who.key, "tenant": who.tenant, "groups": who.groups, "admin": who.admin, "rpm": who.rpm, "tpm": who.tpm}
    return JSONResponse({**told, "expires": who.expires or None}, headers={"cache-control": "no-store"})


async def give_feedback(request: Request) -> Response:
    """Keep a verdict on an answer. Raises `RequestError` when it names a passage that the caller may not read, or none."""
    principal = authorise(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("model", "verdict", "question", "answer", "hits", "consent")
    hits = _hits(fields)
    async with origin(request).releases.use(fields.text("model")) as opened:
        await origin(request).compute(lambda: _check(opened, hits, principal))
        said = _feedback(fields, opened.id, hits, principal)
        await origin(request).compute(lambda: feedback.keep(origin(request).store, said))
    return JSONResponse({"kept": True, "consent": said.consent}, 201)


def _feedback(fields: Fields, release: str, hits: tuple[str, ...], who: Principal) -> Feedback:
    """What is kept. The question is, only with consent; of the answer only the digest."""
    verdict = next((known for known in VERDICTS if known == fields.text("verdict")), None)
    if verdict is None:
        raise fields.wrong("verdict", " or ".join(VERDICTS))
    question, answer, consent = fields.text("question"), fields.text("answer"), fields.flag("consent")
    digest = hashlib.sha256(answer.encode()).hexdigest()
    return Feedback(time.time(), release, question if consent else "", digest, hits, verdict, who.key, who.groups, consent)


def _hits(fields: Fields) -> tuple[str, ...]:
    given = fields.values.get("hits")
    if not isinstance(given, list) or not 0 < len(given) <= HITS or not all(isinstance(id, str) and id for id in given):
        raise fields.wrong("hits", f"a list of 1 to {HITS} ids of chunks")
    return tuple(dict.fromkeys(given))


def _check(opened: Opened, hits: tuple[str, ...], who: Principal) -> None:
    """Whether the caller could have seen them: one that is hidden is refused as one that is not there."""
    try:
        found = opened.retriever.index.chunks(hits)
    except (IndexingError, KeyError):
        found = []
    if len(found) < len(hits) or any(set(chunk.groups).isdisjoint(who.groups) for chunk in found):
        raise RequestError("hits names a passage that this release does not have for this key", "hits", status=404, code="not_found")
