"""What a model reads of a chunk, and the one vector that it becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone.corpus import Chunk
from ragstone.corpus.views import STEP, WINDOW, of_passage, passage, views
from ragstone.embedder import Embedder
from tests.tiny import tiny
from tests.topics import topics


def chunk(text: str, title: str = "Pump") -> Chunk:
    return Chunk("id", "a.md", title, ("Seal",), 0, len(text), text)


def counted(words: int) -> str:
    return " ".join(f"w{number}" for number in range(words))


def test_a_short_chunk_is_read_whole_and_once() -> None:
    assert views(chunk(counted(WINDOW))) == [chunk(counted(WINDOW)).context]


def test_every_view_stands_under_the_title_and_headings() -> None:
    assert all(view.startswith("Pump > Seal\n") for view in views(chunk(counted(200))))


@given(st.integers(1, 400))
def test_the_windows_cover_every_word_and_none_is_longer_than_a_window(words: int) -> None:
    whole, *windows = views(chunk(counted(words), ""))
    read = [view.removeprefix("Seal\n").split() for view in windows]
    assert all(len(window) <= WINDOW for window in read)
    assert {word for window in read or [counted(words).split()] for word in window} == set(counted(words).split())
    assert len(windows) == (0 if words <= WINDOW else -(-(words - (WINDOW - STEP)) // STEP))
    assert whole.endswith(counted(words))


def test_writing_without_spaces_has_windows_too() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(150))
    assert [len(view.removeprefix("Pump > Seal\n")) for view in views(chunk(text))] == [150, 60, 60, 60, 30]


def test_a_window_keeps_the_writing_as_it_is() -> None:
    text = "\n\n".join(f"a{number}  b{number}" for number in range(60))
    assert all(view.removeprefix("Pump > Seal\n") in text for view in views(chunk(text)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return Embedder(tiny(tmp_path_factory.mktemp("model")), threads=1)


def test_a_passage_is_half_its_whole_and_half_its_windows(model: Embedder) -> None:
    seen = views(topics()[3])
    whole, *windows = model.documents(seen)
    mean = np.sum(windows, axis=0)
    expected = whole + mean / np.linalg.norm(mean)
    assert len(windows) > 1
    np.testing.assert_allclose(model.passages([seen])[0], expected / np.linalg.norm(expected), rtol=1e-5, atol=1e-6)


@given(st.text(), st.text(min_size=1))
def test_a_chunk_sent_as_one_text_has_the_same_views_whatever_stands_in_it(title: str, text: str) -> None:
    one = chunk(text * 30, title)
    assert of_passage(passage(one)) == views(one)


@pytest.mark.parametrize("text", ["Prime the pump.", '"text"', '["head"]', '["head", 7]', '["head", ""]', '{"head": "text"}'])
def test_a_text_that_is_no_passage_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        of_passage(text)


def test_passages_are_unit_vectors_that_do_not_depend_on_their_neighbours(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [views(one) for one in topics()[:7]]
    together = model.passages(seen)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)
    monkeypatch.setattr("ragstone.embedder.SLAB", 2)
    done: list[int] = []
    np.testing.assert_array_equal(model.passages(seen, done.append), together)
    assert done == list(range(1, sum(map(len, seen)) + 1))


def test_a_passage_of_one_view_is_that_view(model: Embedder) -> None:
    np.testing.assert_array_equal(model.passages([["one view"]]), model.documents(["one view"]))


def test_no_passages_are_no_vectors(model: Embedder, tmp_path: Path) -> None:
    assert model.passages([]).shape == (0, model.dimensions)
