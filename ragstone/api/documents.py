"""The documents of a release: one of them as it was read, with where its chunks lie; and for administrators, the list of all."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ragstone import release as records
from ragstone.api import body
from ragstone.api.call import Origin, administer, authorise, origin, validators_of
from ragstone.api.releases import NotReady, unknown
from ragstone.corpus import Chunk, Document, Failure, catalogue, parse, snapshot, stage
from ragstone.corpus.catalogue import Catalogue
from ragstone.corpus.sandbox import Sandbox
from ragstone.errors import NotFound, ParseError, ReleaseError, RequestError
from ragstone.fields import Fields

WINDOW = 100_000
"""The most characters of a document in one response: a book comes in parts."""
PAGE = 500
"""The most documents, or failures, in one response."""


async def document(request: Request) -> Response:
    """A part of a document that the caller's groups may read, and the chunks in it. The body names it, so that no log does."""
    principal = authorise(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("document", "model", "start", "end")
    name, start, end = fields.text("document"), fields.whole("start", 0, 1 << 40) or 0, fields.whole("end", 0, 1 << 40)
    release, shelf = await shelved(request, fields)
    try:
        found, chunks = await origin(request).compute(lambda: shelf.read(name, principal.groups))
    except NotFound as error:
        raise RequestError(error.message, "document", status=404, code="not_found") from None
    told = _part(found, chunks, start, min(start + WINDOW, len(found.text) if end is None else end))
    return JSONResponse({"release": release, **told}, headers=validators_of(release))


async def page(request: Request) -> Response:
    """The page of a PDF on which the character at `start` stands, as PNG, for who may read the document."""
    principal, here = authorise(request), origin(request)
    fields = await body.read(request, here.limit)
    fields.only("document", "model", "start")
    name, start = fields.text("document"), fields.whole("start", 0, 1 << 40) or 0
    release, shelf = await shelved(request, fields)
    try:
        found, _ = await here.compute(lambda: shelf.read(name, principal.groups))
        image = await here.compute(lambda: _drawn(here, found, start))
    except (NotFound, ParseError) as error:
        raise RequestError(error.message, "document", status=404, code="not_found") from None
    return Response(image, headers={**validators_of(release), "x-content-type-options": "nosniff"}, media_type="image/png")


def _drawn(here: Origin, found: Document, start: int) -> bytes:
    if parse.kind(found.id) != "pdf":
        raise ParseError(f"{found.id[:200]} is no PDF: it has no pages")
    with Sandbox(here.settings.corpus.max_seconds) as sandbox:
        return sandbox.draw(here.store.get(stage.blob(found.digest)), start)


async def listing(request: Request) -> Response:
    """The documents whose path or title holds `search`, page by page, and the files that could not become one."""
    principal = administer(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("search", "model", "offset", "limit")
    search = str(fields.values.get("search") or "")
    offset, limit = fields.whole("offset", 0, 1 << 40) or 0, fields.whole("limit", 1, PAGE) or 50
    release, shelf = await shelved(request, fields)
    found = await origin(request).compute(lambda: shelf.visible(principal.groups, search))
    rules = origin(request).settings.corpus.groups
    failed = [one for one in shelf.failures if not set(snapshot.groups(one.path, rules)).isdisjoint(principal.groups)]
    told = {"total": len(found), "offset": offset, "data": [asdict(one) for one in found[offset : offset + limit]]}
    return JSONResponse({"release": release, **told, **_failed(failed)}, headers=validators_of(release))


async def shelved(request: Request, fields: Fields) -> tuple[str, Catalogue]:
    """The release that is meant, the one in force unless the body names another, and its catalogue."""
    releases, store = origin(request).releases, origin(request).store
    if releases.record is None:
        raise NotReady(f"not ready: {releases.reason}", "ragstone up")
    name = fields.text("model") if "model" in fields.values else releases.record.release

    def opened() -> tuple[str, Catalogue]:
        try:
            id = records.resolve(store, name)
        except ReleaseError:
            raise unknown(name) from None
        return id, catalogue.of(store, records.load(store, id).snapshot)

    return await origin(request).compute(opened)


def _part(found: Document, chunks: list[Chunk], start: int, end: int) -> dict[str, Any]:
    inside = [chunk for chunk in chunks if chunk.end > start and chunk.start < end]
    return {
        "document": found.id,
        "title": found.title,
        "groups": found.groups,
        "metadata": dict(found.metadata),
        "characters": len(found.text),
        "start": start,
        "end": max(start, min(end, len(found.text))),
        "text": found.text[start:end],
        "chunks": [{"chunk": chunk.id, "start": chunk.start, "end": chunk.end, "path": chunk.path} for chunk in inside],
    }


def _failed(failures: list[Failure]) -> dict[str, Any]:
    return {"failed": len(failures), "failures": [asdict(one) for one in failures[:PAGE]]}
