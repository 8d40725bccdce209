"""The step from a snapshot and a model to a published index: the pipeline's longest, and the one that is killed most."""

from __future__ import annotations

import hashlib
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ragstone import release as releases
from ragstone import store as stores
from ragstone.config import Settings
from ragstone.errors import IndexingError
from ragstone.release import canonical
from ragstone.show import Show
from ragstone.store import Store

if TYPE_CHECKING:
    from ragstone.draft import Progress
    from ragstone.index import Encoding, Index, Model, Place


def index(settings: Settings, store: Store, snapshot: str, model: str, show: Show) -> str:
    """The digest of the index of a snapshot under a model. Only what the index in force does not hold is encoded.

    Chunks and vectors are never held whole, and a run that was killed goes on with the part in which it was. Where an engine makes the
    vectors, what it has is not written again.
    """
    from ragstone import draft
    from ragstone import index as indexes

    place = indexes.connect(settings.index)
    told = draft.Progress(_digest(snapshot, model, place), snapshot, model)
    if isinstance(place, indexes.Encoding):
        place.prepare(sized(store, model))  # also for an index that is there: the engine's key may be another by now
    if _published(store, told):
        return told.index
    place.check()
    with draft.held(settings.work_folder, told.index) as folder:
        if not _published(store, told):  # by a process that was waited for
            if isinstance(place, indexes.Encoding):
                _ingest(settings, store, told, place, folder, show)
            else:
                _build(settings, store, told, place, folder, show)
        draft.remove(folder)
    return told.index


def named(settings: Settings, snapshot: str, model: str) -> str:
    """The digest that the index of a snapshot under a model has, made or not."""
    from ragstone import index as indexes

    return _digest(snapshot, model, indexes.connect(settings.index))


def explain(settings: Settings, store: Store, snapshot: str, model: str) -> list[str]:
    """What `index` would send elsewhere, for a person to read; nothing is sent."""
    from ragstone import index as indexes
    from ragstone.corpus import snapshot as snapshots

    return indexes.explain(settings.index, named(settings, snapshot, model), len(snapshots.chunks(store, snapshot)), sized(store, model))


def sized(store: Store, digest: str) -> Model:
    """The embedding model as an engine must know it."""
    from ragstone.embedder import read_card
    from ragstone.index import Model

    return Model(digest, read_card(stores.fetch(store, f"models/{digest}")).dimensions)


def open(settings: Settings, store: Store, digest: str) -> Index:
    """A published index."""
    from ragstone import index as indexes

    return indexes.open(stores.fetch(store, f"indexes/{digest}"), digest, settings.index)


def _build(settings: Settings, store: Store, told: Progress, place: Place, folder: Path, show: Show) -> None:
    """Encode what no index knows into the draft in `folder`, build the index of it and publish it."""
    from ragstone import draft, encoding, errands
    from ragstone import train as training
    from ragstone.corpus import snapshot as snapshots

    chunks, model = snapshots.chunks(store, told.snapshot), stores.fetch(store, f"models/{told.model}")
    made, told = draft.Draft(folder, sized(store, told.model).dimensions), replace(told, chunks=len(chunks))
    mapper = training.mapper(settings.train.url)
    with closing(encoding.Known(_in_force(settings, store, told.model))) as known, show.bar("encode", len(chunks)) as advance:
        encoded = encoding.fill(made, chunks, known, partial(mapper.map, errands.passages, [model]), told, advance)
    with show.bar("index", len(chunks)) as advance:
        target = made.target()
        place.build(target, told.index, chunks, made.vectors, advance)
        stores.publish(store, f"indexes/{told.index}", target)
    show.say(f"index     {len(chunks)} chunks, {encoded} of them encoded, under model {told.model[:12]}")


def _ingest(settings: Settings, store: Store, told: Progress, place: Encoding, folder: Path, show: Show) -> None:
    """Let the engine make the vectors that no index knows, and publish where the index is."""
    from ragstone import draft, encoding
    from ragstone.corpus import snapshot as snapshots

    chunks, size = snapshots.chunks(store, told.snapshot), sized(store, told.model)
    target = draft.Draft(folder, size.dimensions).target()
    with closing(encoding.Known(_in_force(settings, store, told.model))) as index, show.bar("ingest", len(chunks)) as advance:
        known = encoding.ByRow(chunks, index)
        place.ingest(target, told.index, chunks, known, size, advance)
    stores.publish(store, f"indexes/{told.index}", target)
    show.say(f"index     {len(chunks)} chunks, {known.fresh} of them encoded, under model {told.model[:12]}")


def _in_force(settings: Settings, store: Store, model: str) -> Index | None:
    """The index in force, if it is one of the same model and can be opened."""
    record = releases.current(store, settings.project.channel)
    release = releases.load(store, record.release) if record else None
    if release is None or release.model != model or not stores.published(store, f"indexes/{release.index}"):
        return None
    with suppress(IndexingError):  # an engine that is gone must not keep its documents from being indexed elsewhere
        return open(settings, store, release.index)
    return None


def _published(store: Store, told: Progress) -> bool:
    return stores.published(store, f"indexes/{told.index}")


def _digest(snapshot: str, model: str, place: Place) -> str:
    return hashlib.sha256(canonical([snapshot, model, *place.identity])).hexdigest()
