"""A question in, scored hits out: over the topics of Python's own help, with the base model."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone import embedder, weights
from ragstone.corpus import Chunk
from ragstone.corpus.views import views
from ragstone.embedder import Embedder
from ragstone.errors import IndexingError
from ragstone.index import Candidate, local
from ragstone.retrieve import Calibration, Retriever, fuse
from tests.topics import topics

PUBLIC = ("public",)


def candidate(chunk: str, dense: float | None, keyword: float | None) -> Candidate:
    """A member of the lists that it has a score for."""
    return Candidate(chunk, dense or 0.0, keyword or 0.0, dense is not None, keyword is not None)


def order(*candidates: Candidate, weight: float = 0.4) -> list[tuple[str, float]]:
    return [(one.chunk, round(score, 6)) for one, score in fuse(candidates, weight)]


def test_the_order_is_the_weighted_sum_of_cosine_and_keyword_score() -> None:
    found = order(candidate("a", 0.8, 0.1), candidate("b", 0.6, 0.5), candidate("c", 0.4, 0.0))
    assert found == [("b", 0.54), ("a", 0.38), ("c", 0.16)]


def test_no_other_candidate_changes_a_fused_score() -> None:
    (alone,) = order(candidate("a", 0.8, 0.1))
    assert alone in order(candidate("a", 0.8, 0.1), candidate("b", 0.9, 0.9), candidate("c", 0.1, 0.0))


def test_a_question_of_which_no_chunk_holds_much_is_ordered_by_meaning() -> None:
    """The best keyword hit of a long question holds little of it, and must not beat a much nearer chunk for being the best."""
    long = [candidate("near", 0.7, 0.05), candidate("words", 0.4, 0.15)]
    short = [candidate("near", 0.7, 0.1), candidate("words", 0.4, 0.9)]
    assert (order(*long)[0][0], order(*short)[0][0]) == ("near", "words")


def test_an_opposite_meaning_counts_as_none() -> None:
    assert order(candidate("a", -0.3, 0.5), candidate("b", 0.0, 0.4)) == [("a", 0.3), ("b", 0.24)]


def test_weights_of_one_and_zero_are_the_lists_themselves() -> None:
    both = [candidate("a", 0.9, 0.1), candidate("b", 0.1, 0.9)]
    assert order(*both, weight=1.0)[0][0] == "a"
    assert order(*both, weight=0.0)[0][0] == "b"


def test_nothing_found_is_nothing_fused() -> None:
    assert fuse([], 0.4) == []


scores = st.none() | st.floats(0, 1)


@given(st.lists(st.tuples(scores, scores), max_size=30), st.floats(0, 1))
def test_fused_scores_lie_between_0_and_1_and_fall(pairs: list[tuple[float | None, float | None]], weight: float) -> None:
    fused = [score for _, score in fuse([candidate(f"{row:02d}", *pair) for row, pair in enumerate(pairs)], weight)]
    assert fused == sorted(fused, reverse=True)
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in fused)


@given(st.lists(st.tuples(scores, scores), max_size=12))
def test_the_order_of_the_candidates_changes_no_rank(pairs: list[tuple[float | None, float | None]]) -> None:
    found = [candidate(f"{row:02d}", *pair) for row, pair in enumerate(pairs)]
    assert fuse(found, 0.4) == fuse(found[::-1], 0.4) == fuse(found[1::2] + found[::2], 0.4)


def test_a_probability_is_the_logistic_of_the_weighted_features() -> None:
    calibration = Calibration((-6.0, 10.0, 0.5, 2.0, 1.0))
    assert calibration.probability((0.5, 4.0, -0.5, 1.0)) == pytest.approx(1 / (1 + math.exp(-1.0)))


@given(st.floats(-1, 1), st.floats(0, 1))
def test_probabilities_are_probabilities_and_grow_with_the_evidence(cosine: float, keyword: float) -> None:
    calibration = Calibration.default()
    at = calibration.probability((cosine, keyword, -1.0, 2.0))
    assert 0 <= at <= 1
    assert at <= calibration.probability((cosine + 0.1, keyword, -1.0, 2.0))
    assert at <= calibration.probability((cosine, keyword + 0.1, -1.0, 2.0))
    assert at <= calibration.probability((cosine, keyword, -0.9, 2.0))


@pytest.mark.parametrize("coefficients", [(), (1.0,), (1.0, 2.0, 3.0), (math.nan, 1.0, 1.0, 1.0, 1.0), (math.inf, 1.0, 1.0, 1.0, 1.0)])
def test_coefficients_of_another_shape_are_refused(coefficients: tuple[float, ...]) -> None:
    with pytest.raises(IndexingError, match="5 finite coefficients"):
        Calibration(coefficients)


# The whole way, over real text and the real model.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    folder = tmp_path_factory.mktemp("model")
    embedder.prepare(weights.pull("minilm"), folder, name="minilm", base="minilm")
    return Embedder(folder, threads=2)


def passages() -> list[Chunk]:
    """Short passages of the language reference, one of them twice, one for staff only."""
    chunks = [replace(chunk, text=chunk.text[:400], metadata={"path": chunk.document}) for chunk in topics()[::4]]
    twin = replace(chunks[0], id="twin", document="copy.txt")
    secret = replace(chunks[1], id="secret", text="The launch code of the feed pump is 4711.", groups=("staff",))
    return [*chunks, twin, secret]


@pytest.fixture(scope="module")
def retriever(model: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retriever]:
    folder = tmp_path_factory.mktemp("index") / "index"
    chunks = passages()
    local.build(folder, chunks, model.passages([views(chunk) for chunk in chunks]))
    with closing(local.open(folder, "topics")) as index:
        yield Retriever(index, model, Calibration.default())


def test_a_passage_is_found_by_its_own_sentence(retriever: Retriever) -> None:
    chunks = passages()[5:60:6]
    found = [retriever.search(chunk.text[100:220], PUBLIC, 3) for chunk in chunks]
    assert sum(chunk.text in {hit.chunk.text for hit in hits} for chunk, hits in zip(chunks, found, strict=True)) >= len(chunks) - 1


def test_hits_come_best_first_with_all_their_scores(retriever: Retriever) -> None:
    question = "How does a try statement handle an exception?"
    hits = retriever.search(question, PUBLIC, 8)
    assert len(hits) == 8
    assert [hit.fused for hit in hits] == sorted((hit.fused for hit in hits), reverse=True)
    for hit in hits:
        assert hit.features[:2] == (hit.dense, hit.keyword)
        assert hit.score == retriever.calibration.probability(hit.features) * min(1.0, hit.fused / (0.5 * hits[0].fused))


def test_a_hit_far_behind_the_best_is_no_evidence_however_well_the_question_is_put(retriever: Retriever) -> None:
    hits = retriever.search("How does a try statement handle an exception?", PUBLIC, 500)
    far = [hit for hit in hits if hit.fused < 0.25 * hits[0].fused]
    assert far
    assert max(hit.score for hit in far) < 0.5 < hits[0].score


def test_a_question_of_another_world_scores_below_one_of_this(retriever: Retriever) -> None:
    own = retriever.search("How does a try statement handle an exception?", PUBLIC, 5)
    foreign = retriever.search("Which wine goes with roast duck?", PUBLIC, 5)
    assert max(hit.score for hit in own) > 0.75 > 0.5 > max(hit.score for hit in foreign)


def test_the_words_of_a_passage_in_no_order_score_below_their_sentence(retriever: Retriever) -> None:
    sentence = "The expression in the clause is evaluated and the exception is matched against it"
    jumbled = " ".join(sorted(sentence.split(), key=lambda word: word[::-1]))
    ordered, mixed = (max(hit.score for hit in retriever.search(question, PUBLIC, 5)) for question in (sentence, jumbled))
    assert ordered > mixed


def test_a_score_does_not_depend_on_how_many_hits_are_wanted(retriever: Retriever) -> None:
    few, many = (retriever.search("How does a try statement handle an exception?", PUBLIC, limit) for limit in (1, 40))
    assert few[0] == many[0]


def test_equal_texts_are_one_hit(retriever: Retriever) -> None:
    hits = retriever.search(passages()[0].text, PUBLIC, 10)
    assert len({hit.chunk.text for hit in hits}) == len(hits) == 10
    assert hits[0].chunk.text == passages()[0].text


def test_what_a_caller_may_not_see_is_never_a_hit(retriever: Retriever) -> None:
    question = "What is the launch code of the feed pump?"
    assert retriever.search(question, ("staff",), 5)[0].chunk.id == "secret"
    assert "secret" not in {hit.chunk.id for hit in retriever.search(question, PUBLIC, 1_000)}
    assert retriever.search(question, (), 5) == []


def test_a_filter_narrows_the_hits(retriever: Retriever) -> None:
    hits = retriever.search("exception", PUBLIC, 5, {"path": "copy.txt"})
    assert hits == []
    name = passages()[0].document
    assert {hit.chunk.document for hit in retriever.search("exception", PUBLIC, 5, {"path": name})} <= {name, "copy.txt"}


@pytest.mark.parametrize("question", ["", "   ", "?", "漢字", "x" * 100_000])
def test_any_question_is_answered_with_hits(retriever: Retriever, question: str) -> None:
    assert len(retriever.search(question, PUBLIC, 3)) == 3


def test_no_hits_were_asked_for_and_none_come(retriever: Retriever) -> None:
    assert retriever.search("exception", PUBLIC, 0) == []


# On a judged collection, where one is at hand.

DATA = os.environ.get("RAGSTONE_TEST_DATA", "")


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="RAGSTONE_TEST_DATA names no folder of judged collections (BEIR layout): ranking is not measured")
def test_ranking_on_cranfield_is_as_measured(model: Embedder, tmp_path: Path) -> None:
    from ragstone.evaluate import ndcg

    folder = Path(DATA, "cranfield")
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    chunks = [Chunk(row["_id"], row["_id"], row["title"], (), 0, len(row["text"]), row["text"]) for row in rows]
    local.build(tmp_path / "index", chunks, model.passages([views(chunk) for chunk in chunks]))
    retriever = Retriever(local.open(tmp_path / "index", "cranfield"), model, Calibration.default())
    relevant: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels/test.tsv").read_text().splitlines()[1:]:
        question, document, grade = line.split("\t")
        relevant.setdefault(question, {})[document] = max(0.0, float(grade))
    texts = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text().splitlines())}
    found = [ndcg([hit.chunk.id for hit in retriever.search(texts[id], PUBLIC, 10)], grades) for id, grades in relevant.items()]
    assert sum(found) / len(found) == pytest.approx(0.42, abs=0.01)
