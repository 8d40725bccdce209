"""What a model learns from beside what is mined, as the settings name it: a teacher's scores and a generator's questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ragstone import recipe, teacher
from ragstone.author import Author
from ragstone.config import Settings
from ragstone.connect import scheme
from ragstone.corpus import Chunk, written
from ragstone.corpus.labelled import MOST_TAUGHT, Material
from ragstone.corpus.pairs import Pair, Search
from ragstone.corpus.taught import STRANGERS, Listed, agreement, teach
from ragstone.kept import Kept
from ragstone.show import Show


def chosen(settings: Settings, labels: str, show: Show) -> recipe.Recipe:
    """The recipe for labels of this digest, or for none; it names who teaches and who writes."""
    told = settings.train
    taught_by = teacher.connect(told, show.say).identity if told.teacher else ""
    written_by = Author(settings, show.say).identity if told.questions else ""
    return recipe.chosen(labels, told.minutes, told.seed, told.epochs, told.batch, taught_by, written_by)


def write(
    settings: Settings, chunks: Sequence[Chunk], material: Material, find: Callable[[list[str]], Search], work: Path, show: Show
) -> Material:
    """The material with written questions before the mined ones; unchanged when the settings name nobody who writes.

    `find(questions)` is the search, for these questions, that must find their passages again. What is written is kept below `work`.
    """
    if not settings.train.questions:
        return material
    passages = written.passages(material.mined.pairs, chunks, settings.train.questions_most)
    with show.bar("write", len(passages)) as advance:
        said = Author(settings, show.say).write(passages, Kept(work / "questions.jsonl"), advance)
    kept = written.sift(passages, said, find)
    show.say(f"questions {kept}")
    return replace(material, mined=replace(material.mined, pairs=(*kept.pairs, *material.mined.pairs)))


def score(settings: Settings, work: Path, show: Show, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """The pairs with the scores of the teacher that the settings name; unchanged when they name none. Scores are kept below `work`."""
    if not settings.train.teacher or not any(pair.scores for pair in pairs):
        return pairs
    named = teacher.connect(settings.train, show.say)

    def scores(lists: Sequence[Listed]) -> list[list[float]]:
        with show.bar("teach", len(lists)) as advance:
            return teacher.scores(named, lists, Kept(work / "scores.jsonl"), advance)

    taught = teach(pairs, scores, seed=settings.train.seed)
    show.say(f"teacher   {named.identity[:80]} puts the right passage first for {agreement(taught):.0%} of the questions")
    return taught


def explain(settings: Settings) -> list[str]:
    """Where a run would send texts of documents, a line each; nothing is sent. Raises `ConfigError` for what can't be meant."""
    told, lines = settings.train, []
    if told.teacher and teacher.is_elsewhere(told.teacher):
        named = teacher.connect(told, lambda text: None).identity
        lines.append(f"train.teacher sends up to {MOST_TAUGHT + STRANGERS:,} questions, each with one to three passages, to {named}")
    if told.questions and scheme(told.questions) != "local":
        most = Author(settings, lambda text: None).most
        lines.append(f"train.questions sends up to {most:,} passages to {told.questions}")
    return lines
