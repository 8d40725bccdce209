"""Metrics, the bootstrap and the gate: what they say of cases whose answer is known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone import embedder, evaluate, train, weights
from ragstone.config import Retrieve
from ragstone.corpus import Chunk
from ragstone.corpus.pairs import Mined, Question, mine
from ragstone.embedder import Embedder
from ragstone.evaluate import (
    Change,
    Guarded,
    Interval,
    Verdict,
    answered,
    changes,
    gate,
    hold,
    judge,
    mrr,
    ndcg,
    paired_bootstrap,
    rank,
    rankings,
    recall,
)
from ragstone.guard import Guard, make, shipped
from ragstone.index import Index, Vectors, local
from ragstone.train import Recipe
from tests.spoilt import RUNS, noisy
from tests.tiny import tiny
from tests.topics import topics


def test_ndcg_is_one_for_the_ideal_order_and_zero_without_a_relevant_hit() -> None:
    relevant = {"a": 2.0, "b": 1.0}
    assert ndcg(["a", "b", "c"], relevant) == 1.0
    assert ndcg(["c", "d"], relevant) == 0.0


def test_ndcg_discounts_by_the_logarithm_of_the_rank() -> None:
    assert ndcg(["b", "a"], {"a": 2.0, "b": 1.0}) == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))


def test_ndcg_looks_at_the_first_k_only() -> None:
    assert ndcg(["x"] * 10 + ["a"], {"a": 1.0}, 10) == 0.0


@given(st.permutations(list("abcdef")), st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 3), min_size=1))
def test_ndcg_lies_between_zero_and_one(ranked: list[str], relevant: dict[str, float]) -> None:
    assert 0 <= ndcg(ranked, relevant, 4) <= 1 + 1e-9


def test_recall_is_the_share_of_the_relevant_that_is_found() -> None:
    assert recall(["a", "x", "b"], {"a": 1, "b": 1, "c": 1, "d": 0}, 3) == pytest.approx(2 / 3)
    assert recall(["a"], {}) == 0.0


def test_a_held_out_question_is_scored_by_its_grades() -> None:
    question = Question("what?", "d", ("a", "b"), grades=(2.0, 1.0))
    assert answered(["a", "b"], question) == 1.0
    assert answered(["b", "a"], question) == ndcg(["b", "a"], {"a": 2.0, "b": 1.0})
    assert answered(["b"], Question("what?", "d", ("a", "b"))) == ndcg(["b"], {"a": 1.0, "b": 1.0})


def test_one_chunk_of_a_document_labelled_as_a_whole_is_enough() -> None:
    question = Question("what?", "d", ("a1", "a2", "a3", "b"), targets=("a1", "a1", "a1", "b"))
    assert answered(["a2", "a3", "a1", "b"], question) == 1.0
    assert answered(["x", "a2"], question) == ndcg(["x", "a"], {"a": 1.0, "b": 1.0})


def test_mrr_is_one_over_the_rank_of_the_first_relevant() -> None:
    assert mrr(["x", "y", "a", "b"], {"a": 1, "b": 1}) == pytest.approx(1 / 3)
    assert mrr(["x"], {"a": 1}) == 0.0


def test_equal_scores_have_an_interval_of_zero() -> None:
    assert paired_bootstrap([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]) == Interval(0.0, 0.0, 0.0)


def test_a_constant_gain_has_no_width() -> None:
    found = paired_bootstrap([0.0, 0.5], [0.25, 0.75])
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_interval_of_normal_differences_is_the_one_of_the_textbook() -> None:
    difference = np.random.default_rng(1).normal(0.05, 0.3, 2000)
    found = paired_bootstrap(np.zeros(2000), difference)
    half = 1.96 * difference.std() / math.sqrt(2000)
    assert found.mean == pytest.approx(difference.mean())
    assert found.high - found.mean == pytest.approx(half, rel=0.05)
    assert found.mean - found.low == pytest.approx(half, rel=0.05)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    found = [paired_bootstrap(np.zeros(80), generator.normal(0.1, 0.4, 80), draws=1000) for _ in range(200)]
    assert 0.90 <= np.mean([one.low <= 0.1 <= one.high for one in found]) <= 0.99


def test_questions_of_one_document_count_as_one_observation() -> None:
    difference = np.repeat(np.random.default_rng(3).normal(0, 0.3, 20), 10)
    documents = [f"d{at // 10}" for at in range(200)]
    alone, together = paired_bootstrap(np.zeros(200), difference), paired_bootstrap(np.zeros(200), difference, clusters=documents)
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_no_questions_give_no_gain() -> None:
    assert paired_bootstrap([], []) == Interval(0.0, 0.0, 0.0)


def test_a_promotion_reads_as_one_line() -> None:
    verdict = Verdict(True, base=0.512, tuned=0.583, gain=0.071, low=0.0312, high=0.1099, questions=300, margin=0.02)
    assert str(verdict) == "nDCG@10 on held-out questions 0.51 -> 0.58, +0.07 [0.03, 0.11]: promoted"


def test_a_verdict_of_labels_says_so() -> None:
    verdict = Verdict(True, base=0.5, tuned=0.6, gain=0.1, low=0.05, high=0.15, questions=90, kind="labelled")
    assert str(verdict) == "nDCG@10 on held-out labelled questions 0.50 -> 0.60, +0.10 [0.05, 0.15]: promoted"


def test_a_refusal_says_that_the_base_stays() -> None:
    verdict = Verdict(False, base=0.512, tuned=0.511, gain=-0.001, low=-0.012, high=0.01, questions=300, margin=0.02)
    assert str(verdict) == "nDCG@10 on held-out questions 0.51 -> 0.51, +0.00 [-0.01, 0.01]: the base model stays"


def test_a_gain_below_the_margin_says_what_it_lacked() -> None:
    verdict = Verdict(False, base=0.5, tuned=0.53, gain=0.03, low=0.012, high=0.05, questions=300, margin=0.02)
    assert str(verdict).endswith("+0.03 [0.01, 0.05], no lower bound above 0.02: the base model stays")


def test_a_corpus_that_was_not_judged_says_why() -> None:
    verdict = Verdict(False, reason="the corpus gives 12 held-out questions")
    assert str(verdict) == "the corpus gives 12 held-out questions: the base model stays"


DOCUMENTS = [f"d{at % 40}" for at in range(200)]
SCORES = np.random.default_rng(6).uniform(0, 0.8, 200)


def test_the_candidate_with_the_best_mean_is_judged() -> None:
    verdict = judge(SCORES, {0.5: SCORES + 0.05, 0.75: SCORES + 0.1, 1.0: SCORES - 0.1}, DOCUMENTS, 0.02)
    assert (verdict.promoted, verdict.share, verdict.wins, verdict.losses, verdict.questions) == (True, 0.75, 200, 0, 200)
    assert verdict.gain == pytest.approx(0.1)


def test_a_gain_within_the_margin_is_not_enough() -> None:
    assert not judge(SCORES, {0.5: SCORES + 0.015}, DOCUMENTS, 0.02).promoted
    assert judge(SCORES, {0.5: SCORES + 0.015}, DOCUMENTS, 0.01).promoted


def test_a_choice_among_more_candidates_needs_more_proof() -> None:
    tuned = SCORES + np.random.default_rng(7).normal(0.03, 0.2, 200)
    alone, chosen = judge(SCORES, {0.5: tuned}, DOCUMENTS, 0.0), judge(SCORES, {0.5: tuned, 0.6: SCORES, 0.7: SCORES}, DOCUMENTS, 0.0)
    assert chosen.share == 0.5
    assert chosen.low < alone.low


def test_candidates_of_chance_are_seldom_promoted() -> None:
    draw = np.random.default_rng(8)
    candidates = [{share: SCORES + draw.normal(0, 0.2, 200) for share in (0.5, 0.75)} for _ in range(60)]
    assert sum(judge(SCORES, tuned, DOCUMENTS, 0.0).promoted for tuned in candidates) <= 6


def test_a_named_candidate_is_judged_at_the_level_of_the_choice() -> None:
    tuned = {0.5: SCORES + 0.05, 0.75: SCORES + 0.1}
    assert judge(SCORES, tuned, DOCUMENTS, 0.02, share=0.5).gain == pytest.approx(0.05)
    assert judge(SCORES, tuned, DOCUMENTS, 0.02).share == 0.75


# The guards, from scores.


def test_a_guard_that_falls_by_more_than_is_allowed_does_not_hold() -> None:
    fallen = hold("negation", "dense", SCORES, SCORES - 0.08, DOCUMENTS, 0.05)
    assert not fallen.held
    assert (fallen.guard, fallen.way, fallen.questions) == ("negation", "dense", 200)
    assert fallen.gain == pytest.approx(-0.08)
    assert hold("negation", "dense", SCORES, SCORES - 0.04, DOCUMENTS, 0.05).held
    assert hold("negation", "dense", SCORES, SCORES + 0.2, DOCUMENTS, 0.0).held


def test_a_fall_that_may_be_chance_is_none() -> None:
    wide = np.where(np.arange(20) < 10, -0.7, 0.55)
    found = hold("numbers", "shipped", SCORES[:20], SCORES[:20] + wide, (), 0.05)
    assert found.gain < -0.05
    assert found.high > 0
    assert found.held


def test_guards_of_chance_seldom_fall() -> None:
    draw = np.random.default_rng(9)
    found = [hold("general", "dense", SCORES[:100], SCORES[:100] + draw.normal(0, 0.3, 100), (), 0.05) for _ in range(40)]
    assert sum(not one.held for one in found) <= 3


FELL = Guarded("negation", "dense", 0.79, 0.7, -0.09, -0.12, -0.06, 120, False)
HELD = Guarded("general", "dense", 0.76, 0.75, -0.01, -0.03, 0.01, 99, True)


def test_a_refusal_names_the_guard_that_fell() -> None:
    verdict = Verdict(False, base=0.5, tuned=0.6, gain=0.1, low=0.05, high=0.15, margin=0.02, guards=(HELD, FELL))
    assert str(verdict).endswith("+0.10 [0.05, 0.15], but negation (dense) fell by 0.09 [0.06, 0.12]: the base model stays")


def test_a_verdict_comes_back_from_json_whole() -> None:
    change = Change("what?", "a.md", None, 2, 0.0, 0.63)
    verdict = Verdict(True, base=0.5, tuned=0.6, guards=(HELD, FELL), changes=(change,))
    assert Verdict.load(json.loads(json.dumps(asdict(verdict)))) == verdict


def test_a_verdict_of_an_older_version_is_still_read() -> None:
    kept = """{"promoted": true, "base": 0.5, "tuned": 0.6, "gain": 0.1, "low": 0.05, "high": 0.15, "margin": 0.02, "questions": 300,
        "share": 0.5, "wins": 9, "losses": 4, "metric": "nDCG@10", "reason": ""}"""
    assert str(Verdict.load(json.loads(kept))) == "nDCG@10 on held-out questions 0.50 -> 0.60, +0.10 [0.05, 0.15]: promoted"


ASKED = [Question(f"q{at}", f"d{at}", (f"c{at}",)) for at in range(4)]


def test_wins_and_losses_are_listed_by_how_much_changed() -> None:
    before = [["c0"], ["x", "c1"], ["c2"], ["x"]]
    after = [["c0"], ["c1"], ["x", "y"], ["x", "y", "c3"]]
    found = changes(ASKED, before, after)
    assert [(one.question, one.rank_before, one.rank_after) for one in found] == [("q2", 1, None), ("q3", None, 3), ("q1", 2, 1)]
    assert [(one.before, one.after) for one in found][:2] == [(1.0, 0.0), (0.0, 0.5)]
    assert [one.question for one in changes(ASKED, before, after, limit=1)] == ["q2"]


def test_a_rank_is_that_of_the_first_right_chunk() -> None:
    assert rank(["x", "b", "a"], Question("what?", "d", ("a", "b"))) == 2
    assert rank(["x"], Question("what?", "d", ("a", "b"))) is None


# The gate, over a real index and real models.

SMALL = Retrieve(candidates=50)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    embedder.prepare(weights.pull("minilm"), folder, name="minilm", base="minilm")
    return folder


@pytest.fixture(scope="module")
def mined() -> Mined:
    """The topics' held-out questions, judged against some 100 short chunks, so that encoding takes a second."""
    found = mine(topics(), limit=100, questions=64)
    wanted = {id for question in found.questions for id in question.relevant}
    judged = tuple(replace(chunk, text=chunk.text[:160]) for chunk in found.judged if chunk.id in wanted)
    assert not found.unsuitable
    return replace(found, judged=judged)


def build(folder: Path, chunks: Sequence[Chunk], vectors: Vectors) -> Index:
    place = folder / f"index-{len(list(folder.iterdir()))}"
    place.mkdir()
    local.build(place, chunks, vectors)
    return local.open(place, "gate")


def test_the_gate_refuses_the_same_model(base: Path, mined: Mined, tmp_path: Path) -> None:
    verdict = gate(Embedder(base, threads=1), {0.5: Embedder(base, threads=1)}, mined, partial(build, tmp_path), SMALL, 0.0)
    assert not verdict.promoted
    assert (verdict.gain, verdict.low, verdict.high, verdict.wins, verdict.losses) == (0, 0, 0, 0, 0)
    assert verdict.questions == len(mined.questions)


def test_the_gate_refuses_a_model_of_noise(base: Path, mined: Mined, tmp_path: Path) -> None:
    worse = Embedder(noisy(base, tmp_path / "noisy", 1.0), threads=1)
    (tmp_path / "indexes").mkdir()
    verdict = gate(Embedder(base, threads=1), {0.5: worse}, mined, partial(build, tmp_path / "indexes"), SMALL, 0.0)
    assert not verdict.promoted
    assert verdict.high < 0
    assert verdict.losses > verdict.wins


def small(name: str) -> Guard:
    """The first sixty questions of a shipped guard, so that encoding takes a second."""
    guard = shipped(name)
    questions = guard.questions[:60]
    wanted = {question.document for question in questions} | {id for question in questions for id in question.relevant}
    return replace(guard, questions=questions, passages=tuple(chunk for chunk in guard.passages if chunk.id in wanted))


def test_a_candidate_that_beats_the_margin_is_refused_by_a_guard_and_the_next_one_is_asked(
    base: Path, mined: Mined, tmp_path: Path
) -> None:
    """By keywords alone both find the same for most questions, so that only the guard tells them apart."""
    model, worse = Embedder(base, threads=1), Embedder(noisy(base, tmp_path / "noisy", 1.0), threads=1)
    (tmp_path / "indexes").mkdir()
    make_index, keywords = partial(build, tmp_path / "indexes"), replace(SMALL, dense_weight=0.0)
    some = mined.questions[:24]
    chunks = tuple(chunk for chunk in mined.judged if any(chunk.id in question.relevant for question in some))
    found = [rankings(each, chunks, some, make_index, keywords, {}) for each in (model, worse)]
    alike = tuple(one for one, old, new in zip(some, *found, strict=True) if answered(old, one) == answered(new, one))
    assert len(alike) >= 12
    judged = partial(gate, mined=replace(mined, questions=alike, judged=chunks), build=make_index, settings=keywords, margin=-0.01)

    refused = judged(model, {0.25: worse}, guards=[small("general"), small("negation")])
    assert not refused.promoted
    assert [one.guard for one in refused.guards] == ["general", "negation"]
    assert not refused.guards[0].held
    assert "but general (dense) fell by" in str(refused)

    promoted = judged(model, {0.25: worse, 0.5: model}, guards=[small("general")])
    assert (promoted.promoted, promoted.share) == (True, 0.5)
    assert [(one.gain, one.held) for one in promoted.guards] == [(0.0, True)]


def test_a_better_model_is_promoted_and_says_which_questions_it_answers_better(base: Path, mined: Mined, tmp_path: Path) -> None:
    worse = Embedder(noisy(base, tmp_path / "noisy", 1.0), threads=1)
    (tmp_path / "indexes").mkdir()
    made = make("numbers", [replace(chunk, text=f"The feed pump runs at {at + 11} bar.") for at, chunk in enumerate(topics()[:30])])
    assert made is not None
    verdict = gate(worse, {0.5: Embedder(base, threads=1)}, mined, partial(build, tmp_path / "indexes"), SMALL, 0.02, guards=[made])
    assert verdict.promoted, verdict
    assert [(one.guard, one.way) for one in verdict.guards] == [("numbers", "dense"), ("numbers", "shipped")]
    assert len(verdict.changes) == min(200, verdict.wins + verdict.losses)
    assert sum(change.after > change.before for change in verdict.changes) == verdict.wins
    assert all(change.document in {question.document for question in mined.questions} for change in verdict.changes)


@pytest.fixture(scope="module")
def spoilable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mined]:
    """A tiny model, and the topics with pairs for a second of training, judged against some 70 chunks of 60 words."""
    found = mine(topics(), limit=128, questions=80)
    wanted = {id for question in found.questions for id in question.relevant}
    judged = tuple(replace(chunk, text=" ".join(chunk.text.split()[:60])) for chunk in found.judged if chunk.id in wanted)
    pairs = tuple(replace(pair, negatives=(found.pairs[at - 1].positive,)) for at, pair in enumerate(found.pairs))
    return tiny(tmp_path_factory.mktemp("tiny")), replace(found, pairs=pairs, judged=judged)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", RUNS)
def test_a_spoilt_run_is_refused(spoilable: tuple[Path, Mined], tmp_path: Path, kind: str, seed: int) -> None:
    base, mined = spoilable
    recipe = Recipe(epochs=2, learning_rate=3e-3, query_tokens=16, document_tokens=32, interpolations=(0.5, 1.0), seed=seed)
    pairs, spoilt = RUNS[kind](mined.pairs, recipe)
    folders = train.connect("local").train(base, pairs, spoilt, tmp_path / "run", lambda now: None)
    (tmp_path / "indexes").mkdir()
    candidates = {share: Embedder(folder, threads=1) for share, folder in folders.items()}
    held_to = [small("general"), small("negation")]
    verdict = gate(Embedder(base, threads=1), candidates, mined, partial(build, tmp_path / "indexes"), SMALL, 0.0, guards=held_to)
    assert not verdict.promoted, verdict


def test_guards_are_not_asked_of_a_model_that_does_not_win(base: Path, mined: Mined, tmp_path: Path) -> None:
    model = Embedder(base, threads=1)
    broken = replace(small("general"), passages=())
    assert gate(model, {0.5: model}, mined, partial(build, tmp_path), SMALL, 0.0, guards=[broken]).guards == ()


def test_an_unsuitable_corpus_is_not_judged(base: Path) -> None:
    model = Embedder(base, threads=1)
    verdict = gate(model, {1.0: model}, mine(topics()[:30]), lambda chunks, vectors: pytest.fail("nothing is indexed"), SMALL, 0.0)
    assert not verdict.promoted
    assert "needed" in verdict.reason


def test_a_large_corpus_is_judged_on_the_relevant_chunks_and_a_sample(mined: Mined) -> None:
    wanted = {id for question in mined.questions for id in question.relevant}
    whole = mine(topics(), limit=100, questions=80)
    sampled = {chunk.id for chunk in evaluate._sample(whole, len(wanted) + 7, 17)}
    assert wanted <= sampled
    assert len(sampled) == len(wanted) + 7
