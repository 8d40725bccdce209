"""A tiny model and an index of the topics, in folders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ragstone import errands
from ragstone.config import Retrieve
from ragstone.corpus import PUBLIC
from ragstone.corpus.pairs import DEPTH, TAUGHT
from ragstone.corpus.views import views
from ragstone.embedder import Embedder
from ragstone.index import Query, local
from ragstone.train import Trainer
from ragstone.train.local import LocalTrainer
from tests.tiny import tiny
from tests.topics import topics

QUESTIONS = ["How are integers compared?", "What does a with statement do?", "zzzz"]
HERE: Trainer = LocalTrainer()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def index(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    found = HERE.map(errands.passages, [model], [views(chunk) for chunk in topics()], lambda done: None)
    local.build(folder, topics(), np.stack(found))
    return folder


def test_passages_are_encoded_from_their_views(model: Path) -> None:
    seen, told = [views(chunk) for chunk in topics()[:20]], list[int]()
    found = HERE.map(errands.passages, [model], seen, told.append)
    assert np.array_equal(np.stack(found), Embedder(model, threads=1).passages(seen))
    assert told[-1] == sum(map(len, seen))


def test_keyword_hits_are_in_the_keyword_list_and_have_the_models_cosine(model: Path, index: Path) -> None:
    found = HERE.map(partial(errands.keyword_hits, (PUBLIC,)), [index, model], QUESTIONS, lambda done: None)
    opened, embedder = local.open(index, "index"), Embedder(model)
    for question, hits in zip(QUESTIONS, found, strict=True):
        all = opened.search(Query(question, embedder.queries([question])[0], (PUBLIC,), DEPTH))
        assert dict(hits) == {hit.chunk: hit.dense for hit in all if hit.in_keyword}
    assert found[0]
    assert found[2] == []


def test_a_teacher_ranks_as_the_retriever_does(model: Path, index: Path) -> None:
    open_search = partial(errands.fused_hits, Retrieve(), (PUBLIC,))
    told: list[int] = []
    found = HERE.map(open_search, [index, model], QUESTIONS, told.append)
    assert told == [1, 2, 3]
    for hits in found:
        assert 0 < len(hits) <= TAUGHT
        assert [score for _, score in hits] == sorted((score for _, score in hits), reverse=True)


def test_groups_bound_what_is_found(model: Path, index: Path) -> None:
    found = HERE.map(partial(errands.keyword_hits, ("crew",)), [index, model], QUESTIONS, lambda done: None)
    assert found == [[], [], []]
