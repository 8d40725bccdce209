"""Sentences: where one ends, also while the text is still coming."""

from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone.sentences import Reader, sentences

LISTED = """Sure! The steps:

1. Open the file.
2. Read it, e.g. with `read()`. Then close
   it.

```python
x = 1.
print(x)
```
# Title
Done [1]. Next."""


def texts(text: str) -> list[str]:
    return [unit.text for unit in sentences(text)]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Version 3.11 is out. It is fast.", ["Version 3.11 is out.", "It is fast."]),
        ("See e.g. Dr. Smith vs. J. Doe. They met.", ["See e.g. Dr. Smith vs. J. Doe.", "They met."]),
        ("He said \"Stop.\" Then it stopped.", ['He said "Stop."', "Then it stopped."]),
        ("It holds. [1][2] So does this [3]. Yes.", ["It holds. [1][2]", "So does this [3].", "Yes."]),
        ("A line\nthat goes on. End", ["A line\nthat goes on.", "End"]),
        ("A paragraph without a stop\n\nAnother", ["A paragraph without a stop", "Another"]),
        ("- one\n- two\n* three", ["- one", "- two", "* three"]),
        ("| a | b |\n|---|---|\n| 1 | 2 |", ["| a | b |", "|---|---|", "| 1 | 2 |"]),
        ("超时是30秒。不能修改！", ["超时是30秒。", "不能修改！"]),
        ("It goes on... and on.", ["It goes on... and on."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_a_text_is_cut_where_a_reader_would(text: str, cut: list[str]) -> None:
    assert texts(text) == cut


def test_lists_code_and_headings_are_units_of_their_own() -> None:
    assert [(unit.text, unit.kind) for unit in sentences(LISTED)] == [
        ("Sure!", "prose"),
        ("The steps:", "heading"),
        ("1. Open the file.", "prose"),
        ("2. Read it, e.g. with `read()`.", "prose"),
        ("Then close\n   it.", "prose"),
        ("```python\nx = 1.\nprint(x)\n```", "code"),
        ("# Title", "heading"),
        ("Done [1].", "prose"),
        ("Next.", "prose"),
    ]


def test_units_say_where_they_stand() -> None:
    assert all(LISTED[unit.start : unit.end] == unit.text for unit in sentences(LISTED))


@pytest.mark.parametrize("size", [1, 3, 7, 40])
def test_a_text_in_pieces_is_cut_as_the_whole(size: int) -> None:
    for text in (LISTED, *(topics[name][:1500] for name in sorted(topics)[:12])):
        reader = Reader()
        units = [unit for start in range(0, len(text), size) for unit in reader.feed(text[start : start + size])]
        assert units + reader.end() == sentences(text)


@given(st.lists(st.text(alphabet="aB. !?\n`-#[1]|。", max_size=12)))
def test_any_text_in_any_pieces_is_cut_as_the_whole(pieces: list[str]) -> None:
    reader = Reader()
    units = [unit for piece in pieces for unit in reader.feed(piece)]
    assert units + reader.end() == sentences("".join(pieces))


def test_a_sentence_is_given_out_soon_after_it_ends() -> None:
    reader = Reader()
    assert [unit.text for unit in reader.feed("The pump stops. Then the valve is cl")] == ["The pump stops."]
