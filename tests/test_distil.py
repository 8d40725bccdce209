"""A static model out of a transformer: what it keeps of it, and that it is trained and served like any other."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from ragstone import config, distil, embedder, encoder, project, store
from ragstone.config import Settings
from ragstone.corpus.pairs import Pair
from ragstone.embedder import Embedder
from ragstone.errors import TrainError
from ragstone.model.tensors import load
from ragstone.recipe import Recipe
from ragstone.show import Silence
from ragstone.tune import Run
from tests.bases import base

TEXTS = ["the seal of the pump is the seal of the feed pump", "the valve cuts the line off"]
PAIRS = [
    Pair(f"what does valve {number} do?", f"chunk {number}", "valves.md", f"valve {number} cuts line {number * 7} off")
    for number in range(8)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A transformer, and the static model made of it."""
    torch.set_num_threads(1)
    at = tmp_path_factory.mktemp("distil")
    embedder.prepare(base(at / "source", "bert"), at / "model", name="narrow", base="narrow")
    seen: list[tuple[int, int]] = []
    distil.distil(at / "model", TEXTS, at / "distilled", lambda done, words: seen.append((done, words)))
    assert seen[-1] == (30_522, 30_522)
    embedder.prepare(at / "distilled", at / "static", name="static", base="narrow")
    return at / "model", at / "static"


def test_the_result_runs_by_numpy_alone(folders: tuple[Path, Path]) -> None:
    _, static = folders
    card = embedder.read_card(static)
    assert (card.engine, card.dimensions) == ("static", 64)
    assert np.allclose(np.linalg.norm(Embedder(static).documents(["a pump", ""]), axis=1), 1, atol=1e-5)


def test_tokens_that_are_near_stay_near(folders: tuple[Path, Path]) -> None:
    """No dimension is dropped here, so what differs is the mean that was taken off."""
    model, static = folders
    words = ["pump", "valve", "boiler", "steam", "water", "line", "seal", "crew"]
    theirs, ours = Embedder(model).documents(words), Embedder(static).documents(words)
    centred = theirs - theirs.mean(axis=0)
    apart = np.triu_indices(len(words), 1)
    assert np.corrcoef((centred @ centred.T)[apart], (ours @ ours.T)[apart])[0, 1] > 0.8


def test_a_token_that_is_everywhere_weighs_little(folders: tuple[Path, Path]) -> None:
    model, static = folders
    table = load(static / "model.safetensors")["embedding.weight"]
    opened = encoder.open(model, torch.device("cpu"))
    the, valve, boiler = (opened.tokenizer.token_to_id(word) for word in ("the", "valve", "boiler"))
    assert np.linalg.norm(table[the]) < np.linalg.norm(table[valve]) < np.linalg.norm(table[boiler])


def test_it_is_trained_like_any_other_and_then_served(folders: tuple[Path, Path], tmp_path: Path) -> None:
    _, static = folders
    run = Run(static, PAIRS, Recipe(epochs=4, batch=4, interpolations=(1.0,)), tmp_path)
    run.optimise(lambda now: None)
    tuned = run.candidates()[1.0]
    questions, passages = [pair.question for pair in PAIRS], [pair.positive for pair in PAIRS]

    def rightly(folder: Path) -> float:
        model = Embedder(folder)
        scores = model.queries(questions) @ model.documents(passages).T
        return float(np.mean(scores.diagonal() - scores.mean(axis=1)))

    assert rightly(tuned) > rightly(static)
    with torch.inference_mode():
        expected = encoder.open(tuned, torch.device("cpu")).encode(TEXTS, 128).numpy()
    assert np.allclose(Embedder(tuned).documents(TEXTS), expected, atol=1e-5)


def test_a_static_model_comes_with_what_it_loses(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in topics.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    settings = config.override(config.load(tmp_path, {}), "train", base=str(base(tmp_path / "base", "bert")))
    opened = store.connect(settings.store_url)
    project.stage(settings, opened, Silence())
    loss = project.distil(settings, opened, tmp_path / "static", Silence())
    assert loss.questions >= 60
    assert loss.low <= loss.gain <= loss.high
    assert json.loads((tmp_path / "static/report.json").read_text())["tuned"] == loss.tuned
    again = config.override(settings, "train", base=str(tmp_path / "static"))
    assert embedder.read_card(store.fetch(opened, f"models/{project.base(again, opened, Silence())}")).engine == "static"


def test_without_enough_documents_to_measure_on_none_is_made(settings: Settings, manuals: Path, tmp_path: Path) -> None:
    opened = store.connect(settings.store_url)
    project.stage(settings, opened, Silence())
    with pytest.raises(TrainError, match="what a static model loses can't be measured"):
        project.distil(settings, opened, tmp_path / "static", Silence())
    assert not (tmp_path / "static").exists()
