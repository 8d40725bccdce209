"""Labels over a corpus: what they mean there, that the split is by document, and what is trained and judged on."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragstone.corpus import Chunk, labelled, labels
from ragstone.corpus.labelled import Split, prepare, split
from ragstone.corpus.labels import Label, Labels, Target
from ragstone.corpus.pairs import Mined, Search, digest, mine
from ragstone.corpus.placed import Answer, Asked, place
from tests.test_placed import CORPUS, chunk
from tests.topics import topics

NOTHING: Search = lambda question, limit: []  # noqa: E731  a search that finds nothing


# The split.


@cache
def asked_of_topics(count: int = 400) -> tuple[Asked, ...]:
    """Questions of the topics: every third is answered in two places."""
    chunks = topics()
    at = [(7 * n) % len(chunks) for n in range(count)]
    answers = [(one, one + 11) if n % 3 == 0 else (one,) for n, one in enumerate(at)]
    return tuple(
        Asked(f"question {n}?", tuple(Answer((chunks[one % len(chunks)].id,)) for one in its)) for n, its in enumerate(answers)
    )


def documents(asked: tuple[Asked, ...], chunks: tuple[Chunk, ...] = topics()) -> set[str]:
    of = {chunk.id: chunk.document for chunk in chunks}
    return {of[id] for one in asked for answer in one.answers for id in answer.chunks}


def test_no_document_answers_on_both_sides() -> None:
    parted = split(asked_of_topics(), topics())
    assert 80 <= len(parted.held_out) < 120  # whole documents, of which some have many questions
    assert len(parted.train) >= 240
    assert documents(parted.train).isdisjoint(documents(parted.held_out))


def test_what_hangs_together_is_cut_and_training_goes_without_the_held_out_documents() -> None:
    chunks = tuple(chunk(f"c{n}", f"d{n}", f"text {n}") for n in range(300))
    chain = tuple(Asked(f"question {n}?", (Answer((f"c{n}",)), Answer((f"c{n + 1}",)))) for n in range(299))
    parted = split(chain, chunks)
    assert 60 <= len(parted.held_out) < 80
    assert documents(parted.train, chunks).isdisjoint(documents(parted.held_out, chunks))
    cut = [one for one in parted.train if one.apart]
    assert cut
    assert all(len(one.answers) == 1 for one in cut)


def test_where_one_document_answers_nearly_all_no_question_is_held_out() -> None:
    chunks = tuple(chunk(f"c{n}", "book.pdf" if n < 280 else f"d{n}", f"text {n}") for n in range(300))
    parted = split(tuple(Asked(f"question {n}?", (Answer((f"c{n}",)),)) for n in range(300)), chunks)
    assert (len(parted.train), parted.held_out) == (300, ())


def test_a_corpus_of_few_documents_is_split_by_section() -> None:
    chunks = tuple(replace(chunk(f"c{n}", "book.pdf", f"text {n}"), path=(f"Part {n // 5}",)) for n in range(300))
    parted = split(tuple(Asked(f"question {n}?", (Answer((f"c{n}",)),)) for n in range(300)), chunks)
    sections = [{int(answer.chunks[0][1:]) // 5 for one in side for answer in one.answers} for side in (parted.train, parted.held_out)]
    assert len(parted.held_out) == 60
    assert sections[0].isdisjoint(sections[1])


def test_few_labels_are_all_for_training() -> None:
    parted = split(asked_of_topics()[:119], topics())
    assert (len(parted.train), parted.held_out) == (119, ())


def test_a_new_label_moves_few_others() -> None:
    chunks = tuple(chunk(f"c{n}", f"d{n}", f"text {n}") for n in range(500))
    asked = tuple(Asked(f"question {n}?", (Answer((f"c{n}",)),)) for n in range(500))
    first, second = split(asked[:400], chunks), split(asked, chunks)
    assert len({one.text for one in first.held_out} & {one.text for one in second.held_out}) >= 60


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(120, 200))
@settings(max_examples=40, deadline=None)
def test_any_labels_are_split_by_document(seed: int, most: int, count: int) -> None:
    """A seed instead of drawn lists: to draw a hundred of them is slow enough to fail on a busy machine."""
    draw = random.Random(seed)
    chunks = tuple(chunk(f"c{n}", f"d{n}", f"text {n}") for n in range(61))
    answers = [draw.sample(range(61), draw.randint(1, most)) for _ in range(count)]
    asked = tuple(Asked(f"question {n}?", tuple(Answer((f"c{at}",)) for at in its)) for n, its in enumerate(answers))
    parted = split(asked, chunks)
    assert documents(parted.train, chunks).isdisjoint(documents(parted.held_out, chunks))
    assert len(parted.held_out) >= 60 or parted.train == asked
    assert parted == split(asked, chunks)


def test_a_dev_split_judges_and_what_it_shares_with_training_is_set_apart() -> None:
    chunks = tuple(chunk(f"c{n}", f"d{n}", f"text {n}") for n in range(200))
    train = tuple(Asked(f"question {n}?", (Answer((f"c{n}",)),)) for n in range(100))
    dev = tuple(Asked(f"dev {n}?", (Answer((f"c{n}",)),), held_out=True) for n in range(90, 170))
    parted = split((*train, *dev), chunks)
    assert (len(parted.train), len(parted.held_out), len(parted.seen)) == (100, 70, 10)
    assert documents(parted.seen, chunks) <= documents(parted.train, chunks)


def test_a_dev_split_that_can_not_judge_is_pooled() -> None:
    chunks = tuple(chunk(f"c{n}", f"d{n}", f"text {n}") for n in range(200))
    asked = tuple(Asked(f"question {n}?", (Answer((f"c{n}",)),), held_out=n >= 150) for n in range(180))
    parted = split(asked, chunks)
    assert (len(parted.train), len(parted.held_out), parted.seen) == (120, 60, ())


# What is trained on.


def test_the_best_chunk_of_a_document_is_the_positive_and_the_others_are_never_negatives() -> None:
    asked = (Asked("How long is it primed?", (Answer(("pump-1", "pump-2")),), (Answer(("valve-1", "copy-1"), grade=0.0),)),)
    (pair,) = labelled.pairs(asked, CORPUS, lambda question, limit: [("other-1", 0.9), ("pump-2", 0.8), ("pump-1", 0.2)])
    assert (pair.chunk, pair.document, pair.kind) == ("pump-2", "manuals/pump.md", "label")
    assert pair.answers == (CORPUS[0].context,)
    assert pair.negatives == (CORPUS[2].context,)


def test_a_chunk_that_no_search_finds_is_chosen_by_its_words() -> None:
    (pair,) = labelled.pairs((Asked("How long is the pump primed, ninety seconds?", (Answer(("pump-1", "pump-2")),)),), CORPUS, NOTHING)
    assert pair.chunk == "pump-2"


def test_every_answer_is_a_pair_and_of_too_many_the_best_of_each_question_stay() -> None:
    asked = tuple(Asked(f"{n}?", (Answer((f"other-{n}",), grade=2.0), Answer((f"other-{n + 1}",)))) for n in range(0, 40, 2))
    assert len(labelled.pairs(asked, CORPUS, NOTHING)) == 40
    kept = labelled.pairs(asked, CORPUS, NOTHING, limit=20)
    assert {pair.chunk for pair in kept} == {f"other-{n}" for n in range(0, 40, 2)}


def test_what_is_set_apart_is_no_negative_either() -> None:
    asked = (Asked("what?", (Answer(("pump-1",)),), apart=(Answer(("valve-1",)),)),)
    found: Search = lambda question, limit: [(f"other-{n}", 0.9) for n in range(3)] + [("valve-1", 0.1), ("other-9", 0.1)]  # noqa: E731
    (pair,) = labelled.Material(Mined((), (), ()), asked).pairs(CORPUS, found, found)
    assert pair.negatives == (CORPUS[14].context,)


def test_known_negatives_come_before_found_ones() -> None:
    asked = (Asked("what?", (Answer(("pump-1",)),), (Answer(("valve-1",), grade=0.0),)),)
    found: Search = lambda question, limit: [(f"other-{n}", 0.1) for n in range(40)]  # noqa: E731
    (pair,) = labelled.Material(Mined((), (), ()), asked).pairs(CORPUS, found, found)
    assert pair.negatives == (CORPUS[2].context,)


def test_a_passage_out_of_the_corpus_is_trained_on() -> None:
    text = "Grease the bearing of the fan with two strokes of the gun each week."
    found: Search = lambda question, limit: [(f"other-{n}", 0.1) for n in range(40)]  # noqa: E731
    (pair,) = labelled.Material(Mined((), (), ()), (Asked("what?", (Answer((), text),)),)).pairs(CORPUS, found, found)
    assert (pair.chunk, pair.positive, len(pair.negatives)) == ("", text, 1)


# What is judged on.


def labels_of(asked: tuple[Asked, ...]) -> Labels:
    return Labels(tuple(Label(one.text, tuple(Target(id) for answer in one.answers for id in answer.chunks)) for one in asked))


@cache
def mined() -> Mined:
    return mine(topics(), limit=400, questions=200)


def test_without_labels_the_material_is_what_was_mined() -> None:
    assert prepare(Labels(), mined(), topics()) == labelled.Material(mined())


def test_enough_labels_judge_over_the_corpus_as_it_is() -> None:
    material = prepare(labels_of(asked_of_topics()), mined(), topics())
    assert material.judged_by_people
    assert material.mined.judged == topics()
    assert {question.kind for question in material.mined.questions} == {"label"}
    asked = {question.text for question in material.mined.questions}
    assert asked.isdisjoint(one.text for one in material.train)


def test_mined_pairs_fill_up_few_labels_but_never_of_a_judged_document() -> None:
    material = prepare(labels_of(asked_of_topics()), mined(), topics())
    judged = {of.document for question in material.mined.questions for of in topics() if of.id in question.relevant}
    assert material.mined.pairs
    assert judged.isdisjoint(pair.document for pair in material.mined.pairs)


def test_many_labels_need_no_mined_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "FEW", 200)
    assert prepare(labels_of(asked_of_topics()), mined(), topics()).mined.pairs == ()


def test_few_labels_train_and_mined_questions_of_other_documents_judge() -> None:
    few = asked_of_topics()[:4]
    material = prepare(labels_of(few), mined(), topics())
    assert not material.judged_by_people
    assert len(material.train) == 4
    assert len(material.mined.questions) >= 60
    assert documents(few).isdisjoint(question.document for question in material.mined.questions)


def test_where_labels_are_everywhere_they_give_way_to_the_judged_documents() -> None:
    everywhere = tuple(Asked(f"question {n}?", tuple(Answer((one.id,)) for one in topics()[n::100])) for n in range(100))
    material = prepare(labels_of(everywhere), mined(), topics())
    assert material.mined.questions == mined().questions
    assert documents(material.train).isdisjoint(question.document for question in mined().questions)


def test_a_corpus_too_small_to_mine_is_trained_on_with_enough_labels() -> None:
    chunks = tuple(chunk(f"c{n}", f"d{n}", f"Only the words of passage {n} and no other stand here.") for n in range(200))
    asked = tuple(Asked(f"question {n}?", (Answer((f"c{n}",)),)) for n in range(200))
    small = replace(mined(), pairs=(), questions=(), unsuitable="too small")
    assert prepare(labels_of(asked), small, chunks).mined.unsuitable == ""
    assert prepare(labels_of(asked[:50]), small, chunks).mined.unsuitable == "too small"


def test_equal_labels_give_equal_material() -> None:
    one, other = (prepare(labels_of(asked_of_topics()), mined(), topics()) for _ in range(2))
    assert one == other
    assert digest(one.pairs(topics(), NOTHING, NOTHING)) == digest(other.pairs(topics(), NOTHING, NOTHING))


# On judged collections, where they are at hand.

DATA = os.environ.get("RAGSTONE_TEST_DATA", "")


@pytest.mark.skipif(not DATA, reason="RAGSTONE_TEST_DATA names no folder of judged collections (BEIR layout): no real qrels are split")
@pytest.mark.parametrize(("name", "train", "held_out", "seen"), [("tatqa_passages", 1480, 162, 6), ("scifact", 646, 161, 0)])
def test_a_judged_collection_is_split_by_document(name: str, train: int, held_out: int, seen: int) -> None:
    folder = Path(DATA, name)
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").split("\n") if line]
    chunks = tuple(Chunk(row["_id"], row["_id"], row["title"], (), 0, len(row["text"]), row["text"]) for row in rows if row["text"].strip())
    asked, unusable = place(labels.read([folder]), chunks)
    parted = split(asked, chunks)
    assert unusable == ()
    assert (len(parted.train), len(parted.held_out), len(parted.seen)) == (train, held_out, seen)
    assert documents(parted.train, chunks).isdisjoint(documents(parted.held_out, chunks))
    tested = {line.split("\t")[0] for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]}
    texts = {json.loads(line)["text"] for line in (folder / "queries.jsonl").read_text().splitlines() if json.loads(line)["_id"] in tested}
    assert len({one.text for one in (*parted.train, *parted.held_out, *parted.seen)} & texts) < 0.05 * len(texts)


def test_a_split_may_be_empty() -> None:
    assert split((), topics()) == Split(())
