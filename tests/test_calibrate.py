"""The fit of the calibration: who is answered and who is refused at the threshold, on real text."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ragstone import calibrate, embedder, weights
from ragstone.calibrate import Asked, Fit, fit, jumble
from ragstone.corpus import Chunk
from ragstone.corpus.pairs import mine
from ragstone.embedder import Embedder
from ragstone.index import local
from ragstone.retrieve import Calibration, Retriever
from tests.tiny import tiny
from tests.topics import topics

PUBLIC = ("public",)
OWN = [
    "How do I define a class?", "What does the with statement do?", "How are keyword arguments passed?", "What is a generator expression?",
    "How does operator precedence work?", "How do I raise an exception?", "What do the bitwise operators do?", "How are modules imported?",
    "What does the assert statement check?", "How do augmented assignments work?", "When is the else clause of a loop run?",
    "How do I delete an attribute of an object?", "What is a lambda?", "How are float literals written?", "What does yield return?",
    "How do I compare two objects for identity?", "What are f-strings?", "Which methods make an object a sequence?",
]  # fmt: skip
"""As a person asks them; none was made from the corpus."""

FOREIGN = [
    "Which stone is best for a garden wall?", "How long does a marinated steak keep?", "Who discovered the source of the Nile?",
    "What does the plaintiff have to prove in a libel case?", "How is whisky distilled?", "Why do cats purr when they are stroked?",
    "What is a fair rent for a shop on the high street?", "How do I get to the castle from the railway station?",
    "Which vaccine does a traveller to the Amazon need?", "How many goals were scored in the final last year?",
    "What should a bride's mother wear?", "How do glaciers calve?", "Who paints the lines on a tennis court?",
    "Can parrots be left alone for a day?",
]  # fmt: skip
"""None of them is shipped."""


@pytest.fixture(scope="module")
def chunks() -> list[Chunk]:
    return list(topics())


@pytest.fixture(scope="module")
def retriever(chunks: list[Chunk], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retriever]:
    folder = tmp_path_factory.mktemp("minilm")
    embedder.prepare(weights.pull("minilm"), folder / "model", name="minilm", base="minilm")
    with closing(indexed(Embedder(folder / "model"), chunks, folder / "index").index) as index:
        yield Retriever(index, Embedder(folder / "model"), Calibration.default())


@pytest.fixture(scope="module")
def noise(chunks: list[Chunk], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retriever]:
    """Two layers of noise: quick, and a model whose cosines are unlike MiniLM's."""
    folder = tmp_path_factory.mktemp("tiny")
    retriever = indexed(Embedder(tiny(folder)), chunks[:60], folder / "index")
    with closing(retriever.index):
        yield retriever


@pytest.fixture(scope="module")
def fitted(retriever: Retriever, chunks: list[Chunk]) -> Fit:
    return fit(retriever, own(chunks), chunks, sources={question.text: question.relevant for question in mine(chunks).questions})


def indexed(model: Embedder, chunks: Sequence[Chunk], folder: Path) -> Retriever:
    local.build(folder, chunks, model.documents([chunk.context for chunk in chunks]))
    return Retriever(local.open(folder, "calibrate"), model, Calibration.default())


def own(chunks: Sequence[Chunk]) -> list[str]:
    return [question.text for question in mine(chunks).questions]


def answered(retriever: Retriever, calibration: Calibration, questions: Sequence[str], threshold: float = 0.75) -> float:
    calibrated = Retriever(retriever.index, retriever.embedder, calibration)
    best = [max((hit.score for hit in calibrated.search(question, PUBLIC, 5)), default=0.0) for question in questions]
    return float(np.mean([score >= threshold for score in best]))


def test_what_people_ask_of_the_corpus_is_answered(retriever: Retriever, fitted: Fit) -> None:
    assert answered(retriever, fitted.calibration, OWN) >= 0.85
    assert fitted.answered >= 0.85


def test_what_they_ask_elsewhere_is_refused(retriever: Retriever, fitted: Fit) -> None:
    assert answered(retriever, fitted.calibration, FOREIGN) == 0
    assert fitted.refused >= 0.88


def test_words_of_the_corpus_in_no_order_are_mostly_refused(retriever: Retriever, fitted: Fit, chunks: list[Chunk]) -> None:
    """Other words than those of the fit, and those of questions that are answered in their own order."""
    assert answered(retriever, fitted.calibration, jumble([chunk.context for chunk in chunks], 60, seed=3)) <= 0.25
    assert answered(retriever, fitted.calibration, jumble(OWN, 60, seed=3)) <= 0.25


def test_a_report_counts_what_was_asked(fitted: Fit, chunks: list[Chunk]) -> None:
    assert fitted.questions == min(150, len(own(chunks)))
    assert fitted.foreign == 250 + 500


def test_own_passages_and_those_of_foreign_questions_are_kept_apart(retriever: Retriever, fitted: Fit, chunks: list[Chunk]) -> None:
    kept, asked = fitted.distribution, mine(chunks).questions
    assert (kept.asked, len(kept.irrelevant)) == (fitted.questions, 250)
    assert 0 < len(kept.relevant) <= kept.asked
    assert np.median(kept.relevant) > 0.75 > np.quantile(kept.irrelevant, 0.9)
    calibrated = Retriever(retriever.index, retriever.embedder, fitted.calibration)
    hits = calibrated.search(asked[0].text, PUBLIC, 5)
    assert round(next(hit.score for hit in hits if hit.chunk.id in asked[0].relevant), 4) in kept.relevant


def test_questions_that_name_no_passage_are_not_counted_as_missed(noise: Retriever, chunks: list[Chunk]) -> None:
    assert fit(noise, OWN, chunks[:60]).distribution.asked == 0


def test_the_threshold_means_the_same_at_another_number(retriever: Retriever, fitted: Fit, chunks: list[Chunk]) -> None:
    low = fit(retriever, own(chunks), chunks, threshold=0.3)
    assert low.calibration.coefficients[1:] == fitted.calibration.coefficients[1:]
    assert low.calibration.coefficients[0] < fitted.calibration.coefficients[0]
    assert answered(retriever, low.calibration, OWN, 0.3) == answered(retriever, fitted.calibration, OWN)


def test_more_evidence_never_lowers_a_score(fitted: Fit) -> None:
    assert min(fitted.calibration.coefficients[1:]) >= 0


def test_another_model_has_another_scale_and_the_same_meaning(noise: Retriever, chunks: list[Chunk], fitted: Fit) -> None:
    other = fit(noise, own(chunks[:60]), chunks[:60])
    assert other.calibration.coefficients[1] != fitted.calibration.coefficients[1]
    assert other.refused >= 0.88


def test_a_fit_is_repeatable(noise: Retriever, chunks: list[Chunk]) -> None:
    assert fit(noise, OWN, chunks[:60]) == fit(noise, OWN, chunks[:60])


def test_without_own_questions_the_scale_is_the_default(noise: Retriever, chunks: list[Chunk]) -> None:
    found = fit(noise, [], chunks[:60])
    assert found.refused >= 0.9
    assert (found.answered, found.questions) == (0.0, 0)
    assert found.calibration.coefficients[1] == Calibration.default().coefficients[1]


def test_a_corpus_of_a_few_lines_answers_what_it_can(retriever: Retriever, tmp_path: Path) -> None:
    """Its own words in no order are no measure of chance there: any question has most of them."""
    text = ("The launch code is 00000000.", "Graphite packing is replaced every four years.", "The feed pump is primed for a minute.")
    chunks = [Chunk(str(row), "a", "", (), 0, len(line), line) for row, line in enumerate(text)]
    small = indexed(retriever.embedder, chunks, tmp_path / "index")
    with closing(small.index):
        found = fit(small, [], chunks).calibration
        asked = ["What is the launch code?", "Is graphite packing replaced every four years?", "How long is the pump primed?"]
        assert answered(small, found, asked) == 1
        assert answered(small, found, FOREIGN) <= 0.15


def test_a_caller_who_sees_nothing_reaches_nothing(noise: Retriever, chunks: list[Chunk]) -> None:
    found = fit(noise, OWN, chunks[:60], groups=("nobody",))
    assert all(map(math.isfinite, found.calibration.coefficients))
    assert found.answered == 0


def test_jumbled_rows_are_short_and_long_and_half_of_them_are_put_like_questions() -> None:
    said = {"torque", "bonnet", "bolts", "hinge"}
    rows = jumble([" ".join(sorted(said))], 200)
    lengths = [len(row.split()) for row in rows]
    assert min(lengths) == 4
    assert max(lengths) > 40
    assert sorted(lengths)[100] < 20
    assert {word for row in rows[::2] for word in row.split()} == said
    framed = [word for row in rows[1::2] for word in row.split()]
    assert 0.3 < np.mean([word not in said for word in framed]) < 0.5


def test_characters_are_jumbled_where_words_are_not_spaced() -> None:
    (row,) = jumble(["给水泵启动"], 1)
    assert set(row.split()) <= set("给水泵启动")


@pytest.mark.parametrize("texts", [[""], ["the of and"], ["?"]])
def test_a_corpus_without_words_jumbles_something(texts: list[str]) -> None:
    assert all(row.strip() for row in jumble(texts, 4))


def test_a_length_weighs_as_much_as_chance_falls_with_it() -> None:
    length = np.log(np.tile([4.0, 40.0], 50))
    falling = 3.0 - 0.5 * length
    assert calibrate._length_weight(falling, length) == pytest.approx(0.5)
    assert calibrate._length_weight(-falling, length) == 0


def test_foreign_questions_of_the_corpus_field_do_not_raise_the_threshold() -> None:
    drawn = np.random.default_rng(5).normal(0, 1, 250)
    some = np.append(drawn, np.full(30, 9.0))
    assert calibrate._usual_most(some) < calibrate._usual_most(drawn) + 0.6
    assert np.quantile(some, 0.95) > 5


def test_the_best_hit_of_a_question_counts() -> None:
    asked = Asked(np.array([[(0.2, 0.1, -1.0, 2.0), (0.6, 0.0, -1.0, 2.0)]]))
    assert asked.reach(np.array([10.0, 1.0, 2.0])) == pytest.approx([4.0])
    assert asked.cosine == 0.6


# On judged collections, where they are at hand.

DATA = os.environ.get("RAGSTONE_TEST_DATA", "")


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="RAGSTONE_TEST_DATA names no folder of judged collections (BEIR layout): nothing is measured")
def test_the_threshold_holds_on_cranfield_as_measured(retriever: Retriever, tmp_path: Path) -> None:
    """A sample of the documents, without windows: less than `benchmarks/calibration.py` measures, and much quicker."""
    draw = random.Random(1)
    rows = lines(Path(DATA, "cranfield", "corpus.jsonl"))
    chunks = [Chunk(row["_id"], row["_id"], row["title"], (), 0, len(row["text"]), row["text"]) for row in rows[:700] if row["text"]]
    small = indexed(retriever.embedder, chunks, tmp_path / "index")
    with closing(small.index):
        found = fit(small, own(chunks), chunks).calibration
        judged = [line.split("\t") for line in Path(DATA, "cranfield", "qrels", "test.tsv").read_text().splitlines()[1:]]
        known = {chunk.id for chunk in chunks}
        relevant = {question for question, document, grade in judged if document in known and float(grade) > 0}
        texts = [row["text"] for row in lines(Path(DATA, "cranfield", "queries.jsonl")) if row["_id"] in relevant]
        elsewhere = [row["text"] for row in draw.sample(lines(Path(DATA, "tatqa_passages", "queries.jsonl")), 60)]
        assert answered(small, found, draw.sample(texts, 100)) >= 0.9
        assert answered(small, found, elsewhere) <= 0.05
        assert answered(small, found, jumble([chunk.text for chunk in chunks], 100, seed=9)) <= 0.25
        assert answered(small, found, jumble(texts, 60, seed=9)) <= 0.25


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
