"""From a base model and what a corpus teaches to candidate models, for the gate to judge. It knows neither the store nor the gate."""

from __future__ import annotations

import itertools
import random
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ragstone import embedder, terms, train
from ragstone.corpus import Chunk
from ragstone.corpus.labelled import Material
from ragstone.corpus.pairs import Pair, Search
from ragstone.model import card
from ragstone.recipe import MEMORY, Progress, Recipe, Report
from ragstone.show import Advance, Show

SAMPLE = 1_000
"""Passages that the turn of a term space is fitted to."""


@dataclass(frozen=True)
class Base:
    """The model that training starts from: its name and its model folder."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Corpus:
    """What there is to learn from, and how it is searched for that."""

    chunks: Sequence[Chunk]
    material: Material
    search: Search
    """By words, with the incumbent's cosines: hard negatives come from here."""
    teacher: Callable[[Path], Search]
    """As the whole retriever does with the model in a folder, with fused scores."""
    weigh: Callable[[Path], tuple[float, ...]] = lambda folder: ()
    """The fusion's weights that labelled questions choose for the model in a folder, if they choose any."""
    taught: Callable[[tuple[Pair, ...]], tuple[Pair, ...]] = lambda pairs: pairs
    """The pairs with the scores of the teacher that the user names, if one is named."""


def make(
    base: Base,
    corpus: Corpus,
    recipe: Recipe,
    work: Path,
    url: str,
    show: Show,
    note: Report = lambda now: None,
    memory: float = MEMORY,
) -> dict[float, Path]:
    """Candidates below `work` by their share of trained weights, all joined to the term space of the corpus; share 0 has the base's own.

    The candidate of share 0 is the teacher of the others: it ranks, as part of the whole retriever, what they learn to find alone, unless
    the user names another one, which scores what this one finds.
    `note` is told of every step of training, which may take `memory` GiB.
    """
    texts = [chunk.context for chunk in corpus.material.mined.judged]
    untrained = _untrained(base, work / "candidate-0", recipe)
    _learn_terms(untrained, texts, recipe.seed, show)
    fusion = corpus.weigh(untrained)
    _keep(untrained, fusion)
    with show.bar("mine") as advance:
        search, rank = (_counted(found, advance) for found in (corpus.search, corpus.teacher(untrained)))
        pairs = corpus.material.pairs(corpus.chunks, search, rank, seed=recipe.seed)
    pairs = corpus.taught(pairs)
    trained: dict[float, Path] = {}
    last: deque[Progress] = deque(maxlen=1)
    if pairs:
        with show.bar("train") as advance:
            trained = train.connect(url).train(base.folder, pairs, recipe, work, _all(note, last.append, _shown(advance)), memory)
    show.say(f"train     {len(pairs)} pairs" + "".join(f", {now.step} steps: {now}" for now in last))
    for folder in trained.values():
        _learn_terms(folder, texts, recipe.seed, show)
        _keep(folder, fusion)
    return {0.0: untrained, **trained}


def _untrained(base: Base, folder: Path, recipe: Recipe) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    own = embedder.read_card(base.folder)
    lineage = {"base": embedder.digest(base.folder), "recipe": asdict(recipe), "share": 0.0}
    embedder.place(base.folder, folder, replace(own, name=f"{base.name}-tuned", base=base.name, lineage=lineage))
    return folder


def _keep(folder: Path, fusion: tuple[float, ...]) -> None:
    """The model in the folder is fused by these weights from here on."""
    card.write(folder, replace(card.read_card(folder), fusion=fusion))


def _learn_terms(folder: Path, texts: Sequence[str], seed: int, show: Show) -> None:
    """Join the term space of the texts to the model in the folder; of too few texts there is none."""
    drawn = random.Random(seed).sample(texts, len(texts))
    with show.bar("terms", min(SAMPLE, len(drawn))) as advance:
        learned = terms.learn(drawn, embedder.Embedder(folder).documents(drawn[:SAMPLE], advance), seed)
    if learned:
        learned.save(folder)
        show.say(f"terms     {len(learned.words)} words of {len(texts)} passages, in {learned.vectors.shape[1]} dimensions")


def _all(*reports: Report) -> Report:
    """Tells each of them."""

    def report(now: Progress) -> None:
        for each in reports:
            each(now)

    return report


def _shown(advance: Advance) -> Report:
    """A step on a bar."""
    return lambda now: advance(now.step, now.steps, str(now), now.seconds_left, now.figures)


def _counted(search: Search, advance: Advance) -> Search:
    """The same search, each call one step of a bar."""
    calls = itertools.count(1)

    def counted(question: str, limit: int) -> Sequence[tuple[str, float]]:
        advance(next(calls))
        return search(question, limit)

    return counted
