"""The map of terms: which words tell, who is near to whom, and that only what moved is said to have moved."""

from __future__ import annotations

import numpy as np
import pytest

from ragstone import termmap
from ragstone.termmap import Floats

TERMS = ["boiler", "drum", "feedwater", "gasket", "rota", "seal", "shift", "valve"]
GROUPS = [0, 0, 0, 1, 2, 1, 2, 1]
"""Steam, tightness, people."""


def encoder(groups: list[int], dimensions: int, seed: int = 3) -> termmap.Encode:
    """Terms of one group lie close together; which way is chance."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(8, dimensions))
    vectors = centres[groups] + 0.1 * draw.normal(size=(len(groups), dimensions))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def encode(texts: object) -> Floats:
        return np.asarray(unit, np.float32)

    return encode


def test_a_model_that_only_turns_its_space_moves_nothing() -> None:
    first = encoder(GROUPS, 6)(TERMS)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0].astype(np.float32)
    made = termmap.draw(TERMS, lambda _: first, lambda _: first @ turn)
    assert max(term.moved for term in made.terms) < 1e-5
    assert all(np.allclose(term.before, term.after, atol=1e-3) for term in made.terms)


def test_the_term_that_joins_other_neighbours_has_moved_most() -> None:
    joined = [2 if term == "seal" else group for term, group in zip(TERMS, GROUPS, strict=True)]
    made = termmap.draw(TERMS, encoder(GROUPS, 6), encoder(joined, 12))
    first = made.terms[0]
    assert first.word == "seal"
    assert {*first.near_before[:2]} == {"gasket", "valve"}
    assert {*first.near_after[:2]} == {"rota", "shift"}
    assert 0 < made.shown[0] <= 1


def test_what_is_in_every_passage_or_in_one_is_no_telling_term() -> None:
    texts = [f"the {word} of part {row}" for row, word in enumerate(["drum", "seal", "valve"] * 4)] + ["the unique wording"]
    assert termmap.telling(texts) == ["drum", "seal", "valve"]


def test_two_terms_make_no_map() -> None:
    with pytest.raises(ValueError, match="2 terms"):
        termmap.draw(TERMS[:2], encoder(GROUPS, 6), encoder(GROUPS, 6))
