"""Forgetting documents: every place where they are, and taking them out of each. What can't be taken out is said.

The releases in force get successors without them first, so that questions are answered all the time; then the old parts go. A path that
was forgotten is not staged again, nor is its content under another name, until a person undoes that.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ragstone import collect, project, rag
from ragstone import release as releases
from ragstone import store as stores
from ragstone.config import Settings, override
from ragstone.corpus import feedback, forgotten
from ragstone.corpus import snapshot as snapshots
from ragstone.corpus import stage as staging
from ragstone.errors import CorpusError
from ragstone.manifest import NAME, Manifest
from ragstone.release import Record
from ragstone.runs import Runs
from ragstone.show import Show
from ragstone.store import Store

GRACE = 5.0
"""Seconds that running origins get to take the successors, before the parts that they served are removed."""


@dataclass(frozen=True)
class Trained:
    """A model that learned from a document: what its weights hold of it stays there."""

    model: str
    releases: tuple[str, ...]
    in_force: bool
    questions: int
    """Sentences of the document in the report beside the weights."""


@dataclass(frozen=True)
class Report:
    """Where documents are, or were before they were `forgotten`."""

    documents: tuple[str, ...]
    groups: tuple[str, ...]
    """Who may read them, or might."""
    forgotten: bool
    source: tuple[str, ...]
    """Those that still lie in the source folder, which is not ours to change."""
    contents: tuple[str, ...]
    """The digests of their files in the store."""
    shared: tuple[str, ...]
    """Other paths with the same content, which stay."""
    chunks: int
    """Their passages, over all snapshots."""
    snapshots: tuple[str, ...]
    indexes: tuple[str, ...]
    elsewhere: tuple[str, ...]
    """URLs of what was made of the snapshots at another system, which finds passages for such a release."""
    releases: tuple[str, ...]
    channels: Mapping[str, str]
    """Channels that such a release is in force on, each with its successor; empty before there is one."""
    feedback: int
    """Votes on answers that cite them."""
    questions: int
    """Held-out questions of verdicts that are their sentences."""
    unfinished: tuple[str, ...]
    """What long work keeps of texts on this machine."""
    models: tuple[Trained, ...]

    @property
    def stays(self) -> list[str]:
        """What can't be taken out, in words."""
        said = [f"{path} lies in the source folder: remove it there too" for path in self.source]
        said += [f"the same content is also staged as {path}, which stays" for path in self.shared]
        said += [f"the weights of model {one.model[:12]} were trained on a corpus with it{_serving(one)}" for one in self.models]
        said += [f"the report of model {one.model[:12]} quotes {one.questions} of its sentences" for one in self.models if one.questions]
        said.append("listings of what was staged name its path")
        said.append("answers that were sent are with those who asked; backups and caches of other machines are for their owners to clear")
        return said

    def json(self) -> dict[str, Any]:
        """All of it as JSON's values."""
        return {**asdict(self), "stays": self.stays}

    def __str__(self) -> str:
        verb = "removed" if self.forgotten else "would be removed"
        counts = {
            "files in the store": len(self.contents),
            "snapshots": len(self.snapshots),
            "passages in them": self.chunks,
            "indexes": len(self.indexes),
            "knowledge bases elsewhere": len(self.elsewhere),
            "releases withdrawn": len(self.releases),
            "votes on answers": self.feedback,
            "held-out questions": self.questions,
            "unfinished work": len(self.unfinished),
        }
        channels = [f"{name:<12}{new or 'gets a release without it'}" for name, new in self.channels.items()]
        lines = [f"{count:>6}  {name} {verb}" for name, count in counts.items()]
        return "\n".join([*lines, *channels, "answers kept by edges are made anew", *(f"stays: {one}" for one in self.stays)])


def report(settings: Settings, store: Store, documents: Sequence[str]) -> Report:
    """Where the documents are; nothing is changed. Raises `CorpusError` for one that was never here."""
    wanted, listings = {*documents}, list(_listings(store))
    held = {digest: found for digest in _published(store, "corpora") if (found := _passages(store, digest, wanted))[0]}
    known = {name for files in listings for name in files} | {name for found in held.values() for name in found[0]}
    if missing := [name for name in documents if name not in known]:
        raise CorpusError(f"{missing[0]} was never staged in {store.url}", "ragstone forget PATH, as it stands below the source folder")
    ids = [id for id in releases.saved(store) if releases.load(store, id).snapshot in held]
    contents = {files[name]["sha256"] for files in listings for name in wanted if name in files}
    others = {name: file["sha256"] for name, file in (listings[-1] if listings else {}).items() if name not in wanted}
    chunks = {chunk for found in held.values() for chunk in found[1]}
    return Report(
        documents=tuple(documents),
        groups=tuple(sorted({group for found in held.values() for groups in found[0].values() for group in groups})),
        forgotten=False,
        source=tuple(name for name in documents if (settings.folder / settings.project.source / name).is_file()),
        contents=tuple(sorted(contents - {*others.values()})),
        shared=tuple(sorted(name for name, digest in others.items() if digest in contents)),
        chunks=len(chunks),
        snapshots=tuple(held),
        indexes=tuple(sorted({releases.load(store, id).index for id in ids})),
        elsewhere=tuple(sorted({url for id in ids if (url := releases.load(store, id).rag)})),
        releases=tuple(id for id in ids if id not in releases.withdrawn(store)),
        channels={record.channel: "" for record in _in_force(store) if {record.release, *record.canary} & {*ids}},
        feedback=len(_votes(store, chunks)),
        questions=sum(len(_questions(json.loads(store.get(key)), wanted)) for key in _verdicts(store)),
        unfinished=tuple(path.name for path in _unfinished(settings)),
        models=tuple(_trained(store, {*held}, wanted)),
    )


def forget(settings: Settings, store: Store, documents: Sequence[str], show: Show, grace: float = GRACE) -> Report:
    """The report of it, done. It may be killed at any moment, and typed again. Raises `CorpusError`."""
    if any(run.state == "running" for run in Runs(settings.work_folder, settings.folder).all("train")):
        raise CorpusError("a training run is reading the documents", "stop it, then the same command again")
    found = report(settings, store, documents)
    for path in documents:
        forgotten.add(store, path, found.contents)
    listing = staging.drop(store, documents)
    made: dict[str, str] = {}
    if found.channels:
        fresh = snapshots.build(store, listing, settings.corpus)
        made = {record.channel: _succeed(settings, store, record, fresh, found.releases, show) for record in _in_force(store)}
    for channel in {record.channel for record in _in_force(store)}:
        releases.purge(store, channel)
    for id in found.releases:
        releases.withdraw(store, id)
    _remove_words(settings, store, found)
    if made:
        time.sleep(grace)
    _remove_parts(settings, store, found)
    show.say(f"forget    {', '.join(documents)}: out of {len(found.snapshots)} snapshots and {len(found.indexes)} indexes")
    return replace(found, forgotten=True, channels={name: made[name] for name in found.channels})


def undo(store: Store, documents: Sequence[str]) -> None:
    """Let the paths and their contents be staged again; nothing comes back by itself. Raises `CorpusError` for one that may be."""
    for path in documents:
        forgotten.lift(store, path)


def _succeed(settings: Settings, store: Store, record: Record, snapshot: str, held: Iterable[str], show: Show) -> str:
    """The release in force on the record's channel from now on: the same one where it holds none of the documents."""
    chosen = {id: _successor(settings, store, id, snapshot, show) if id in held else id for id in (record.release, *record.canary)}
    shares = {chosen[id]: share for id, share in record.canary.items()}
    if chosen[record.release] != record.release or shares != dict(record.canary):
        made = releases.promote(store, record.channel, chosen[record.release], after=record.number, canary=shares)
        project.point(settings, store, made, show)
    return chosen[record.release]


def _successor(settings: Settings, store: Store, id: str, snapshot: str, show: Show) -> str:
    """The release as it is, over another snapshot."""
    old = releases.load(store, id)
    same = override(replace(settings, retrieve=old.weights), "rag", url=old.rag or rag.LOCAL)
    made = project.assemble(same, store, snapshot, old.model, f"{id} without what was forgotten", show)
    return releases.save(store, replace(made, generator=old.generator, retrieval=old.retrieval, prompt=old.prompt))


def _remove_words(settings: Settings, store: Store, found: Report) -> None:
    """What others said and made of the documents; it is found by their passages, so it goes before those."""
    wanted = {*found.documents}
    chunks = {chunk for digest in found.snapshots for chunk in _passages(store, digest, wanted)[1]}
    for key in _votes(store, chunks):
        store.delete(key)
    for key in _verdicts(store):
        kept = json.loads(store.get(key))
        if gone := _questions(kept, wanted):
            kept["verdict"]["changes"] = [one for one in kept["verdict"]["changes"] if one not in gone]
            store.put(key, json.dumps(kept, indent=1).encode())
    for path in _unfinished(settings):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _remove_parts(settings: Settings, store: Store, found: Report) -> None:
    for url in found.elsewhere:
        rag.remove(store, url)
    for digest in found.indexes:
        _forget_copy(store, f"indexes/{digest}")
        collect.remove(settings, store, digest)
    for digest in found.snapshots:
        _forget_copy(store, snapshots.prefix(digest))
        collect.remove_folder(store, snapshots.prefix(digest))
    for content in found.contents:
        for stat in list(store.list(f"parsed/{content}")):
            store.delete(stat.key)
        store.delete(staging.blob(content))


def _forget_copy(store: Store, prefix: str) -> None:
    """The end of this machine's copy of a published folder, where the store is elsewhere."""
    if stores.published(store, prefix):
        shutil.rmtree(Manifest(store.get(f"{prefix}/{NAME}"), prefix, store.url).place, ignore_errors=True)


def _listings(store: Store) -> Iterator[dict[str, dict[str, Any]]]:
    """The files of every listing by path, the newest last."""
    for stat in list(store.list(staging.LISTINGS)):
        yield json.loads(store.get(stat.key))["files"]


def _published(store: Store, root: str) -> list[str]:
    digests = {stat.key.split("/")[1] for stat in store.list(f"{root}/")}
    return [digest for digest in sorted(digests) if stores.published(store, f"{root}/{digest}")]


def _passages(store: Store, digest: str, documents: set[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The groups of those documents that a snapshot has, and the ids of their chunks."""
    folder = stores.fetch(store, snapshots.prefix(digest))
    read = {row["id"]: tuple(row["groups"]) for row in _rows(folder / snapshots.DOCUMENTS, "id", documents)}
    return read, [row["id"] for row in _rows(folder / snapshots.CHUNKS, "document", documents)] if read else []


def _rows(path: Path, field: str, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """The lines of a file whose field is wanted; most are not even parsed."""
    marks = [json.dumps(name) for name in wanted]
    with path.open(encoding="utf-8") as file:
        for line in file:
            if any(mark in line for mark in marks) and (row := json.loads(line))[field] in wanted:
                yield row


def _in_force(store: Store) -> list[Record]:
    channels = sorted({stat.key.split("/")[1] for stat in store.list("channels/")})
    return [record for channel in channels if (record := releases.current(store, channel))]


def _votes(store: Store, chunks: set[str]) -> list[str]:
    """The keys of the feedback that cites one of the chunks."""
    cited = [(key, row.get("hits")) for key, row in list(feedback.rows(store))]
    return [key for key, hits in cited if isinstance(hits, list) and not chunks.isdisjoint(hits)]


def _verdicts(store: Store) -> list[str]:
    return [stat.key for stat in store.list("verdicts/")]


def _questions(kept: Mapping[str, Any], documents: set[str]) -> list[dict[str, Any]]:
    """The questions of a verdict that are sentences of the documents."""
    return [one for one in kept["verdict"].get("changes", ()) if one["document"] in documents]


def _trained(store: Store, held: set[str], documents: set[str]) -> Iterator[Trained]:
    """The models that were trained on one of the snapshots."""
    serving = {id for record in _in_force(store) for id in (record.release, *record.canary)}
    for digest in _published(store, "models"):
        key = f"models/{digest}/report.json"
        told = json.loads(store.get(key)) if store.stat(key) else {}
        if told.get("snapshot") in held:
            used = tuple(id for id in releases.saved(store) if releases.load(store, id).model == digest)
            quoted = sum(one["document"] in documents for one in told.get("changes", ()))
            yield Trained(digest, used, not serving.isdisjoint(used), quoted)


def _unfinished(settings: Settings) -> list[Path]:
    """Checkpoints, drafts, answers and results of exams: all may quote, and all can be made again."""
    work = settings.work_folder
    inside = [path for path in work.glob("*") if path.name != "runs"]
    return sorted([*inside, *(path for path in (work / "runs" / "eval").glob("*") if path.name != "lock")])


def _serving(one: Trained) -> str:
    return ", and it is in force: train anew, on what is left" if one.in_force else ""
