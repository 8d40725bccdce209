"""What is served beside answers: retrieval alone, embeddings, the list of models, the release in force, health and metrics."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ragstone import release as records
from ragstone import telemetry, vectors
from ragstone.api import body
from ragstone.api.call import authorise, confirmed, origin, validators
from ragstone.api.releases import NotReady, unknown
from ragstone.corpus import views
from ragstone.embedder import Embedder
from ragstone.embeddings import Embeddings
from ragstone.release import canonical
from ragstone.retrieve import Hit
from ragstone.vectors import CHUNK, DOCUMENT

BY_DIGEST = "models/"
"""What a `model` begins with that is no release, but an embedding model by its digest: an index of it may still be in the making."""


async def retrieve(request: Request) -> Response:
    """The hits of a question with all their scores, best first; `relevant` says whether the calibrated one reaches the threshold."""
    principal = authorise(request)
    asked = body.retrieve(await body.read(request, origin(request).limit))
    async with origin(request).releases.use(asked.model or origin(request).releases.channel) as opened:
        settings, wanted = opened.release.retrieval, asked.search
        top_k = wanted.top_k or int(settings["top_k"])
        threshold = settings["similarity_threshold"] if wanted.similarity_threshold is None else wanted.similarity_threshold
        hits = await origin(request).compute(lambda: opened.retriever.search(asked.query, principal.groups, top_k, wanted.filter))
    data = [_hit(rank, hit, threshold) for rank, hit in enumerate(hits, 1)]
    found = {"object": "list", "query": asked.query, "threshold": threshold, "data": data}
    headers = validators(opened, f'"{hashlib.sha256(canonical(found)).hexdigest()[:32]}"')
    if confirmed(request, headers["etag"]):
        return Response(status_code=304, headers=headers)
    return JSONResponse({**found, "release": opened.id}, headers=headers)


async def embeddings(request: Request) -> Response:
    """Unit vectors of an embedding model: a release's own, or one by digest; cut to `dimensions` they are scaled to length 1 again."""
    authorise(request)
    by_address = request.query_params.get("input_type", DOCUMENT)
    asked = vectors.read(await body.read(request, origin(request).limit), by_address)
    if asked.kind == by_address == CHUNK:  # an engine that sends no fields of ours tries it with a text of its own
        asked = replace(asked, texts=tuple(map(views.as_passage, asked.texts)))
    asked.check_chunks()
    async with _embedder(request, asked.model) as (embedder, embeddings, headers):
        asked.check_dimensions(embedder.dimensions)
        found = await embeddings.encode(asked.kind, asked.texts)
        tokens = await origin(request).encode(lambda: sum(map(embedder.tokens, asked.texts)))
    return JSONResponse(vectors.answer(asked, found, tokens), headers=headers)


async def models(request: Request) -> Response:
    """Every name that `model` can have: channels and releases."""
    authorise(request)
    return JSONResponse({"object": "list", "data": await origin(request).compute(lambda: _models(request))})


async def model(request: Request) -> Response:
    """One of them. Raises `RequestError` (model_not_found)."""
    authorise(request)
    name = request.path_params["name"]
    for known in await origin(request).compute(lambda: _models(request)):
        if known["id"] == name:
            return JSONResponse(known)
    raise unknown(name)


async def release(request: Request) -> Response:
    """What is in force here, and what an edge needs to verify keys. Nothing in it is secret, so no key is asked for."""
    releases = origin(request).releases
    if releases.record is None:
        raise NotReady(f"not ready: {releases.reason}", "ragstone up")
    record, pointer = releases.record, releases.pointer
    return JSONResponse(
        {
            "channel": record.channel,
            "number": record.number,
            "release": record.release,
            "keys": pointer.keys,
            "revoked": sorted(pointer.revoked),
            "canary": record.canary,
            "purged": pointer.purged,
        },
        headers={"cache-control": "no-cache"},
    )


async def healthz(request: Request) -> Response:
    """Whether the process lives."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Whether a release is open; if not, or if a newer one does not open, the reason."""
    releases = origin(request).releases
    if releases.record is None:
        return JSONResponse({"status": "not ready", "reason": releases.reason}, 503)
    told = {"status": "ready", "channel": releases.channel, "release": releases.record.release, "number": releases.record.number}
    return JSONResponse(told | ({"reason": releases.reason} if releases.reason else {}))


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(telemetry.exposition(), media_type=None, headers={"content-type": telemetry.CONTENT_TYPE})


@asynccontextmanager
async def _embedder(request: Request, name: str) -> AsyncIterator[tuple[Embedder, Embeddings, dict[str, str]]]:
    """The embedding model of a release, or the one that `models/<digest>` names, what encodes with it, and the headers of an answer."""
    releases = origin(request).releases
    if name.startswith(BY_DIGEST):
        async with releases.model(name.removeprefix(BY_DIGEST)) as (embedder, embeddings):
            yield embedder, embeddings, {}
    else:
        async with releases.use(name) as opened:
            yield opened.embedder, opened.embeddings, validators(opened)


def _hit(rank: int, hit: Hit, threshold: float) -> dict[str, Any]:
    chunk = hit.chunk
    scores = {"dense": hit.dense, "keyword": hit.keyword, "fused": hit.fused, "calibrated": hit.score}
    return {
        "rank": rank,
        "chunk": chunk.id,
        "document": chunk.document,
        "title": chunk.title,
        "path": list(chunk.path),
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "metadata": dict(chunk.metadata),
        "scores": {name: round(float(score), 6) for name, score in scores.items()},
        "relevant": hit.score >= threshold,
    }


def _models(request: Request) -> list[dict[str, Any]]:
    store = origin(request).store
    channels = sorted({stat.key.split("/")[1] for stat in store.list("channels/")})
    named: dict[str, dict[str, Any]] = {}
    since: dict[str, float] = {}
    for channel in channels:
        history = records.history(store, channel)
        for record in history:
            since.setdefault(record.release, record.at)
        named[channel] = {"created": int(history[-1].at), "release": history[-1].release}
    for id in sorted({*records.saved(store)} - records.withdrawn(store)):
        named[id] = {"created": int(since.get(id, 0)), "release": id}
    return [
        {"id": name, "object": "model", "created": facts["created"], "owned_by": "ragstone", "ragstone": {"release": facts["release"]}}
        for name, facts in named.items()
    ]
