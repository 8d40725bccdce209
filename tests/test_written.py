from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone.corpus import Chunk
from ragstone.corpus.pairs import Search, mine
from ragstone.corpus.written import FOUND, LONGEST, question, sift
from ragstone.corpus.written import passages as drawn
from tests.topics import topics

TEXTS = ["Prime the feed pump for ninety seconds.", "Graphite packing lasts four years.", "Handover is at six in the morning."]
CHUNKS = [Chunk(str(at), f"{at}.md", "", (), 0, len(text), text) for at, text in enumerate(TEXTS)]


def finding(*ids: str) -> Search:
    return lambda question, limit: [(id, 0.5) for id in ids][:limit]


def test_a_question_that_finds_its_passage_becomes_a_pair_of_its_own_kind() -> None:
    kept = sift(CHUNKS[:1], {"0": "How long must one wait before starting it?"}, lambda questions: finding("2", "0"))
    (pair,) = kept.pairs
    assert (pair.question, pair.chunk, pair.document) == ("How long must one wait before starting it?", "0", "0.md")
    assert (pair.positive, pair.kind, pair.scores) == (TEXTS[0], "written", ())


def test_a_question_whose_passage_is_not_among_the_first_hits_is_left_out() -> None:
    others = [f"other {number}" for number in range(FOUND)]
    kept = sift(CHUNKS[:1], {"0": "Where does the tour of the plant begin?"}, lambda questions: finding(*others, "0"))
    assert (kept.pairs, kept.lost) == ((), 1)


def test_a_question_in_the_words_of_the_passage_is_left_out_and_never_searched_for() -> None:
    searched: list[str] = []

    def find(questions: list[str]) -> Search:
        searched.extend(questions)
        return finding("0", "1")

    kept = sift(CHUNKS, {"0": "Prime the feed pump for ninety seconds?", "1": "How often is the gland repacked?"}, find)
    assert searched == ["How often is the gland repacked?"]
    assert (len(kept.pairs), kept.copied, kept.unanswered) == (1, 1, 1)


def test_a_question_that_was_written_for_several_passages_asks_for_none() -> None:
    said = dict.fromkeys("012", "What is the purpose of this manual?")
    assert sift(CHUNKS, said, lambda questions: finding("0", "1", "2")).pairs == ()


def test_every_passage_is_counted_once() -> None:
    said = {"0": "Gladly.", "1": "How often is the gland repacked?"}
    kept = sift(CHUNKS, said, lambda questions: finding("0"))
    assert (len(kept.pairs), kept.unanswered, kept.malformed, kept.copied, kept.lost) == (0, 1, 1, 0, 1)
    assert str(kept).startswith("0 of 3 passages gave one; left out: 1 without an answer, 1 without a question, 0 that copy")


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("How long is the pump primed?", "How long is the pump primed?"),
        ("  \n\nHere you go:\n- Who leads the night crew?\nThe shift engineer.", "Who leads the night crew?"),
        ("Question: Who leads the night crew?", "Who leads the night crew?"),
        ('1. **Question:** "Who leads the night crew?" It tests recall.', "Who leads the night crew?"),
        ("3.11 changed which of the rules?", "3.11 changed which of the rules?"),
        ("1) What is a drum? 2) What is a pump?", "What is a drum?"),
        ("水泵需要预热多久？", "水泵需要预热多久？"),
        ("", ""),
        ("?", ""),
        ("Why?", ""),
        ("The pump is primed.", ""),
        ("word " * (LONGEST + 1) + "?", ""),
        ("How long is the pump", ""),
    ],
)
def test_the_first_question_is_taken_and_anything_else_is_none(said: str, wanted: str) -> None:
    assert question(said) == wanted


@given(st.lists(st.text(), max_size=3))
def test_whatever_a_generator_says_is_sifted(said: Sequence[str]) -> None:
    kept = sift(CHUNKS, dict(zip("012", said, strict=False)), lambda questions: finding("0", "1", "2"))
    assert len(kept.pairs) + kept.unanswered + kept.malformed + kept.copied + kept.lost == len(CHUNKS)


def test_passages_are_those_of_training_pairs_and_bounded() -> None:
    mined = mine(topics())
    held_out = {id for asked in mined.questions for id in asked.relevant}
    some = drawn(mined.pairs, topics(), 50)
    assert len({chunk.id for chunk in some}) == 50
    assert not {chunk.id for chunk in drawn(mined.pairs, topics(), 10_000)} & held_out
    assert drawn(mined.pairs, topics(), 80)[:50] == some
    assert drawn(mined.pairs, topics(), 0) == drawn(mined.pairs, topics(), -1) == []
