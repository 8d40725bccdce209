"""An embedding model by digest: texts in, unit vectors out, whichever engine runs it. No torch here.

A model folder holds `model.safetensors`, `tokenizer.json`, `config.json` (the weights), `card.json` (how to use them), what its engine
needs besides and, when it was trained on a corpus, `terms.safetensors` (its term space). `prepare` makes one from any folder in
Sentence-Transformers' layout; the result loads there too, without the term space.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragstone import engine, terms
from ragstone.engine import Vectors as Vectors
from ragstone.errors import WeightsError
from ragstone.model import card as cards
from ragstone.model import layout, tensors
from ragstone.model.card import WEIGHTS as WEIGHTS
from ragstone.model.card import Card as Card
from ragstone.model.card import read_card as read_card

SLAB = 1024
"""Passages whose views are encoded at a time: bounds what waits in memory."""


class Embedder:
    """A model folder, loaded. Safe to use from several threads; `threads` bounds the cores of one call, 0 takes all."""

    def __init__(self, folder: Path, digest: str = "", threads: int = 0) -> None:
        self.folder = folder
        self.card = read_card(folder)
        self.digest = digest or cards.digest(folder, self.card)
        self.dimensions = self.card.dimensions
        self._engine = engine.open(folder, self.card, threads or os.cpu_count() or 1)
        self._terms = terms.load(folder)

    @property
    def has_terms(self) -> bool:
        """Whether a term space is part of it."""
        return self._terms is not None

    @cached_property
    def encoder(self) -> str:
        """The digest of the transformer alone: models that differ in their term space share it."""
        return cards.digest(self.folder, self.card, whole=False)

    def queries(self, texts: Sequence[str]) -> Vectors:
        """One unit vector for each question, float32 [n, dimensions]."""
        return self.joined(self._encode(self.card.query_prefix, texts, None), texts)

    def documents(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Vectors:
        """One unit vector for each passage, float32 [n, dimensions]. `progress` is told how many are done."""
        return self.joined(self._encode(self.card.document_prefix, texts, progress), texts)

    def passages(self, views: Sequence[Sequence[str]], progress: Callable[[int], None] | None = None) -> Vectors:
        """One unit vector for each passage from its views, the whole and then its windows: half the whole, half the windows' mean.

        It found as much as the best of the whole and of each window does, which takes a vector for every view. `progress` is told how
        many views are done.
        """
        return self.joined(self.plain(views, progress), [each[0] for each in views])

    def plain(self, views: Sequence[Sequence[str]], progress: Callable[[int], None] | None = None) -> Vectors:
        """The passages without the term space: equal for all models of one `encoder`."""
        vectors = np.empty((len(views), self.dimensions), np.float32)
        done = 0
        for start in range(0, len(views), SLAB):
            slab = views[start : start + SLAB]
            encoded = self._encode(self.card.document_prefix, [view for each in slab for view in each], _after(done, progress))
            ends = np.cumsum([len(each) for each in slab])
            vectors[start : start + SLAB] = np.stack([_merged(rows) for rows in np.split(encoded, ends[:-1])])
            done += int(ends[-1])
        return vectors

    def joined(self, plain: Vectors, texts: Sequence[str]) -> Vectors:
        """Plain vectors with what the term space says of their texts, if the model has one."""
        return self._terms.join(plain, texts) if self._terms and len(texts) else plain

    def tokens(self, text: str) -> int:
        """How many tokens of the text the model reads: at most `card.max_tokens`."""
        return self._engine.tokens(text)

    def _encode(self, prefix: str, texts: Sequence[str], progress: Callable[[int], None] | None) -> Vectors:
        return self._engine.encode([prefix + text for text in texts], progress or (lambda done: None))


def _after(done: int, progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """The same progress, for one that starts when so many are done."""
    return (lambda now: progress(done + now)) if progress else None


def _merged(rows: Vectors) -> NDArray[np.float32]:
    """The vector of a passage from those of its views."""
    vector: NDArray[np.float32] = rows[0]
    if len(rows) > 1:
        windows = rows[1:].sum(axis=0)
        vector = vector + windows / np.linalg.norm(windows)
        vector /= np.linalg.norm(vector)
    return vector


def describe(
    weights: Path,
    *,
    name: str,
    base: str,
    lineage: Mapping[str, object] | None = None,
    query_prefix: str | None = None,
    document_prefix: str | None = None,
) -> Card:
    """How a folder in Sentence-Transformers' layout is used: by its card, its own files, or its family.

    A prefix that is given counts instead. Raises `WeightsError` when the model is not one that runs here.
    """
    said = replace(read_card(weights), name=name, base=base) if (weights / "card.json").is_file() else None
    card = said or layout.describe(weights, Card(name=name, base=base, dimensions=0, lineage=lineage or {}))
    return replace(
        card,
        query_prefix=card.query_prefix if query_prefix is None else query_prefix,
        document_prefix=card.document_prefix if document_prefix is None else document_prefix,
    )


def prepare(weights: Path, target: Path, *, name: str, base: str, lineage: Mapping[str, object] | None = None) -> str:
    """The digest of `target`, made a whole model folder from `weights`: a base in Sentence-Transformers' layout.

    Raises `WeightsError` when a file is missing or the model is not one that runs here.
    """
    return place(weights, target, describe(weights, name=name, base=base, lineage=lineage))


def place(weights: Path, target: Path, card: Card) -> str:
    """The same under a card that is at hand."""
    target.mkdir(parents=True, exist_ok=True)
    tensors.join(weights, target / tensors.FILE)
    copy(weights, target)
    return finish(target, card)


def copy(model: Path, target: Path) -> None:
    """Copy all files of a model but its weights and its card: what a trained model has in common with its base."""
    for file in (*WEIGHTS[1:], *layout.files(model)):
        if file == "config.json" and layout.is_static(model):  # Sentence-Transformers writes none
            (target / file).write_text(json.dumps(layout.read(model / file) or {"model_type": "static"}))
            continue
        if not (model / file).is_file():
            raise WeightsError(f"{model} has no {file}", "ragstone models list")
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model / file, target / file)


def finish(folder: Path, card: Card) -> str:
    """The digest of `folder`, which has the three weight files and gets `card.json` and what its engine runs."""
    engine.build(folder, card)
    cards.write(folder, card)
    return digest(folder)


def digest(folder: Path) -> str:
    """The digest that names the model in `folder`: see `card.digest`."""
    return cards.digest(folder, read_card(folder))
