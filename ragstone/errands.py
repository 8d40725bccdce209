"""What is done with a model and an index that lie in folders, here or by the workers of a cluster: encode passages, search for questions.

Each function opens its folders and gives `train.Work`. What it takes before the folders is bound with `functools.partial`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragstone.config import Retrieve
from ragstone.corpus.pairs import DEPTH, TAUGHT
from ragstone.embedder import Embedder
from ragstone.index import Query, local
from ragstone.retrieve import Calibration, Retriever, weighed
from ragstone.train import Work

Found = list[tuple[str, float]]
"""Chunk ids with their scores, best first."""


def passages(model: Path) -> Work[Sequence[str], NDArray[np.float32]]:
    """A vector for each passage, from its views."""
    return Embedder(model).passages


def keyword_hits(groups: tuple[str, ...], index: Path, model: Path) -> Work[str, Found]:
    """What a search by keyword finds for each question, with the model's cosine: hard negatives are among it."""
    opened, embedder = local.open(index, index.name), Embedder(model)

    def search(question: str) -> Found:
        found = opened.search(Query(question, embedder.queries([question])[0], groups, DEPTH))
        ranked = sorted((hit for hit in found if hit.in_keyword), key=lambda hit: -hit.keyword)
        return [(hit.chunk, hit.dense) for hit in ranked]

    return _each(search)


def fused_hits(retrieve: Retrieve, groups: tuple[str, ...], index: Path, model: Path) -> Work[str, Found]:
    """What the whole retriever finds for each question, with fused scores: a teacher's ranking."""
    embedder = Embedder(model)
    retriever = Retriever.of(local.open(index, index.name), embedder, Calibration.default(), weighed(retrieve, embedder))
    return _each(lambda question: [(hit.chunk.id, hit.fused) for hit in retriever.search(question, groups, TAUGHT)])


def _each(search: Callable[[str], Found]) -> Work[str, Found]:
    """One question after the other."""

    def work(questions: Sequence[str], progress: Callable[[int], None]) -> Iterator[Found]:
        for done, question in enumerate(questions, 1):
            yield search(question)
            progress(done)

    return work
