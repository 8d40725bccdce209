"""What labelled questions say of the fusion: over an index of a few manuals whose vectors are mixed up, so that words know better."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ragstone import weigh
from ragstone.config import Retrieve
from ragstone.corpus import Chunk
from ragstone.corpus.pairs import Question
from ragstone.embedder import Embedder
from ragstone.index import Index, local
from ragstone.model import card
from ragstone.retrieve import weighed
from tests.tiny import tiny

EVERYONE = ("public",)
PARTS = [
    f"{first} {second}" for first in ("feed", "relief", "ball", "check", "gate", "bleed", "vent", "drain") for second in ("pump", "valve")
]
TASKS = ("cleaning", "opening", "closing", "testing", "mending")
SETTINGS = Retrieve(candidates=80)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return Embedder(tiny(tmp_path_factory.mktemp("tiny")), threads=1)


@pytest.fixture(scope="module")
def index(model: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    chunks = [
        Chunk(f"{part} {task}", f"{part}.md", "", (), 0, 0, f"The {task} of the {part} is done on the day shift.")
        for part in PARTS
        for task in TASKS
    ]
    folder = tmp_path_factory.mktemp("index") / "index"
    local.build(folder, chunks, np.roll(model.documents([chunk.context for chunk in chunks]), 7, axis=0))
    with closing(local.open(folder, "manuals")) as opened:
        yield opened


def questions(count: int = 80) -> list[Question]:
    """Each says the words of its chunk."""
    asked = [Question(f"{task} of the {part}?", f"{part}.md", (f"{part} {task}",)) for part in PARTS for task in TASKS]
    return asked[:count]


def test_words_decide_where_the_cosine_is_wrong(model: Embedder, index: Index) -> None:
    blind = replace(SETTINGS, dense_weight=1.0)
    dense, _ = weigh.learn(index, model, questions(), EVERYONE, blind)
    assert dense < 1.0
    found = weigh.scores(index, model, questions(), EVERYONE, blind)
    assert found[dense, 0.2].mean() > found[1.0, 0.2].mean()


def test_settings_that_do_as_well_stay(model: Embedder, index: Index) -> None:
    found = weigh.scores(index, model, questions(), EVERYONE, SETTINGS)
    dense, bigram = max(found, key=lambda weights: float(found[weights].mean()))
    best = replace(SETTINGS, dense_weight=dense, bigram_weight=bigram)
    assert weigh.learn(index, model, questions(), EVERYONE, best) == ()


def test_a_few_questions_choose_nothing(model: Embedder, index: Index) -> None:
    assert weigh.learn(index, model, questions(weigh.QUESTIONS - 1), EVERYONE, replace(SETTINGS, dense_weight=1.0)) == ()


def test_the_grid_has_the_settings_own_weights(model: Embedder, index: Index) -> None:
    found = weigh.scores(index, model, questions(10), EVERYONE, replace(SETTINGS, dense_weight=0.45, bigram_weight=0.3))
    assert (0.45, 0.3) in found
    assert all(len(scores) == 10 and (scores >= 0).all() and (scores <= 1).all() for scores in found.values())


def test_a_model_brings_its_own_weights_and_they_are_part_of_what_it_is(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model")
    before = Embedder(folder, threads=1)
    assert weighed(SETTINGS, before) == SETTINGS
    card.write(folder, replace(card.read_card(folder), fusion=(0.3, 1.0)))
    after = Embedder(folder, threads=1)
    assert weighed(SETTINGS, after) == replace(SETTINGS, dense_weight=0.3, bigram_weight=1.0)
    assert after.digest != before.digest
    assert after.encoder == before.encoder
    np.testing.assert_array_equal(after.queries(["feed pump"]), before.queries(["feed pump"]))
