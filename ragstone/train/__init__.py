"""Training: pairs and a base model in, candidate models out. It knows nothing of the index or the gate, which judge the candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode

from ragstone.connect import connector, scheme
from ragstone.corpus.pairs import Pair
from ragstone.errors import ConfigError
from ragstone.recipe import MEMORY, Progress, Recipe, Report

__all__ = ["MEMORY", "Progress", "Recipe", "Report", "Trainer", "Work", "address", "connect", "explain", "mapper"]

T = TypeVar("T")
R = TypeVar("R")

Work = Callable[[Sequence[T], Callable[[int], None]], Iterable[R]]
"""A result for each item, in order; it tells how many are done."""


class Trainer(Protocol):
    """`tests/conformance/test_train.py` is the contract."""

    def train(
        self, base: Path, pairs: Sequence[Pair], recipe: Recipe, work: Path, progress: Report, memory: float = MEMORY
    ) -> dict[float, Path]:
        """Candidate model folders below `work`, by interpolation. Resumes from a checkpoint in `work`. Raises `TrainError`.

        A process takes no more than `memory` GiB for it, where the trainer has a say in that.
        """

    def map(
        self, open: Callable[..., Work[T, R]], folders: Sequence[Path], items: Sequence[T], progress: Callable[[int], None]
    ) -> list[R]:
        """What `open(*folders)` gives for `items`, in order: mining and encoding, on the machines that train. Raises `TrainError`.

        This one does it here, for trainers that have no better place.
        """
        return list(open(*folders)(items, progress))


def connect(url: str) -> Trainer:
    """The trainer behind `url`: `local` trains in this process."""
    trainer: Trainer = connector("train", url).connect(url)
    return trainer


def mapper(url: str) -> Trainer:
    """Who maps for training behind `url`: its workers where they can, else this process, whatever the URL still lacks."""
    return connect(url if getattr(connector("train", url), "MAPS", False) else "local")


def address(url: str, to: str | None = None, **options: str | None) -> str:
    """The trainer's URL with what a command line says over it: `to` another trainer, and options, which go into its query.

    >>> address("local", "pai", job_name="custom-emb", oss_path="oss://bucket/raw/")
    'pai://?job_name=custom-emb&oss_path=oss://bucket/raw/'
    >>> address("pai://4211?region=cn-hangzhou&job_name=nightly", "pai", job_name="custom-emb")
    'pai://4211?region=cn-hangzhou&job_name=custom-emb'
    """
    chosen = url if to is None or to == scheme(url) else to
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return chosen
    module = connector("train", chosen)
    known: tuple[str, ...] = getattr(module, "OPTIONS", ())
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"{scheme(chosen)} training has no --{unknown[0].replace('_', '-')}", "ragstone train --to pai, or leave it out")
    place, _, query = chosen.partition("?")
    merged = dict(parse_qsl(query, keep_blank_values=True)) | given
    made = f"{place if '://' in place else f'{place}://'}?{urlencode(merged, safe='/:')}"
    module.read(made)  # what can't be meant is said now, not after an hour of mining
    return made


def explain(url: str, minutes: float) -> str:
    """What training behind `url` for so many minutes would send elsewhere, for a person to read; nothing is sent."""
    told = getattr(connector("train", url), "explain", None)
    return str(told(url, minutes)) if told else f"{scheme(url)} training calls no service"
