"""Words: what is compared when a sentence is held against a passage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone.words import content, stem, words


@pytest.mark.parametrize(
    ("one", "other"),
    [("executes", "executed"), ("body", "bodies"), ("stop", "stopped"), ("use", "using"), ("cache", "caching"), ("evaluation", "evaluate"),
     ("process", "processes"), ("matches", "matching"), ("type", "typed"), ("dictionary", "dictionaries")],
)  # fmt: skip
def test_forms_of_a_word_have_one_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


@pytest.mark.parametrize(
    ("one", "other"), [("user", "use"), ("only", "on"), ("order", "or"), ("import", "important"), ("apply", "app"), ("class", "clas")]
)
def test_different_words_keep_different_stems(one: str, other: str) -> None:
    assert stem(one) != stem(other)


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("It stops at 12 bar, 10,000 times.", {"12", "10000"}),
        ("Since 3.11 and 3.50 m", {"3.11", "3.5"}),
        ("Call os.path.join or `len` with --dry-run", {"os.path.join", "len", "--dry-run"}),
        ("See E-1042 in the UTF-8 table of Siemens", {"e-1042", "utf-8", "siemen"}),
        ("Two pumps and one valve", {"2"}),
        ("超时是30秒", {"30"}),
    ],
)
def test_numbers_identifiers_and_names_are_exact(text: str, exact: set[str]) -> None:
    assert {word.stem for word in words(text) if word.exact} == exact


@pytest.mark.parametrize(
    "text", ["It isn't safe", "It is not safe", "It can't be", "It cannot be", "They won’t stop", "without oil", "不能修改"]
)
def test_denials_are_found_however_they_are_written(text: str) -> None:
    assert sum(word.negation for word in words(text)) == 1


def test_grammar_is_not_content_but_words_that_turn_a_fact_round_are() -> None:
    assert [word.stem for word in content("It is only used before the pump, as it was")] == ["only", "befor", "pump"]


@given(st.text())
def test_any_text_has_words(text: str) -> None:
    assert all(word.text and word.stem for word in words(text))
