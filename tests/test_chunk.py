"""Documents become passages with exact offsets, within their sections and their limit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragstone.corpus import Document, Heading, headings
from ragstone.corpus.chunk import chunk, length

LIMIT = 40


def document(text: str, id: str = "pump.md") -> Document:
    return Document(id, "digest", "Pump", text, headings.markdown(text), ("staff",), {"path": id, "type": "md"})


def prose(words: int, subject: str = "valve") -> str:
    """Sentences of ten words."""
    sentence = f"Open the {subject} slowly and watch the gauge until steady."
    return "\n\n".join([sentence] * (words // 10))


SENTENCES = prose(200)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("# \n-abÄ。汉.,`\t=|1é\u00a0"), max_size=400), st.integers(3, 30))
def test_every_passage_is_a_slice_of_its_document_within_the_limit(text: str, words: int) -> None:
    made = document(text)
    passages = chunk(made, words)
    for passage in passages:
        assert passage.text == text[passage.start : passage.end]
        assert passage.text == passage.text.strip()
        assert 0 < length(passage.text) <= words
    assert [passage.start for passage in passages] == sorted(passage.start for passage in passages)
    assert all(one.end <= other.start for one, other in pairwise(passages))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=8))
def test_no_word_is_lost(sizes: list[int]) -> None:
    text = "\n\n".join(f"## Part {number}\n\n{' '.join(f'w{number}x{word}' for word in range(size))}" for number, size in enumerate(sizes))
    kept = " ".join(passage.text for passage in chunk(document(text), LIMIT)).split()
    assert [word for word in kept if word.startswith("w")] == [word for word in text.split() if word.startswith("w")]


def test_a_passage_carries_what_its_document_says_of_itself() -> None:
    (passage,) = chunk(document("Open the valve."), LIMIT)
    assert (passage.document, passage.title, passage.groups) == ("pump.md", "Pump", ("staff",))
    assert dict(passage.metadata) == {"path": "pump.md", "type": "md"}


def test_passages_keep_to_their_section_and_know_the_headings_above() -> None:
    text = f"# Pump\n\n{prose(50)}\n\n## Start\n\n{prose(60)}\n\n## Stop\n\n{prose(60)}\n\n# Valve\n\n{prose(60)}\n"
    passages = chunk(document(text), LIMIT)
    assert list(dict.fromkeys(passage.path for passage in passages)) == [("Pump",), ("Pump", "Start"), ("Pump", "Stop"), ("Valve",)]
    assert not any("#" in passage.text[1:].lstrip("#") for passage in passages)


def test_tiny_siblings_share_a_passage_under_their_parents_path() -> None:
    text = "# Flags\n\n## -a\n\nAll of it.\n\n## -b\n\nBack up.\n\n## -c\n\nCopy it.\n"
    (passage,) = chunk(document(text), LIMIT)
    assert passage.path == ("Flags",)
    assert passage.text == text.strip()


def test_a_title_and_its_only_tiny_child_are_one_passage_under_the_childs_path() -> None:
    (passage,) = chunk(document("# Pump\n\n## Start\n\nOpen the valve.\n"), LIMIT)
    assert passage.path == ("Pump", "Start")


def test_cousins_are_not_mixed() -> None:
    text = f"# A\n\n{prose(30)}\n\n## A1\n\nSmall one.\n\n# B\n\n## B1\n\n{prose(30)}\n"
    assert all({"A", "B"} - set(passage.path) for passage in chunk(document(text), LIMIT))


def test_a_heading_right_above_a_long_section_is_no_passage_of_its_own() -> None:
    text = f"# Pump\n\n## Start\n\n{prose(100)}\n"
    passages = chunk(document(text), LIMIT)
    assert {passage.path for passage in passages} == {("Pump", "Start")}
    assert passages[0].text.startswith("## Start")


def test_a_line_left_over_joins_its_neighbour() -> None:
    text = f"{prose(30)}\n\n\nA line.\n\n\n{prose(40)}\n"
    assert min(length(passage.text) for passage in chunk(document(text), LIMIT)) > LIMIT / 4


def test_text_without_spaces_is_cut_by_what_a_model_reads() -> None:
    chinese = "打开阀门之前请先检查压力表。" * 40
    key = "f" * 5000
    for text in (chinese, key):
        passages = chunk(document(text), LIMIT)
        assert len(passages) > 1
        assert max(length(passage.text) for passage in passages) <= LIMIT
        assert "".join(passage.text for passage in passages) == text


@pytest.mark.parametrize("text", ["", " \n\t ", "---\n\n***\n\n..."])
def test_a_document_without_words_has_no_passage(text: str) -> None:
    assert chunk(document(text), LIMIT) == []


def test_an_unchanged_passage_keeps_its_id() -> None:
    before = chunk(document(SENTENCES), LIMIT)
    after = chunk(document(SENTENCES + "\n\nA new end."), LIMIT)
    assert [passage.id for passage in after][: len(before) - 1] == [passage.id for passage in before[:-1]]
    assert len({passage.id for passage in before}) == len(before)


def test_the_same_text_in_two_documents_makes_two_ids() -> None:
    assert chunk(document(SENTENCES, "a.md"), LIMIT)[0].id != chunk(document(SENTENCES, "b.md"), LIMIT)[0].id


def test_headings_that_skip_levels_still_nest() -> None:
    text = f"# A\n\n{prose(60)}\n\n#### Deep\n\n{prose(60)}\n\n## B\n\n{prose(60)}\n"
    made = Document("a.md", "", "", text, (Heading(0, 1, "A"), Heading(text.index("####"), 4, "Deep"), Heading(text.index("## B"), 2, "B")))
    assert list(dict.fromkeys(passage.path for passage in chunk(made, LIMIT))) == [("A",), ("A", "Deep"), ("A", "B")]


def test_two_documents_are_chunked_alike_at_every_run() -> None:
    assert chunk(document(SENTENCES), LIMIT) == chunk(document(SENTENCES), LIMIT)
