"""What a caller is told of itself, and what it says of answers: its key, and thumbs."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ragstone import feedback
from ragstone.access import Principal
from ragstone.api import body
from ragstone.api.call import authorise, origin
from ragstone.api.releases import Opened
from ragstone.errors import IndexingError, RequestError
from ragstone.feedback import THUMBS, Thumb

PASSAGES = 50
"""The most passages that one thumb may be about: no answer rests on more."""


async def key(request: Request) -> Response:
    """What the key that was sent stands for. Nothing in it is secret to who holds it."""
    who = authorise(request)
    told = {"key": who.key, "tenant": who.tenant, "groups": who.groups, "admin": who.admin, "rpm": who.rpm, "tpm": who.tpm}
    return JSONResponse({**told, "expires": who.expires or None}, headers={"cache-control": "no-store"})


async def give_feedback(request: Request) -> Response:
    """Keep a thumb on an answer. Raises `RequestError` when it names a passage that the caller may not read, or none."""
    principal = authorise(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("model", "thumb", "question", "chunks", "consent")
    chunks = _chunks(fields)
    async with origin(request).releases.use(fields.text("model")) as opened:
        await origin(request).compute(lambda: _check(opened, chunks, principal))
        thumb = _thumb(fields, opened.id, chunks, principal)
        await origin(request).compute(lambda: feedback.add(origin(request).store, thumb))
    return JSONResponse({"kept": True, "consent": thumb.consent}, 201)


def _thumb(fields: body.Fields, release: str, chunks: tuple[str, ...], who: Principal) -> Thumb:
    said = fields.text("thumb")
    if said not in THUMBS:
        raise fields.wrong("thumb", " or ".join(THUMBS))
    return Thumb(said, release, fields.text("question"), chunks, who.groups, who.tenant, fields.flag("consent"))


def _chunks(fields: body.Fields) -> tuple[str, ...]:
    given = fields.values.get("chunks")
    if not isinstance(given, list) or not 0 < len(given) <= PASSAGES or not all(isinstance(id, str) and id for id in given):
        raise fields.wrong("chunks", f"a list of 1 to {PASSAGES} ids of chunks")
    return tuple(dict.fromkeys(given))


def _check(opened: Opened, chunks: tuple[str, ...], who: Principal) -> None:
    """Whether the caller could have seen them: one that is hidden is refused as one that is not there."""
    try:
        found = opened.retriever.index.chunks(chunks)
    except (IndexingError, KeyError):
        found = []
    if len(found) < len(chunks) or any(set(chunk.groups).isdisjoint(who.groups) for chunk in found):
        raise RequestError("chunks names a passage that this release does not have for this key", "chunks", status=404, code="not_found")
