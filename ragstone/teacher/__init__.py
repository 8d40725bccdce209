"""Teachers: models that read a question and a passage together and say how well one answers the other. They know nothing of retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ragstone import hub
from ragstone.config import Train
from ragstone.connect import connector
from ragstone.corpus.taught import Listed
from ragstone.errors import ConfigError
from ragstone.kept import Kept, digest

__all__ = ["Listed", "Say", "Teacher", "connect", "scores"]

EXAMPLE = "set train.teacher to a cross-encoder's folder or hub id, or to rerank+https://host/v1/rerank?model=name"

Say = Callable[[str], None]
"""Told in words what takes long: a download."""


class Teacher(Protocol):
    """A model that scores. `tests/conformance/test_teacher.py` is the contract."""

    @property
    def identity(self) -> str:
        """What scores, in one line without secrets: part of a trained model's lineage."""

    def scores(self, lists: Sequence[Listed]) -> Iterator[list[float]]:
        """A score for each passage of each list, in order, as they come; higher answers better, on a scale of its own.

        Raises `TrainError` or `WeightsError`.
        """


def connect(settings: Train, say: Say) -> Teacher:
    """The teacher that `train.teacher` names: a URL's scheme says which one, a folder or a hub's id is a cross-encoder here."""
    name = settings.teacher
    try:
        module = connector("teacher", name if is_elsewhere(name) else "local")
    except ConfigError as error:
        raise ConfigError(error.message, EXAMPLE) from error
    teacher: Teacher = module.connect(settings, say)
    return teacher


def is_elsewhere(name: str) -> bool:
    """Whether that teacher is an endpoint, not weights that run here."""
    return "://" in name and not name.startswith(hub.SCHEME)


def scores(teacher: Teacher, lists: Sequence[Listed], kept: Kept, progress: Callable[[int], None]) -> list[list[float]]:
    """The scores of all lists; what was scored before a kill is not scored again."""
    keys = [digest(teacher.identity, one.question, one.passages) for one in lists]
    found = kept.answers(dict(zip(keys, lists, strict=True)), teacher.scores, progress)
    return [found[key] for key in keys]
