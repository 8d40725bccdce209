"""A named teacher's scores come to the scale of the retriever's, whatever scale they have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone.corpus.pairs import AT_RANDOM, Pair, distil, mine
from ragstone.corpus.taught import LOWEST, Listed, agreement, teach
from ragstone.errors import TrainError
from tests.topics import topics

COUNT = 40
MINED = mine(topics(), limit=COUNT).pairs
RANKED = {pair.chunk: 0.6 for pair in MINED} | {chunk.id: 0.4 for chunk in topics()[:20]}
PAIRS = distil(MINED, topics(), lambda question, limit: sorted(RANKED.items()))


class Judge:
    """Gives the first passage of a list one score, the others another, and a passage that is listed alone a third."""

    def __init__(self, own: float, other: float, stranger: float) -> None:
        self.given = own, other, stranger
        self.asked: list[Listed] = []

    def __call__(self, lists: Sequence[Listed]) -> list[list[float]]:
        own, other, stranger = self.given
        self.asked += lists
        return [[own, *[other] * (len(one.passages) - 1)] if len(one.passages) > 1 else [stranger] for one in lists]


def test_right_passages_come_to_lie_where_the_retriever_has_them_and_strangers_at_random() -> None:
    taught = teach(PAIRS, Judge(9.0, -1.0, -11.0))
    goal = median(pair.scores[0] for pair in PAIRS)
    for pair in taught:
        assert pair.scores[0] == pytest.approx(goal)
        assert pair.scores[1:] == pytest.approx([(goal + AT_RANDOM) / 2] * 2)


def test_probabilities_are_read_as_the_logits_behind_them() -> None:
    logits = (4.0, 1.0, -5.0)
    as_logits = teach(PAIRS, Judge(*logits))
    as_shares = teach(PAIRS, Judge(*(1 / (1 + math.exp(-logit)) for logit in logits)))
    for one, other in zip(as_logits, as_shares, strict=True):
        assert one.scores == pytest.approx(other.scores)


def test_a_probability_of_one_or_zero_is_a_large_logit_and_no_infinity() -> None:
    for pair in teach(PAIRS, Judge(1.0, 0.5, 0.0)):
        assert all(AT_RANDOM <= score <= 1 for score in pair.scores)


@given(st.floats(0.01, 100), st.floats(-100, 100))
def test_the_teachers_own_scale_makes_no_difference(stretch: float, shift: float) -> None:
    plain = teach(PAIRS, Judge(8.0, 3.0, -9.0))
    moved = teach(PAIRS, Judge(*(stretch * (score + 200) + shift + 100 for score in (8.0, 3.0, -9.0))))
    for one, other in zip(plain, moved, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)


def test_what_lies_far_outside_is_cut_to_the_scale() -> None:
    scores = {score for pair in teach(PAIRS, Judge(5.0, 500.0, -5.0)) for score in pair.scores[1:]}
    assert scores == {1.0}
    scores = {score for pair in teach(PAIRS, Judge(5.0, -500.0, -5.0)) for score in pair.scores[1:]}
    assert scores == {0.0}


def test_a_teacher_that_tells_nothing_apart_is_refused() -> None:
    with pytest.raises(TrainError, match=r"right passages 1 in the middle, and those of other questions 2: it can't teach"):
        teach(PAIRS, Judge(1.0, 0.0, 2.0))


def test_a_retriever_that_finds_little_lends_no_scale() -> None:
    faint = [replace(pair, scores=(0.05, 0.04, 0.03)) for pair in PAIRS]
    assert [pair.scores[0] for pair in teach(faint, Judge(5.0, 0.0, -5.0))] == pytest.approx([LOWEST] * len(faint))


def test_the_teacher_reads_what_the_model_will_read_and_no_stranger_is_of_the_questions_document() -> None:
    judge = Judge(5.0, 0.0, -5.0)
    teach(PAIRS, judge)
    assert judge.asked[: len(PAIRS)] == [Listed(pair.question, (pair.positive, *pair.negatives)) for pair in PAIRS]
    of = {pair.positive: pair.document for pair in PAIRS}
    asked = {pair.question: pair.document for pair in PAIRS}
    strangers = judge.asked[len(PAIRS) :]
    assert len(strangers) > COUNT / 2
    assert all(of[one.passages[0]] != asked[one.question] for one in strangers)


def test_a_single_document_has_strangers_of_other_passages() -> None:
    alone = [replace(pair, document="one") for pair in PAIRS]
    assert teach(alone, Judge(5.0, 0.0, -5.0))[0].scores[0] > AT_RANDOM


def test_a_single_passage_can_not_show_what_a_teacher_gives_to_strangers() -> None:
    with pytest.raises(TrainError, match="two passages at least"):
        teach(PAIRS[:1], Judge(5.0, 0.0, -5.0))


def test_labelled_pairs_stay_as_they_are() -> None:
    labelled = Pair("Who?", "c", "d", "The night crew.", kind="label")
    judge = Judge(5.0, 0.0, -5.0)
    assert teach([labelled, *PAIRS], judge)[0] == labelled
    assert teach([labelled], judge) == (labelled,)
    assert "Who?" not in {one.question for one in judge.asked}


def test_equal_teachers_teach_alike() -> None:
    assert teach(PAIRS, Judge(5.0, 0.0, -5.0)) == teach(PAIRS, Judge(5.0, 0.0, -5.0))


def test_agreement_counts_the_questions_whose_own_passage_is_first() -> None:
    assert agreement(teach(PAIRS, Judge(5.0, 0.0, -5.0))) == 1
    assert agreement(teach(PAIRS, Judge(5.0, 6.0, -5.0))) == 0
