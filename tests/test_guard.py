"""What the guards hold: sets that answer their own questions, and passages of a corpus beside copies with another identifier or number."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone.corpus import Chunk
from ragstone.corpus.pairs import mine
from ragstone.guard import LEAST, QUESTIONS, SHIPPED, Guard, changed, guards, is_identifier, is_number, make, shipped
from ragstone.words import NEGATIONS
from tests.topics import topics


def manual(at: int) -> Chunk:
    """A passage with one identifier and one number of its own."""
    text = f"Before the shift starts, valve V-{200 + at} of the feed line is opened slowly and the gauge must show {at + 13}.5 bar at rest."
    return Chunk(f"c{at}", f"manual-{at}.md", "Manual", (), 0, len(text), text)


MANUALS = [manual(at) for at in range(40)]


def passages(guard: Guard) -> dict[str, str]:
    return {chunk.id: chunk.text for chunk in guard.passages}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_guard_has_one_right_passage_for_each_question_and_says_nothing_twice(name: str) -> None:
    guard = shipped(name)
    texts = passages(guard)
    assert len(guard.questions) == len({question.text for question in guard.questions}) >= 60
    assert len(texts) == len(set(texts.values())) == len(guard.passages)
    assert all(len(question.relevant) == 1 and question.relevant[0] in texts for question in guard.questions)
    assert not guard.shipped


def test_the_negation_guard_asks_each_pair_of_passages_both_ways() -> None:
    guard = shipped("negation")
    asked: dict[str, list[str]] = {}
    for question in guard.questions:
        asked.setdefault(question.document, []).append(question.relevant[0])
    assert len(asked) == len(guard.questions) / 2
    assert all(len(set(relevant)) == 2 for relevant in asked.values())
    negations = NEGATIONS | {"exempt", "failed", "lost"}
    denied = [question for question in guard.questions if negations & set(re.findall(r"\w+", question.text.lower()))]
    assert len(denied) >= len(guard.questions) / 2 - 3


def test_the_right_passage_seldom_shares_the_most_words_with_its_question() -> None:
    """General language is what is left when words do not match."""
    guard = shipped("general")
    texts = {id: set(re.findall(r"\w{4,}", text.lower())) for id, text in passages(guard).items()}
    lexical = 0
    for question in guard.questions:
        words = set(re.findall(r"\w{4,}", question.text.lower()))
        lexical += max(texts, key=lambda id: len(words & texts[id])) in question.relevant
    assert lexical < len(guard.questions) / 4


@pytest.mark.parametrize(("name", "token"), [("identifiers", r"V-2\d\d"), ("numbers", r"\d\d\.5")])
def test_a_made_guard_sets_each_passage_beside_a_copy_with_another_token(name: str, token: str) -> None:
    guard = make(name, MANUALS)
    assert guard is not None
    assert guard.shipped
    assert len(guard.questions) == len(MANUALS)
    texts = passages(guard)
    for question in guard.questions:
        (asked,) = re.findall(token, question.text)
        (right,) = question.relevant
        assert asked in texts[right]
        assert asked not in texts[f"{right} changed"]
        assert re.sub(r"\d", "#", texts[right]) == re.sub(r"\d", "#", texts[f"{right} changed"])


def test_a_made_question_keeps_the_telling_words_around_its_token() -> None:
    guard = make("identifiers", MANUALS)
    assert guard is not None
    assert {re.sub(r"V-\d+", "V-", question.text) for question in guard.questions} == {"shift starts valve V- feed"}


def test_a_made_guard_is_repeatable_and_follows_its_seed() -> None:
    assert make("numbers", topics()) == make("numbers", topics())
    assert make("numbers", topics(), seed=1) != make("numbers", topics(), seed=2)


def test_no_token_is_asked_twice_and_none_is_made_past_the_limit() -> None:
    many = [replace(chunk, id=f"{copy} {chunk.id}") for copy in range(2) for chunk in MANUALS]
    guard = make("identifiers", many)
    assert guard is not None
    assert len(guard.questions) == len(MANUALS)
    whole = make("numbers", [manual(at) for at in range(300)])
    assert whole is not None
    assert len(whole.questions) == QUESTIONS


def test_documents_that_training_did_not_see_come_first() -> None:
    many = [manual(at) for at in range(200)]
    unseen = {chunk.document for chunk in many[:50]}
    guard = make("identifiers", many, unseen)
    assert guard is not None
    assert unseen <= {question.document for question in guard.questions}


def test_a_corpus_with_few_numbers_has_no_such_guard() -> None:
    assert make("numbers", MANUALS[: LEAST - 1]) is None
    assert make("numbers", [replace(chunk, text="No figure stands in this passage about pumps and valves.") for chunk in MANUALS]) is None


def test_a_token_with_hardly_a_word_around_it_is_no_question() -> None:
    table = [replace(chunk, text=" ".join(str(cell) for cell in range(100 + at, 160 + at))) for at, chunk in enumerate(MANUALS)]
    assert make("numbers", table) is None


def test_the_guards_of_a_corpus_are_the_shipped_ones_and_what_it_offers() -> None:
    mined = mine(topics(), limit=100)
    assert [guard.name for guard in guards(mined)] == ["general", "negation", "identifiers", "numbers"]
    assert [guard.name for guard in guards(replace(mined, judged=()))] == ["general", "negation"]
    unseen = {question.document for question in mined.questions}
    for guard in guards(mined)[2:]:
        assert sum(question.document in unseen for question in guard.questions) >= 15


@given(st.from_regex(r"[A-Z]{1,3}-?\d{2,5}", fullmatch=True), st.integers())
def test_an_identifier_is_changed_in_every_digit_and_nowhere_else(token: str, seed: int) -> None:
    assert is_identifier(token)
    other = changed(token, [], random.Random(seed))
    assert re.sub(r"\d", "#", other) == re.sub(r"\d", "#", token)
    assert all(old != new for old, new in zip(token, other, strict=True) if old.isdigit())


@given(st.text(max_size=20))
def test_nothing_is_both_an_identifier_and_a_number(token: str) -> None:
    assert not (is_identifier(token) and is_number(token))


def test_a_name_without_a_digit_becomes_another_of_the_corpus() -> None:
    assert changed("os.path", ["os.path", "getName"], random.Random(1)) == "getName"
    assert changed("os.path", ["os.path"], random.Random(1)) != "os.path"


@pytest.mark.parametrize("word", ["wing-body", "2nd", "Mach", "i.e", "e.g", "well_", "USA"])
def test_a_plain_word_is_no_identifier(word: str) -> None:
    assert not is_identifier(word)
