"""What is known of a question's word order, and what is not."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from ragstone import phrasing
from ragstone.phrasing import features, known, questions

PASSAGE = "The feed pump is started only after the level in the hotwell has been stable for ten minutes."


def test_words_in_the_order_of_a_passage_are_known() -> None:
    assert known("level in the hotwell", [PASSAGE]) == (3 + 1) / (3 + 2)


def test_the_same_words_in_another_order_are_not() -> None:
    assert known("hotwell level the in", [PASSAGE]) == 1 / (3 + 2)


def test_any_of_the_passages_will_do() -> None:
    asked = "the feed pump and the relief valve"
    assert known(asked, [PASSAGE, "Open the relief valve."]) > known(asked, [PASSAGE]) > known(asked, [])


def test_no_pair_reaches_over_the_end_of_a_passage() -> None:
    assert known("minutes open", [PASSAGE, "Open the relief valve."]) == known("minutes open", [])


def test_how_people_ask_is_known_whatever_they_ask_about() -> None:
    assert known("what is the difference between a zork and a grue", []) > 0.4
    assert known("grue difference zork what and is between a the a", []) < 0.2


def test_what_only_one_shipped_question_says_is_not_how_people_ask() -> None:
    assert known("soft yolk", []) == known("yolk soft", []) == 1 / 3


def test_case_and_marks_change_nothing() -> None:
    assert known("Level, in THE hotwell?", [PASSAGE]) == known("level in the hotwell", [PASSAGE])


def test_a_character_is_a_word_where_words_are_not_spaced() -> None:
    assert known("给水泵启动", ["水位稳定后给水泵启动。"]) == (4 + 1) / (4 + 2)


def test_a_word_alone_has_no_order() -> None:
    assert known("hotwell", [PASSAGE]) == known("", []) == 0.5


@given(st.text(max_size=80), st.lists(st.text(max_size=80), max_size=3))
def test_a_share_is_between_0_and_1_and_grows_with_the_passages(question: str, passages: list[str]) -> None:
    assert 0 < known(question, []) <= known(question, passages) < 1


@given(st.text(max_size=80))
def test_features_are_finite_whatever_is_asked(question: str) -> None:
    assert all(map(math.isfinite, features(question, [PASSAGE])))


def test_a_length_counts_between_a_few_words_and_many() -> None:
    lengths = [features("word " * count, [])[1] for count in (0, 3, 10, 40, 400)]
    assert lengths == [math.log(count) for count in (3, 3, 10, 40, 40)]


def test_shipped_questions_are_distinct_short_and_long_and_of_many_fields() -> None:
    found = questions()
    assert len(found) == len(set(found)) > 400
    lengths = [len(question.split()) for question in found]
    assert min(lengths) <= 3
    assert max(lengths) >= 50
    for word in ("contract", "tax", "antibiotics", "database", "aeroplane", "library", "bake", "marathon"):
        assert any(word in question for question in found), word


def test_shipped_questions_are_told_from_their_own_words_in_no_order() -> None:
    """Each read in all others but itself: how people ask goes beyond a single question."""
    draw = random.Random(1)
    asked = [question for question in questions() if len(question.split()) >= 8]
    mixed = [" ".join(draw.sample(question.split(), len(question.split()))) for question in asked]
    share = [[sum(pair in phrasing._common() for pair in phrasing._pairs(text)) for text in texts] for texts in (asked, mixed)]
    assert sum(share[0]) > 4 * sum(share[1])
