"""Finding quoted passages in a corpus."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ragstone.corpus import Chunk
from ragstone.corpus.quotes import find, runs
from tests.topics import topics


def chunk(name: str, text: str) -> Chunk:
    return Chunk(name, f"{name}.md", "", (), 0, len(text), text)


def test_a_sentence_is_found_where_it_stands() -> None:
    asked = topics()[40]
    quote = " ".join(asked.text.split()[20:60])
    assert asked.id in find([quote], topics())[quote]


def test_white_space_case_and_punctuation_may_differ() -> None:
    corpus = [chunk("a", "Prime the feed pump\nfor ninety (90) seconds."), chunk("b", "Tighten the bonnet with 85 newton metres.")]
    quote = "PRIME the feed-pump for ninety, 90 seconds"
    assert find([quote], corpus) == {quote: ("a",)}


def test_a_passage_longer_than_a_chunk_means_all_chunks_that_lie_in_it() -> None:
    found = [one for one in topics() if one.document == topics()[40].document][:3]
    quote = "\n\n".join(one.text for one in found)
    assert {one.id for one in found} <= set(find([quote], topics())[quote])


def test_every_copy_is_found() -> None:
    one = topics()[7]
    quote = one.text[:300]
    assert {one.id, "copy"} <= set(find([quote], [*topics(), replace(one, id="copy")])[quote])


def test_the_best_overlap_is_taken_where_no_chunk_has_it_whole() -> None:
    corpus = [
        chunk("a", "The seal is flushed with water at six bar and leaks ten drops a minute."),
        chunk("b", "The seal is flushed with oil at twenty bar and never leaks at all in service."),
    ]
    quote = "The seal is flushed with water at six bar and then replaced by the crew"
    assert find([quote], corpus) == {quote: ("a",)}


def test_what_the_corpus_does_not_hold_is_not_found() -> None:
    assert find(["Braise the duck in red wine with shallots until it is tender.", "", "?!"], topics()) == {}


def test_a_chunk_of_a_few_words_is_not_found_in_every_quote_that_has_them() -> None:
    quote = "First open the drain valve, then close the steam line and wait for six minutes."
    assert find([quote], [chunk("a", "Open the drain valve."), chunk("b", quote)]) == {quote: ("b",)}


@given(st.text(max_size=60))
def test_a_text_with_a_word_has_a_run(text: str) -> None:
    assert all(0 < len(run) <= 4 for run in runs(text))
    assert bool(runs(text)) == bool(runs(f"{text} ")) == any(run for run in runs(text))
