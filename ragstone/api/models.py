"""Embedding models for administrators: what the gate said of each training run, question by question, and where a model comes from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ragstone import release as records
from ragstone import termmap
from ragstone.api import body
from ragstone.api.call import Origin, administer, origin
from ragstone.api.documents import shelved
from ragstone.corpus import catalogue
from ragstone.errors import RequestError
from ragstone.fields import Fields
from ragstone.store import Store

ROOT = "models/"


async def listing(request: Request) -> Response:
    """The models of the store with their releases, and every verdict, the newest first."""
    principal = administer(request)
    return JSONResponse(await origin(request).compute(lambda: _listing(origin(request), principal.groups)))


async def terms(request: Request) -> Response:
    """A map of the domain's terms under two models of the store, `before` and `after`. Its documents are those that the key may read."""
    principal, here = administer(request), origin(request)
    fields = await body.read(request, here.limit)
    fields.only("before", "after")
    release, shelf = await shelved(request, Fields({}))
    words = await here.compute(lambda: termmap.telling([chunk.context for chunk in shelf.passages(principal.groups)]))
    if len(words) < termmap.FEW:
        raise RequestError(f"the documents give {len(words)} terms: too few for a map", "before")
    async with here.releases.model(fields.text("before")) as (first, _), here.releases.model(fields.text("after")) as (second, _):
        made = await here.encode(lambda: termmap.draw(words, first.queries, second.queries))
    return JSONResponse({"release": release, **asdict(made)})


def _listing(here: Origin, groups: tuple[str, ...]) -> dict[str, Any]:
    store, record = here.store, here.releases.record
    used: dict[str, list[str]] = {}
    for id in records.saved(store):
        used.setdefault(records.load(store, id).model, []).append(id)
    in_force = records.load(store, record.release) if record else None
    seen = {one.document for one in catalogue.of(store, in_force.snapshot).visible(groups)} if in_force else set()
    digests = sorted({stat.key.split("/")[1] for stat in store.list(ROOT)})
    models = [{"model": digest, "releases": used.get(digest, []), **_model(store, digest)} for digest in digests]
    kept = [_verdict(store, stat.key, seen) for stat in store.list("verdicts/")]
    return {"in_force": in_force.model if in_force else None, "models": models, "verdicts": sorted(kept, key=lambda one: -one["at"])}


def _model(store: Store, digest: str) -> dict[str, Any]:
    """What its card says of its making, and which model it was judged against."""
    card, report = (_read(store, f"{ROOT}{digest}/{name}.json") for name in ("card", "report"))
    return {
        "name": card.get("name", ""),
        "base": card.get("base", ""),
        "dimensions": card.get("dimensions", 0),
        "lineage": card.get("lineage", {}),
        "incumbent": report.get("incumbent"),
        "snapshot": report.get("snapshot"),
    }


def _verdict(store: Store, key: str, seen: set[str]) -> dict[str, Any]:
    """The verdict, with questions only of documents that the caller may read."""
    kept = json.loads(store.get(key))
    said = kept["verdict"]
    changes = [one for one in said.get("changes", ()) if one["document"] in seen]
    report = _read(store, f"{ROOT}{kept['model']}/report.json") if kept["model"] else {}
    told = {"model": kept["model"] or None, "at": kept.get("at", 0.0), "curve": kept.get("curve") or report.get("curve", [])}
    return {**said, **told, "changes": changes, "hidden": len(said.get("changes", ())) - len(changes)}


def _read(store: Store, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.get(key)) if store.stat(key) else {}
    return found
