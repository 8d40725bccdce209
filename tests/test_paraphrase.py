"""Which questions ask the same: the sentences of `benchmarks.reuse`, and cases that once went wrong."""

from __future__ import annotations

import pytest

from ragstone.paraphrase import form, same
from tests.conformance.bench import ROOT


def rows(name: str) -> list[list[str]]:
    return [line.split("\t") for line in (ROOT / "benchmarks" / "questions" / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("kind", "one", "other"), rows("pairs.tsv"))
def test_questions_with_other_answers_are_never_the_same(kind: str, one: str, other: str) -> None:
    assert not same(form(one), form(other)), kind


def test_most_questions_put_in_other_words_are_the_same() -> None:
    pairs = rows("paraphrases.tsv")
    assert sum(same(form(one), form(other)) for one, other in pairs) >= len(pairs) // 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I prime the feed pumps?", "What's the way to prime a feed pump?"),
        ("How is the pump primed?", "How do we prime the pump?"),
        ("In Python, how do I sort a list?", "How can I sort a list in Python?"),
        ("Can you tell me how long the pump is primed?", "How long is the pump primed?"),
        ("How does one plan shifts?", "What is the procedure for planning shifts?"),
        ("Are the doors open?", "Is the door open?"),
        ("Are two pumps needed?", "Are 2 pumps required?"),
    ],
)
def test_how_a_question_begins_articles_endings_and_synonyms_do_not_count(one: str, other: str) -> None:
    assert same(form(one), form(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is C++?", "What is C?"),
        ("Is the note kept?", "Is the not kept?"),
        ("When is the manager paid?", "When does the manager pay?"),
        ("Is it 5 mW?", "Is it 5 MW?"),
        ("如何启动水泵?", "如何停止水泵?"),
        ("Wie öffne ich das Ventil?", "Wie schließe ich das Ventil?"),
        ("", "why?"),
    ],
)
def test_signs_units_voices_and_other_languages_do(one: str, other: str) -> None:
    assert not same(form(one), form(other))
