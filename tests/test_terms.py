"""The term space: what it learns from a corpus alone, and what becomes of a model that has one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ragstone import embedder, terms
from ragstone.corpus.views import views
from ragstone.embedder import Embedder
from ragstone.errors import WeightsError
from ragstone.terms import Terms
from tests.tiny import tiny
from tests.topics import topics

TEXTS = [chunk.context for chunk in topics()]

PARTS = ("bearing", "sleeve", "seal")
MACHINES = [f"The {pump} moves condensate; the {part} of the rotor." for pump in ("feed pump", "booster", "turbopump") for part in PARTS]
BREAD = [f"The {flour} dough rises; the {part} of the loaf." for flour in ("rye", "wheat", "spelt") for part in ("crust", "crumb", "heel")]


def unit(rows: int, width: int, seed: int = 4) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    found = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def learned(texts: list[str], dense: terms.Floats) -> Terms:
    found = terms.learn(texts, dense)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def space(model: Path) -> Terms:
    return learned(TEXTS, Embedder(model, threads=1).documents(TEXTS[:200]))


def test_words_that_stand_with_the_same_words_are_near_though_they_never_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text has both "booster" and "turbopump"; what they share is their company."""
    monkeypatch.setattr(terms, "DIMENSIONS", 2)
    found = learned(MACHINES + BREAD, unit(18, 16)).encode(["booster", "turbopump", "rye"])
    assert found[0] @ found[1] > found[0] @ found[2] + 0.2


def test_a_text_without_a_known_word_is_nowhere_and_disturbs_nothing(space: Terms) -> None:
    assert not space.encode(["zzyzx qwrtp"]).any()
    dense = unit(2, 32)
    joined = space.join(dense, ["zzyzx", ""])
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1.0, rtol=1e-5)


def test_a_joined_vector_has_the_length_and_the_dimensions_of_the_transformers(space: Terms) -> None:
    joined = space.join(unit(5, 32), TEXTS[:5])
    assert joined.shape == (5, 32)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1.0, rtol=1e-5)


def test_the_turn_keeps_what_both_cosines_say(space: Terms, model: Path) -> None:
    """Over the corpus that it was learned from, the joined cosine is the weighted sum of the two, but for the axes left out."""
    dense = Embedder(model, threads=1).documents(TEXTS[:60])
    sparse = space.encode(TEXTS[:60])
    wanted = dense @ dense.T + terms.WEIGHT * (sparse @ sparse.T)
    joined = space.join(dense, TEXTS[:60])
    assert np.corrcoef((joined @ joined.T).ravel(), wanted.ravel())[0, 1] > 0.8


def test_learning_is_repeatable(model: Path, space: Terms) -> None:
    again = learned(TEXTS, Embedder(model, threads=1).documents(TEXTS[:200]))
    assert again.words == space.words
    np.testing.assert_array_equal(again.vectors, space.vectors)
    np.testing.assert_array_equal(again.turn, space.turn)


def test_a_word_of_a_single_text_is_left_out() -> None:
    found = learned([*MACHINES, *BREAD, "A zymurgist."], unit(19, 16))
    assert "zymurgist" not in found.words
    assert {"rotor", "dough"} <= set(found.words)


@pytest.mark.parametrize("texts", [["one two three"], ["a b c", "d e f", "g h i"], []])
def test_from_too_little_text_nothing_is_learned(texts: list[str]) -> None:
    assert terms.learn(texts, unit(len(texts), 8)) is None


def test_a_corpus_of_fewer_passages_than_dimensions_keeps_what_the_transformer_says() -> None:
    dense = unit(18, 64)
    found = learned(MACHINES + BREAD, dense)
    fresh = unit(50, 64, seed=9)
    joined = found.join(fresh, ["zzyzx"] * 50)
    assert np.corrcoef((joined @ joined.T).ravel(), (fresh @ fresh.T).ravel())[0, 1] > 0.95


def test_what_is_saved_is_what_is_loaded(space: Terms, tmp_path: Path) -> None:
    space.save(tmp_path)
    found = terms.load(tmp_path)
    assert found is not None
    assert found.words == space.words
    np.testing.assert_array_equal(found.join(unit(3, 32), TEXTS[:3]), space.join(unit(3, 32), TEXTS[:3]))


def test_a_folder_without_a_term_space_has_none(tmp_path: Path) -> None:
    assert terms.load(tmp_path) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / terms.FILE).write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(WeightsError, match=terms.FILE):
        terms.load(tmp_path)


def test_a_model_with_a_term_space_is_another_model_with_other_vectors(model: Path, space: Terms, tmp_path: Path) -> None:
    folder = tmp_path / "joined"
    shutil.copytree(model, folder)
    space.save(folder)
    assert embedder.digest(folder) != embedder.digest(model)
    plain, joined = Embedder(model, threads=1), Embedder(folder, threads=1)
    texts = TEXTS[:4]
    np.testing.assert_allclose(joined.queries(texts), space.join(plain.queries(texts), texts), rtol=1e-5, atol=1e-6)
    seen = [views(chunk) for chunk in topics()[:4]]
    np.testing.assert_allclose(joined.passages(seen), space.join(plain.passages(seen), texts), rtol=1e-5, atol=1e-6)
    assert joined.passages([]).shape == (0, plain.dimensions)


def test_a_term_space_goes_where_its_weights_go(model: Path, space: Terms, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(model, source)
    space.save(source)
    assert embedder.prepare(source, tmp_path / "target", name="x", base="y") == embedder.digest(tmp_path / "target")
    assert (tmp_path / "target" / terms.FILE).is_file()
