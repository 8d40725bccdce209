"""Releases and channels for administrators: what there is, what differs, what is in force, and putting another in force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ragstone import distribution
from ragstone import index as indexes
from ragstone import release as records
from ragstone.api import body
from ragstone.api.call import Origin, administer, origin
from ragstone.errors import Conflict, IndexingError, ReleaseError, RequestError
from ragstone.fields import Fields
from ragstone.release import Record
from ragstone.store import Store

TOP_K = body.TOP_K


async def listing(request: Request) -> Response:
    """Every release with its parts, and every channel's history, oldest record first."""
    administer(request)
    return JSONResponse(await origin(request).compute(lambda: _listing(origin(request))))


async def save(request: Request) -> Response:
    """A candidate: another release's parts under `top_k` and `similarity_threshold`. It is in force nowhere until it is promoted."""
    principal = administer(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("release", "top_k", "similarity_threshold")
    chosen = {"top_k": fields.whole("top_k", 1, TOP_K), "similarity_threshold": fields.number("similarity_threshold", 0, 1)}
    changed = {name: value for name, value in chosen.items() if value is not None}
    with _told():
        id = await origin(request).compute(lambda: _saved(origin(request).store, fields.text("release"), changed, principal.key))
    return JSONResponse({"release": id}, 201)


async def difference(request: Request) -> Response:
    """The parts in which two releases (ids or channels) differ."""
    administer(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("one", "other")
    with _told():
        found = await origin(request).compute(lambda: _difference(origin(request).store, fields.text("one"), fields.text("other")))
    return JSONResponse({"data": [{"part": part, "one": one, "other": other} for part, one, other in found]})


async def scores(request: Request) -> Response:
    """What own passages of questions and what the best ones of foreign questions got when the `release` was calibrated; null: not kept."""
    administer(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("release")
    store = origin(request).store
    with _told():
        id = await origin(request).compute(lambda: records.resolve(store, fields.text("release")))
        found = await origin(request).compute(lambda: distribution.of(store, records.load(store, id)))
    return JSONResponse({"release": id, "scores": asdict(found) if found else None})


async def promote(request: Request) -> Response:
    """Put a release in force, if record `after` still is the channel's newest. Raises `RequestError` (conflict) otherwise."""
    administer(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("channel", "release", "after")
    channel, release, after = fields.text("channel"), fields.text("release"), _after(fields)
    with _told():
        made = await origin(request).compute(lambda: records.promote(origin(request).store, channel, release, after=after))
    return await _promoted(request, made)


async def canary(request: Request) -> Response:
    """Let a release answer `share` per cent of the channel's conversations beside the one in force, 0 to end it; likewise."""
    administer(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("channel", "release", "share", "after")
    channel, release, share, after = fields.text("channel"), fields.text("release"), fields.whole("share", 0, 99), _after(fields)
    if share is None:
        raise fields.wrong("share", "a whole number from 0 to 99")
    with _told():
        made = await origin(request).compute(lambda: records.canary(origin(request).store, channel, release, share, after=after))
    return JSONResponse(asdict(made), 201)


async def rollback(request: Request) -> Response:
    """Put back what was in force before, under the same condition."""
    administer(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("channel", "after")
    channel, after = fields.text("channel"), _after(fields)
    with _told():
        made = await origin(request).compute(lambda: _rollback(origin(request).store, channel, after))
    return await _promoted(request, made)


async def _promoted(request: Request, record: Record) -> Response:
    here = origin(request)
    said = await here.compute(lambda: _point(here, record))
    return JSONResponse(asdict(record) | ({"warning": said} if said else {}), 201)


def _point(here: Origin, record: Record) -> str:
    """An engine outside the store is told, not asked; why it could not be, in words."""
    try:
        indexes.point(here.store, records.load(here.store, record.release).index, record.channel, here.settings.index)
    except IndexingError as error:
        return f"the engine's alias stays where it was: {error.message}"
    return ""


def _listing(here: Origin) -> dict[str, Any]:
    store = here.store
    names = sorted({stat.key.split("/")[1] for stat in store.list("channels/")})
    gone = records.withdrawn(store)
    releases = [{"release": id, **asdict(records.load(store, id)), "withdrawn": id in gone} for id in records.saved(store)]
    return {
        "channel": here.settings.project.channel,
        "releases": releases,
        "channels": {name: [asdict(record) for record in records.history(store, name)] for name in names},
    }


def _saved(store: Store, name: str, changed: dict[str, float], key: str) -> str:
    known = records.load(store, records.resolve(store, name))
    said = ", ".join(f"{setting} {value:g}" for setting, value in sorted(changed.items()))
    note = f"tested with {said or 'nothing changed'} by {key}"
    return records.save(store, replace(known, retrieval={**known.retrieval, **changed}, note=note))


def _difference(store: Store, one: str, other: str) -> list[tuple[str, object, object]]:
    left, right = (records.load(store, records.resolve(store, name)) for name in (one, other))
    return records.diff(left, right)


def _rollback(store: Store, channel: str, after: int) -> Record:
    now = records.current(store, channel)
    if now is None or now.number != after:
        raise Conflict(f"record {after} is no longer the newest of {channel}; look again")
    return records.rollback(store, channel)


def _after(fields: Fields) -> int:
    after = fields.whole("after", 0, 10**8)
    if after is None:
        raise fields.wrong("after", "the number of the channel's newest record, 0 for none")
    return after


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong with a release is for the administrator to read."""
    try:
        yield
    except (ReleaseError, Conflict) as error:
        raise RequestError(error.message, status=error.status, code=error.code) from None
