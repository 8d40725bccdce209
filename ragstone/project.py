"""The pipeline: each step returns what it made, names it by digest, and does nothing when that is there already."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ragstone import indexing
from ragstone import release as releases
from ragstone import store as stores
from ragstone.config import AUTO, CLIENT, Settings, override
from ragstone.corpus import PUBLIC, Chunk, Failure
from ragstone.errors import Conflict, CorpusError, ExamError, IndexingError, TrainError
from ragstone.release import Record, Release, canonical
from ragstone.show import Show, Silence, paced
from ragstone.store import Store

if TYPE_CHECKING:
    from ragstone.access import Principal
    from ragstone.corpus.labelled import Material
    from ragstone.corpus.labels import Labels, Unusable
    from ragstone.corpus.questions import Posed
    from ragstone.corpus.stage import Listing
    from ragstone.embedder import Embedder
    from ragstone.evaluate import Verdict
    from ragstone.exam import Paper, Report
    from ragstone.kept import Kept
    from ragstone.rag import Answer, Options
    from ragstone.retrieve import Calibration, Hit, Search
    from ragstone.serve import Message
    from ragstone.train import Recipe


RAW = "raw"
HELD_OUT = 100
"""Questions made of the documents that an exam asks: their answers take a while."""


def store_of_raw(destination: str, project_store: str = "") -> str:
    """The store's URL from that of its `raw/` folder: what `ragstone cp` is given. Options that it lacks are the project's, for its bucket.

    >>> store_of_raw("oss://bucket/raw/", "oss://bucket/prefix?region=cn-hangzhou")
    'oss://bucket?region=cn-hangzhou'
    """
    place, _, options = destination.partition("?")
    store, _, last = place.rstrip("/").rpartition("/")
    if last != RAW:
        raise CorpusError(f"{destination} is not the {RAW}/ folder of a store", f"ragstone cp -r ./data {place.rstrip('/')}/{RAW}/")
    known, _, known_options = project_store.partition("?")
    if not options and known.split("/")[:3] == place.split("/")[:3]:
        options = known_options
    return f"{store}?{options}" if options else store


def stage(settings: Settings, store: Store, show: Show, *, delete: bool = True) -> Listing:
    """The listing of the source folder, all its content in the store; without `delete`, beside what was staged before."""
    from ragstone.corpus import stage as staging

    with show.bar("stage") as advance:
        listing = staging.stage(store, settings.folder / settings.project.source, paced(advance), delete=delete)
    done = listing.summary
    show.say(f"stage     copied {done.copied}, skipped {done.skipped}, deleted {done.deleted}")
    return listing


def snapshot(settings: Settings, store: Store, show: Show) -> str:
    """The digest of the snapshot of what is staged."""
    from ragstone.corpus import snapshot as snapshots
    from ragstone.corpus import stage as staging

    listing = staging.latest(store)
    if listing is None:
        raise CorpusError(f"nothing is staged in {store.url}", "ragstone stage ./docs")
    told = set[str]()

    def failed(failure: Failure) -> None:
        told.add(failure.path)
        show.failed(failure.path, failure.reason)

    with show.bar("parse") as advance:
        digest = snapshots.build(store, listing, settings.corpus, advance, failed)
    made = snapshots.size(store, digest)
    show.say(f"snapshot  {made.documents} documents, {made.chunks} chunks; files skipped: {len(made.failures)}")
    for failure in made.failures:
        if failure.path not in told:  # of a snapshot that was there, or a file that could not be staged
            show.failed(failure.path, failure.reason)
    return digest


def incumbent(settings: Settings, store: Store, show: Show) -> str:
    """The digest of the model in force on the channel, or of the base model when there is none."""
    record = releases.current(store, settings.project.channel)
    model = releases.load(store, record.release).model if record else ""
    return model if model and stores.published(store, f"models/{model}") else base(settings, store, show)


def base(settings: Settings, store: Store, show: Show) -> str:
    """The digest of the base model, prepared from its weights and published."""
    from ragstone import embedder

    name, weights = settings.train.base, pull(settings.train.base, show)
    query, document = (None if prefix == AUTO else prefix for prefix in (settings.train.query_prefix, settings.train.document_prefix))
    card = embedder.describe(weights, name=name, base=name, query_prefix=query, document_prefix=document)
    with _folder() as folder:
        digest = embedder.place(weights, folder, card)
        stores.publish(store, f"models/{digest}", folder)
    return digest


def pull(name: str, show: Show) -> Path:
    """Where the weights are, got first when the cache lacks them."""
    from ragstone import weights

    return weights.pull(name, show.say)


def calibrate(settings: Settings, store: Store, snapshot: str, model: str, index: str, show: Show) -> Calibration:
    """The map from raw scores to P(relevant), fitted once for an index and its fusion. Of a large corpus a sample of its chunks is read."""
    from ragstone import calibrate as calibration
    from ragstone import distribution
    from ragstone.corpus import pairs
    from ragstone.corpus import snapshot as snapshots
    from ragstone.retrieve import Calibration, Retriever, weighed

    embedder = open_model(store, model)
    weights = weighed(settings.retrieve, embedder)
    key = f"calibrations/{_digest([calibration.FORMAT, index, {**asdict(weights), 'top_k': 0}])}.json"
    if store.stat(key):
        return Calibration(tuple(json.loads(store.get(key))["coefficients"]))
    chunks = snapshots.chunks(store, snapshot).sample(calibration.SAMPLE)
    made = pairs.mine(chunks, seed=settings.train.seed).questions
    own, sources = [one.text for one in made], {one.text: one.relevant for one in made}
    retriever = Retriever.of(indexing.open(settings, store, index), embedder, Calibration.default(), weights)
    with show.bar("calibrate"):
        cut, everyone = weights.similarity_threshold, groups(settings)
        fit = calibration.fit(retriever, own, chunks, sources=sources, threshold=cut, groups=everyone)
    report = {"answered": fit.answered, "refused": fit.refused, "questions": fit.questions, "foreign": fit.foreign}
    distribution.keep(store, index, fit.calibration.coefficients, fit.distribution)
    _create(store, key, {"coefficients": fit.calibration.coefficients, **report})
    show.say(
        f"calibrate at {weights.similarity_threshold} {fit.answered:.0%} of {fit.questions} questions made from the corpus are answered, "
        f"{fit.refused:.0%} of {fit.foreign} foreign or meaningless ones refused"
    )
    return fit.calibration


def assemble(settings: Settings, store: Store, snapshot: str, model: str, note: str, show: Show) -> Release:
    """The release of a snapshot under a model, with all its parts in the store."""
    from ragstone import rag
    from ragstone.rag.local import PROMPT
    from ragstone.retrieve import weighed

    digest = indexing.index(settings, store, snapshot, model, show)
    calibration = calibrate(settings, store, snapshot, model, digest, show)
    release = Release(
        snapshot=snapshot,
        model=model,
        index=digest,
        generator=_generators(settings, store, show),
        retrieval=asdict(weighed(settings.retrieve, open_model(store, model))),
        calibration=calibration.coefficients,
        prompt=PROMPT,
        rag=rag.make(settings, store, snapshot, show),
        note=note,
    )
    releases.save(store, release)
    return release


def _generators(settings: Settings, store: Store, show: Show) -> Mapping[str, int]:
    """The deployed versions that are in force with their shares; before any is deployed, that of `serve.url`."""
    from ragstone import serve, service

    record = releases.current(store, settings.project.channel)
    known = releases.load(store, record.release).generator if record else {}
    return known if service.named(known) else {serve.register(store, settings, show.say): 100}


def build(settings: Settings, store: Store, show: Show) -> Release:
    """The release of the source folder as it is now under the model in force, promoted unless a person rolled it back."""
    stage(settings, store, show)
    digest = snapshot(settings, store, show)
    release = assemble(settings, store, digest, incumbent(settings, store, show), "built", show)
    records = releases.history(store, settings.project.channel)
    if records and records[-1].release == release.id:
        return release
    if release.id in _rolled_back(records):
        show.say(f"release   {release.id} was rolled back and stays so; to put it in force: ragstone release promote {release.id}")
        return releases.load(store, records[-1].release)
    point(settings, store, releases.promote(store, settings.project.channel, release.id, after=records[-1].number if records else 0), show)
    show.say(f"release   {release.id} is in force on {settings.project.channel}")
    return release


def point(settings: Settings, store: Store, record: Record, show: Show) -> None:
    """Tell an engine outside the store which of its indexes is in force on the channel; it is told, not asked, so a fault is only said."""
    from ragstone import index as indexes

    try:
        indexes.point(store, releases.load(store, record.release).index, record.channel, settings.index)
    except IndexingError as error:
        show.say(f"index     the channel's alias stays where it was: {error.message}")


def train(settings: Settings, store: Store, show: Show, *, promote: bool = True) -> Verdict:
    """The verdict over models trained on the newest snapshot; the winner is published and, with `promote`, put in force.

    A verdict is kept: the same snapshot, base and recipe are not trained twice. A killed run goes on from its checkpoint.
    """
    from ragstone import lessons, tracking
    from ragstone.corpus import labelled, pairs
    from ragstone.corpus import snapshot as snapshots
    from ragstone.evaluate import Verdict

    tracking.check(settings.train.log)
    digest = snapshot(settings, store, Silence())
    labels = _labels(settings, store, show)
    recipe = lessons.chosen(settings, labels.digest if labels.labels else "", show)
    demands = [settings.train.margin, settings.train.guard, settings.train.fusion]
    key = f"verdicts/{_digest([digest, _base(settings), asdict(recipe), asdict(settings.retrieve), *demands])}.json"
    if not store.stat(key):
        chunks = snapshots.load(store, digest).chunks
        material = labelled.prepare(labels, pairs.mine(chunks, seed=recipe.seed), chunks)
        _report(settings, material.unusable, show)
        if material.mined.unsuitable:
            verdict, model, curve = Verdict(promoted=False, reason=material.mined.unsuitable), "", list[dict[str, float]]()
        else:
            verdict, model, curve = _try(settings, store, chunks, material, recipe, digest, show)
        _create(store, key, {"verdict": asdict(verdict), "model": model, "curve": curve, "at": time.time()})
    shutil.rmtree(_work(settings, digest, recipe), ignore_errors=True)
    kept = json.loads(store.get(key))
    verdict = Verdict.load(kept["verdict"])
    if promote and verdict.promoted and not _was_in_force(settings, store, kept["model"]):
        _put_in_force(settings, store, digest, kept["model"], str(verdict), show)
    return verdict


def distil(settings: Settings, store: Store, target: Path, show: Show) -> Verdict:
    """How much a static model of the base, made in `target`, finds of the newest snapshot's held-out questions, beside the base.

    Raises `TrainError` where that can't be measured: no static model is made whose loss is not known.
    """
    from ragstone import distil as distilling
    from ragstone import embedder
    from ragstone.corpus import pairs
    from ragstone.corpus import snapshot as snapshots
    from ragstone.evaluate import gate
    from ragstone.trial import scratch_index

    chunks = snapshots.load(store, snapshot(settings, store, Silence())).chunks
    mined = pairs.mine(chunks, seed=settings.train.seed)
    if mined.unsuitable:
        reason = f"what a static model loses can't be measured on these documents: {mined.unsuitable}"
        raise TrainError(reason, "add documents, then: ragstone stage")
    digest = base(settings, store, show)
    with show.bar("distil") as advance:
        distilling.distil(stores.fetch(store, f"models/{digest}"), [chunk.context for chunk in chunks], target, advance)
    with _folder() as folder:
        embedder.prepare(target, folder, name=target.name, base=settings.train.base)
        verdict = gate(open_model(store, digest), {1.0: embedder.Embedder(folder)}, mined, scratch_index, settings.retrieve, 0.0)
    (target / "report.json").write_bytes(canonical(asdict(verdict)))
    return verdict


def retrieve(
    settings: Settings, store: Store, question: str, groups: tuple[str, ...], name: str | None = None, top_k: int | None = None
) -> list[Hit]:
    """What a release (a channel or an id; None: the project's channel) finds for a question, best first, no threshold applied."""
    release = releases.load(store, releases.resolve(store, name or settings.project.channel))
    return open_retriever(settings, store, release).search(question, groups, top_k or int(release.retrieval["top_k"]))


def ask(settings: Settings, store: Store, question: str, groups: tuple[str, ...], name: str | None = None) -> Iterator[str]:
    """A release's answer to a question, sentence by sentence as each is found to be grounded, then its sources."""
    from ragstone import answering
    from ragstone.access import Principal
    from ragstone.serve import Message

    release = releases.load(store, releases.resolve(store, name or settings.project.channel))
    with answering.opened(settings, store, release, open_retriever(settings, store, release)) as (rag, parts):
        options = answering.options(settings)
        grounds = rag.prepare([Message("user", question)], Principal("local", "local", groups, 0, 0, 0), options)
        for part in parts(grounds, options):
            yield part if isinstance(part, str) else _sources(part)


def examine(
    settings: Settings, store: Store, questions: Sequence[Posed], names: Sequence[str], show: Show, *, answers: bool = True
) -> Report:
    """How one release or two (channels or ids; none: the project's channel) do on the questions; without `answers`, by retrieval alone.

    Answers are kept until the exam is over: after a kill the same call goes on. Raises `ExamError`, `ReleaseError`, `GeneratorError`.
    """
    from ragstone import exam
    from ragstone.kept import Kept

    ids = [releases.resolve(store, name) for name in names or [settings.project.channel]]
    if len(ids) > 2 or len(set(ids)) < len(ids):
        raise ExamError(f"{', '.join(names)} are not two releases to compare", "ragstone release list")
    file = settings.work_folder / f"exam-{_digest(ids)[:16]}.jsonl"
    kept = Kept(file) if answers else None
    report = exam.report(questions, [_sit(settings, store, id, questions, kept, show) for id in ids])
    if kept:
        file.unlink(missing_ok=True)
    return report


def held_out(settings: Settings, store: Store, name: str, groups: tuple[str, ...]) -> tuple[Posed, ...]:
    """The questions that training would hold out of a release's documents, those that the groups may read; some, spread over all.

    Their words stand in the passages, which the gate would cut out: a release does better on them than on people's questions. Raises
    `ExamError` when the documents give none.
    """
    from ragstone.corpus import pairs
    from ragstone.corpus import snapshot as snapshots
    from ragstone.corpus.labels import Target
    from ragstone.corpus.questions import Posed

    snapshot = releases.load(store, releases.resolve(store, name)).snapshot
    chunks = [chunk for chunk in snapshots.load(store, snapshot).chunks if not {*groups}.isdisjoint(chunk.groups)]
    mined = pairs.mine(chunks, questions=HELD_OUT, seed=settings.train.seed)
    if not mined.questions:
        raise ExamError(f"no question can be held out: {mined.unsuitable}", "ragstone eval --questions questions.jsonl")
    return tuple(Posed(one.text, groups, tuple(Target(name=id) for id in one.relevant), where=one.document) for one in mined.questions)


def _sit(settings: Settings, store: Store, id: str, questions: Sequence[Posed], kept: Kept | None, show: Show) -> Paper:
    """One release's exam."""
    from ragstone import answering, exam
    from ragstone.corpus import snapshot as snapshots

    release = releases.load(store, id)
    retriever = open_retriever(settings, store, release)
    with answering.opened(settings, store, release, retriever) as (rag, parts):

        def ask(messages: Sequence[Message], principal: Principal, options: Options) -> Answer:
            *_, answer = parts(rag.prepare(messages, principal, options), options)
            assert not isinstance(answer, str)  # what `Rag.answer` gives last
            return answer

        candidate = exam.Candidate(id, snapshots.load(store, release.snapshot).chunks, retriever, rag, ask)
        return exam.sit(candidate, questions, answering.options(settings), kept, show)


def open_retriever(settings: Settings, store: Store, release: Release) -> Search:
    """The search of a release, as it serves it."""
    from ragstone import rag
    from ragstone.retrieve import Calibration, Retriever

    index, model = indexing.open(settings, store, release.index), open_model(store, release.model)
    return rag.search(release, Retriever.of(index, model, Calibration(release.calibration), release.weights))


def open_model(store: Store, digest: str) -> Embedder:
    """The embedding model by digest."""
    from ragstone.embedder import Embedder

    return Embedder(stores.fetch(store, f"models/{digest}"), digest)


def _sources(answer: Answer) -> str:
    """The citations of an answer, a line each."""
    lines = [
        f"[{citation.number}] {citation.document} {citation.start}-{citation.end}  P(relevant) {citation.score:.2f}  "
        f"{' > '.join(dict.fromkeys((citation.title, *citation.path)))}"
        for citation in answer.citations
    ]
    return "\n\n" + "\n".join(lines) if lines else ""


def _try(
    settings: Settings, store: Store, chunks: Sequence[Chunk], material: Material, recipe: Recipe, snapshot: str, show: Show
) -> tuple[Verdict, str, list[dict[str, float]]]:
    """The verdict, the digest of the published winner or nothing, and the run's losses by step."""
    from ragstone import embedder, tracking, trial
    from ragstone.candidates import Base

    work = _work(settings, snapshot, recipe)
    model = incumbent(settings, store, show)
    here = override(settings, "index", url="local", inference=CLIENT)  # the workers of a trial get it as a folder
    indexed = indexing.index(here, store, snapshot, model, show)
    in_force = trial.Incumbent(model, stores.fetch(store, f"models/{model}"), stores.fetch(store, f"indexes/{indexed}"))
    start = Base(settings.train.base, stores.fetch(store, f"models/{base(settings, store, show)}"))
    held = trial.Trial(settings, in_force, start, chunks, material, recipe, groups(settings))
    told = {**asdict(recipe), "recipe": recipe.digest, "snapshot": snapshot, "incumbent": model, "base": embedder.digest(start.folder)}
    with tracking.journal(settings.train.log, settings.folder, work.name, told, show) as journal:
        outcome = trial.run(held, work, show, journal.step)
        journal.figures(trial.figures(outcome.verdict))
    if outcome.winner is None:
        return outcome.verdict, "", outcome.curve
    report = {**asdict(outcome.verdict), "incumbent": model, "snapshot": snapshot, "curve": outcome.curve}
    (outcome.winner / "report.json").write_bytes(canonical(report))
    digest = embedder.digest(outcome.winner)
    stores.publish(store, f"models/{digest}", outcome.winner)
    return outcome.verdict, digest, outcome.curve


def _put_in_force(settings: Settings, store: Store, snapshot: str, model: str, note: str, show: Show) -> None:
    """Promote the model over the snapshot in force: the folder may have changed while it was trained."""
    record = releases.current(store, settings.project.channel)
    now = releases.load(store, record.release).snapshot if record else snapshot
    release = assemble(settings, store, now, model, note, show)
    point(settings, store, releases.promote(store, settings.project.channel, release.id, after=record.number if record else 0), show)
    show.say(f"release   {release.id} is in force on {settings.project.channel}")


def _was_in_force(settings: Settings, store: Store, model: str) -> bool:
    """Whether the channel ever had a release with this model: if a person took it back since, it stays so."""
    records = releases.history(store, settings.project.channel)
    return any(releases.load(store, record.release).model == model for record in records)


def _rolled_back(records: Sequence[Record]) -> set[str]:
    """The releases that the last record, a rollback, took back: a person's decision, which stands until a person changes it."""
    back_to = records[-1].returns_to if records else None
    return {record.release for record in records if record.number > back_to} - {records[-1].release} if back_to else set()


def _work(settings: Settings, snapshot: str, recipe: Recipe) -> Path:
    """Where a run keeps its checkpoint until its verdict is stored."""
    return settings.work_folder / _digest([snapshot, _base(settings), asdict(recipe)])[:16]


def _base(settings: Settings) -> tuple[str, str, str]:
    """What decides the base model."""
    return settings.train.base, settings.train.query_prefix, settings.train.document_prefix


def _labels(settings: Settings, store: Store, show: Show) -> Labels:
    """The labels that the settings name, the store's feedback among them; none when they name none."""
    from ragstone.corpus import feedback, labels

    said = feedback.rows(store) if settings.train.feedback else ()
    found = labels.read([settings.folder / path for path in settings.train.pairs], said)
    if settings.train.pairs or settings.train.feedback:
        show.say(f"labels    {found}")
        _report(settings, found.unusable, show)
    return found


def _report(settings: Settings, unusable: Sequence[Unusable], show: Show) -> None:
    """Say which labels can't be used, in one line; with `corpus.strict` they end the run."""
    if not unusable:
        return
    named = "; ".join(f"{one.where} {one.reason}" for one in unusable[:5])
    text = f"{len(unusable)} labels can't be used: {named}" + ("; …" if len(unusable) > 5 else "")
    if settings.corpus.strict:
        raise TrainError(text, "mend or remove them, or run without --strict to leave them out")
    show.say(f"labels    {text}")


def groups(settings: Settings) -> tuple[str, ...]:
    """Every group that a document can be in."""
    return tuple(sorted({PUBLIC, *(group for rule in settings.corpus.groups for group in rule.groups)}))


def _create(store: Store, key: str, value: object) -> None:
    """Store a result that another process may have stored first: equal inputs, equal value."""
    with suppress(Conflict):
        store.create(key, json.dumps(value, indent=1).encode())


def _digest(value: object) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ragstone-") as name:
        yield Path(name)
