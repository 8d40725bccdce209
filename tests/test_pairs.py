"""Mining questions: what is asked, what is cut out, and that training and judging never share a document."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from ragstone.corpus import Chunk
from ragstone.corpus import pairs as mining
from ragstone.corpus.pairs import MIX, Mined, Pair, digest, distil, harden, mine, sentences, words
from ragstone.corpus.views import views
from tests.topics import topics


@cache
def mined() -> Mined:
    return mine(topics(), limit=400, questions=200)


def plain(text: str) -> str:
    return " ".join(words(text))


def chunk(name: str, document: str, text: str, path: tuple[str, ...] = ()) -> Chunk:
    return Chunk(name, document, document, path, 0, len(text), text)


def prose(seed: int, count: int = 5) -> str:
    """Sentences that no other seed makes."""
    draw = random.Random(seed)
    vocabulary = ["pump", "valve", "turbine", "rotor", "seal", "gasket", "shaft", "bearing", "flange", "nozzle", "impeller", "casing"]
    return " ".join(f"Unit {seed} of line {line} has the {' and the '.join(draw.sample(vocabulary, 8))}." for line in range(count))


def test_no_document_gives_both_a_training_pair_and_a_held_out_question() -> None:
    found = mined()
    assert {pair.document for pair in found.pairs}.isdisjoint(question.document for question in found.questions)
    assert found.pairs
    assert found.questions


def test_no_held_out_passage_is_a_positive_in_training() -> None:
    found = mined()
    judged = {id for question in found.questions for id in question.relevant}
    assert judged.isdisjoint(pair.chunk for pair in found.pairs)


def test_equal_arguments_give_equal_pairs_and_another_seed_gives_others() -> None:
    again = mine(topics(), limit=400, questions=200)
    assert again == mined()
    assert digest(again.pairs) == digest(mined().pairs)
    assert digest(mine(topics(), limit=400, seed=18).pairs) != digest(mined().pairs)


def test_the_split_does_not_depend_on_the_seed_so_that_a_second_run_can_not_peek() -> None:
    first, second = mine(topics(), seed=1), mine(topics(), seed=2)
    assert {question.document for question in first.questions}.isdisjoint(pair.document for pair in second.pairs)


def test_every_kind_of_question_is_drawn_and_none_twice() -> None:
    found = mined().pairs
    assert {pair.kind for pair in found} == set(MIX)
    assert max(Counter(plain(pair.question) for pair in found).values()) == 1
    assert len(found) == 400


def test_a_sentence_is_cut_out_of_the_passage_it_asks_for() -> None:
    asked = [pair for pair in mined().pairs if pair.kind == "sentence"]
    assert asked
    assert not [pair for pair in asked if plain(pair.question) in plain(pair.positive)]


def test_no_passage_is_judged_with_the_question_still_in_it() -> None:
    found = mined()
    shown = {chunk.id: plain(chunk.context) for chunk in found.judged}
    asked = [question for question in found.questions if question.kind == "sentence"]
    assert asked
    assert not [question for question in asked for id in question.relevant if plain(question.text) in shown[id]]


def test_a_heading_is_hidden_from_all_passages_of_its_section() -> None:
    found = mined()
    judged = {chunk.id: chunk for chunk in found.judged}
    asked = [question for question in found.questions if question.kind == "heading"]
    assert asked
    assert not [id for question in asked for id in question.relevant if question.text in (judged[id].title, *judged[id].path)]


def test_every_chunk_of_the_corpus_is_judged_against() -> None:
    assert {chunk.id for chunk in mined().judged} == {chunk.id for chunk in topics()}


def test_a_sentence_that_many_passages_share_is_never_asked() -> None:
    footer = "Contact the operator before you open the main valve of this unit."
    corpus = [chunk(f"{n}", f"d{n}", f"{prose(n)} {footer}") for n in range(120)]
    found = mine(corpus)
    assert footer not in {pair.question for pair in found.pairs} | {question.text for question in found.questions}
    assert not found.unsuitable or "held-out" in found.unsuitable


def test_a_corpus_of_few_documents_is_split_by_section() -> None:
    places = [(part, n) for part in range(40) for n in range(5)]
    corpus = [chunk(f"{part}-{n}", "manual.pdf", prose(100 * part + n), (f"Part {part} on its use",)) for part, n in places]
    found = mine(corpus)
    section = {chunk.id: chunk.path for chunk in corpus}
    asked = {section[id] for question in found.questions for id in question.relevant}
    assert asked
    assert asked.isdisjoint(section[pair.chunk] for pair in found.pairs)


def test_a_single_document_without_sections_is_unsuitable_and_says_so() -> None:
    found = mine([chunk(f"{n}", "book.txt", prose(n)) for n in range(50)])
    assert found.unsuitable == "the corpus has 1 documents or sections; 10 are needed to keep some out"
    assert not found.pairs
    assert not found.questions


def test_a_tiny_corpus_is_unsuitable_and_says_how_many_questions_it_gave() -> None:
    found = mine([chunk(f"{n}", f"d{n}", prose(n)) for n in range(20)])
    assert "held-out questions; 60 are needed" in found.unsuitable


def test_an_empty_corpus_is_unsuitable() -> None:
    assert mine([]).unsuitable


def test_one_huge_document_is_not_held_out() -> None:
    corpus = [chunk(f"big-{n}", "big", prose(n)) for n in range(300)] + [chunk(f"{n}", f"d{n}", prose(1000 + n)) for n in range(60)]
    assert "big" in {pair.document for pair in mine(corpus).pairs}


@given(st.lists(st.integers(1, 40), min_size=10, max_size=60))
@settings(max_examples=50, deadline=None)
def test_at_most_a_fifth_of_the_chunks_is_held_out(sizes: list[int]) -> None:
    units = [f"d{at}" for at, size in enumerate(sizes) for _ in range(size)]
    kept = mining._held_out(units)
    assert sum(unit in kept for unit in units) <= 0.2 * len(units)


def ranked(chunks: list[Chunk], cosine: float = 0.5) -> mining.Search:
    return lambda question, limit: [(chunk.id, cosine) for chunk in chunks][:limit]


def test_a_negative_is_never_of_the_section_that_answers() -> None:
    corpus = [chunk(f"{n}", f"d{n % 2}", prose(n), ("Seals",)) for n in range(60)]
    pair = Pair("which seals?", "0", "d0", corpus[0].context)
    (hard,) = harden([pair], corpus, lambda question, limit: [("0", 0.9), *((one.id, 0.4) for one in corpus[1:])][:limit], count=8)
    other = {one.context for one in corpus if one.document == "d1"}
    assert len(hard.negatives) == 8
    assert set(hard.negatives) <= other


def test_a_passage_as_near_as_the_positive_is_no_negative() -> None:
    corpus = [chunk(f"{n}", f"d{n}", prose(n)) for n in range(30)]
    pair = Pair("which?", "0", "d0", corpus[0].context)
    assert harden([pair], corpus, ranked(corpus, 0.5))[0].negatives == ()


def test_the_first_three_ranks_are_no_negatives() -> None:
    corpus = [chunk(f"{n}", f"d{n}", prose(n)) for n in range(4)]
    pair = Pair("which?", "0", "d0", corpus[0].context)
    found = [("1", 0.3), ("2", 0.3), ("0", 0.9), ("3", 0.3)]
    assert harden([pair], corpus, lambda question, limit: found)[0].negatives == (corpus[3].context,)


def test_a_copy_of_the_positive_is_no_negative() -> None:
    corpus = [chunk("0", "d0", prose(0)), *(replace(chunk("0", "d0", prose(0)), id=f"{n}", document=f"d{n}") for n in range(1, 9))]
    pair = Pair("which?", "0", "d0", corpus[0].context)
    found = [("0", 0.9), *((f"{n}", 0.3) for n in range(1, 9))]
    assert harden([pair], corpus, lambda question, limit: found)[0].negatives == ()


def test_tables_and_code_are_no_sentences() -> None:
    assert sentences("| 2019 | 2018 | 2017 | 4,5 | 7,8 | 9 |") == []
    assert sentences("x = [f(a, b) for a, b in zip(c, d) if g(a) == h(b)]") == []


def test_words_of_other_scripts_are_counted() -> None:
    assert words("安全阀 kаpпa Überdruck") == ["安", "全", "阀", "kаpпa", "überdruck"]


# A teacher.


def taught(scores: dict[str, float]) -> tuple[Pair, ...]:
    pairs = mine(topics(), limit=40).pairs
    ranked = sorted(scores.items(), key=lambda one: -one[1])
    return distil(pairs, topics(), lambda question, limit: ranked[:limit])


def test_a_pair_whose_passage_the_teacher_does_not_find_is_left_out() -> None:
    pairs = mine(topics(), limit=40).pairs
    found = {pairs[0].chunk: 0.9, topics()[-1].id: 0.3, topics()[-2].id: 0.2}
    assert {pair.chunk for pair in taught(found)} == {pairs[0].chunk}


def test_a_taught_pair_shows_windows_of_its_passage_and_of_others_with_their_scores() -> None:
    everywhere = {chunk.id: 1.0 - place / 1000 for place, chunk in enumerate(topics()[:60])}
    seen = {view: chunk.id for chunk in topics() for view in views(chunk)}
    for pair in taught(everywhere):
        ids = [seen[pair.positive], *(seen[text] for text in pair.negatives)]
        assert ids[0] == pair.chunk
        assert len(set(ids)) == 3
        assert pair.scores == tuple(everywhere[id] for id in ids)


def test_equal_teachers_teach_alike() -> None:
    everywhere = {chunk.id: 0.5 for chunk in topics()[:60]}
    assert digest(taught(everywhere)) == digest(taught(everywhere))
