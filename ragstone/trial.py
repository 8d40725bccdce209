"""A trial: candidates are made from what a corpus teaches and judged against the model in force. It knows neither store nor release."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ragstone import lessons, weigh
from ragstone import train as training
from ragstone.candidates import Base, Corpus, make
from ragstone.config import Settings
from ragstone.corpus import Chunk, labelled
from ragstone.corpus.labelled import MOST_TAUGHT, Material
from ragstone.corpus.pairs import Search
from ragstone.corpus.views import views
from ragstone.embedder import Embedder
from ragstone.errands import Found, fused_hits, keyword_hits
from ragstone.evaluate import Verdict, gate
from ragstone.guard import guards
from ragstone.index import Index, Vectors, local
from ragstone.show import Show
from ragstone.train import Progress, Recipe, Report, Work


@dataclass(frozen=True)
class Incumbent:
    """The model in force: its digest, its folder, and that of its index of the corpus."""

    digest: str
    model: Path
    index: Path


@dataclass(frozen=True)
class Trial:
    """What a base is taught, how, and which model it has to beat."""

    settings: Settings
    incumbent: Incumbent
    base: Base
    chunks: Sequence[Chunk]
    material: Material
    recipe: Recipe
    groups: tuple[str, ...]
    """Every group that a document can be in: what is mined and taught is not for a caller."""


@dataclass(frozen=True)
class Outcome:
    """What the gate says, the folder of the winner if there is one, and the loss by step."""

    verdict: Verdict
    winner: Path | None
    curve: list[dict[str, float]]


def run(trial: Trial, work: Path, show: Show, note: Report = lambda now: None) -> Outcome:
    """The outcome; candidates and checkpoints lie below `work`, from where a killed run goes on. `note` is told of every step.

    Raises `TrainError`.
    """
    incumbent = Embedder(trial.incumbent.model, trial.incumbent.digest)
    steps: list[Progress] = []

    def keep(now: Progress) -> None:
        steps.append(now)
        note(now)

    trial = replace(trial, material=_written(trial, work, show))
    taught = partial(lessons.score, trial.settings, work, show)
    known = _plain(trial, incumbent)
    corpus = Corpus(
        trial.chunks, trial.material, _search(trial, show), _teacher(trial, known, show), partial(_weigh, trial, known, show), taught
    )
    folders = make(trial.base, corpus, trial.recipe, work, trial.settings.train.url, show, keep, trial.settings.train.memory)
    verdict = _judge(trial, incumbent, {share: Embedder(folder) for share, folder in folders.items()}, show)
    return Outcome(verdict, folders[verdict.share] if verdict.promoted else None, curve(steps))


def curve(steps: Sequence[Progress], points: int = 200) -> list[dict[str, float]]:
    """The losses of a run by step, at most so many of them, the last one included. Of a resumed run it begins where that resumed."""
    stride = max(1, math.ceil(len(steps) / points))
    kept = reversed(steps[::-1][::stride])
    return [{"step": now.step, **now.figures} for now in kept]


def figures(verdict: Verdict) -> dict[str, object]:
    """What a verdict says in numbers, by name, for a log."""
    told: dict[str, object] = {f"verdict/{name}": value for name, value in asdict(verdict).items()}
    return told | {f"guard/{guard.guard}/{guard.way}": guard.gain for guard in verdict.guards}


def scratch_index(chunks: Sequence[Chunk], vectors: Vectors) -> Index:
    """An index that no release will name: the gate's."""
    folder = Path(tempfile.mkdtemp(prefix="ragstone-gate-"))
    try:
        local.build(folder, chunks, vectors)
        return local.open(folder, "scratch")
    finally:
        shutil.rmtree(folder)  # its files stay readable as long as they are open


def _judge(trial: Trial, incumbent: Embedder, candidates: Mapping[float, Embedder], show: Show) -> Verdict:
    """The verdict over the candidates by share. Questions about documents that training knows are measured apart."""
    chosen, material = trial.settings.train, trial.material
    mined, kind = material.mined, "labelled " if material.judged_by_people else ""
    show.say(f"train     judging {len(candidates)} candidates on {len(mined.questions)} held-out {kind}questions")
    margin = min(chosen.margin, 0.0) if kind else chosen.margin  # what people asked does not flatter training
    judge = partial(gate, incumbent, build=scratch_index, settings=trial.settings.retrieve, margin=margin)
    verdict = judge(candidates, mined, guards=guards(mined, trial.recipe.seed), fall=chosen.guard)
    if material.seen:
        apart = judge({verdict.share: candidates[verdict.share]}, replace(mined, questions=material.seen))
        show.say(f"train     on {apart.questions} of documents that training knows: {apart.base:.2f} -> {apart.tuned:.2f}")
    return replace(verdict, kind=kind.strip())


def _written(trial: Trial, work: Path, show: Show) -> Material:
    """The material with the questions that a generator writes; the retriever in force must find their passages again."""
    open_search, in_force = partial(fused_hits, trial.settings.retrieve, trial.groups), [trial.incumbent.index, trial.incumbent.model]
    find = partial(_asked, trial, open_search, in_force, show=show)
    return lessons.write(trial.settings, trial.chunks, trial.material, find, work, show)


def _search(trial: Trial, show: Show) -> Search:
    """Keyword search for the hard negatives of the labelled questions: chunk ids with the incumbent's cosine to the question."""
    questions = [one.text for one in trial.material.train]
    return _asked(trial, partial(keyword_hits, trial.groups), [trial.incumbent.index, trial.incumbent.model], questions, show)


def _weigh(trial: Trial, known: dict[str, Vectors], show: Show, folder: Path) -> tuple[float, ...]:
    """What the labelled questions say of the fusion of the model in a folder; nothing without enough of them."""
    asked = labelled.questions(trial.material.train, trial.chunks)[: labelled.MOST_QUESTIONS]
    if not trial.settings.train.fusion or len(asked) < weigh.QUESTIONS:
        return ()
    model = Embedder(folder)
    with closing(scratch_index(trial.chunks, _vectors(trial, known, model))) as index:
        weights = weigh.learn(index, model, asked, trial.groups, trial.settings.retrieve)
    if weights:
        show.say(f"fusion    {len(asked)} labelled questions choose dense_weight {weights[0]:g}, bigram_weight {weights[1]:g}")
    return weights


def _vectors(trial: Trial, known: dict[str, Vectors], model: Embedder) -> Vectors:
    """The chunks' vectors under the model; `known` has those of encoders that were met before."""
    if model.encoder not in known:
        known[model.encoder] = model.plain([views(chunk) for chunk in trial.chunks])
    return model.joined(known[model.encoder], [chunk.context for chunk in trial.chunks])


def _teacher(trial: Trial, known: dict[str, Vectors], show: Show) -> Callable[[Path], Search]:
    """The whole retriever with the model in a folder, for the mined questions: chunk ids with their fused scores."""
    questions = [pair.question for pair in trial.material.mined.pairs[:MOST_TAUGHT]]

    def taught(folder: Path) -> Search:
        vectors = _vectors(trial, known, Embedder(folder))
        with tempfile.TemporaryDirectory(prefix="ragstone-") as name:
            local.build(Path(name), trial.chunks, vectors)
            open_search = partial(fused_hits, trial.settings.retrieve, trial.groups)
            return _asked(trial, open_search, [Path(name), folder], questions, show)

    return taught


def _plain(trial: Trial, incumbent: Embedder) -> dict[str, Vectors]:
    """The chunks' plain vectors by encoder, as far as the index in force has them."""
    if incumbent.has_terms:
        return {}
    known = local.open(trial.incumbent.index, trial.incumbent.index.name).encoded(trial.chunks)
    if len(known) < len(trial.chunks):
        return {}
    return {incumbent.encoder: np.stack([known[chunk.id] for chunk in trial.chunks])}


def _asked(trial: Trial, open: Callable[..., Work[str, Found]], folders: Sequence[Path], questions: Sequence[str], show: Show) -> Search:
    """The search that `open(*folders)` gives, asked these questions where training runs."""
    with show.bar("search", len(questions)) as advance:
        found = training.mapper(trial.settings.train.url).map(open, folders, questions, advance) if questions else []
    known = dict(zip(questions, found, strict=True))
    return lambda question, limit: known[question][:limit]
