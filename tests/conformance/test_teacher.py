"""The contract of `ragstone.teacher.Teacher`: every teacher runs the same cases, here over the same tiny cross-encoder."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from ragstone import teacher
from ragstone.config import Train
from ragstone.kept import Kept
from ragstone.teacher import Listed, Teacher
from ragstone.teacher.local import CrossEncoder
from tests.bases import cross_encoder
from tests.reranker import reranking

LISTS = [
    Listed("How is the pump primed?", ("Prime the feed pump for ninety seconds.", "Graphite packing lasts four years.", "Wasser. 水")),
    Listed("Torque of the bonnet?", ("Tighten the bonnet with 85 newton metres, crosswise, in three passes. " * 20,)),
    Listed("", ("", 'quotes " and \\ and\nlines')),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cross_encoder(tmp_path_factory.mktemp("teacher") / "cross-encoder")


@pytest.fixture(scope="module", params=["local", "rerank"])
def named(request: pytest.FixtureRequest, folder: Path) -> Iterator[Teacher]:
    if request.param == "local":
        yield teacher.connect(Train(teacher=str(folder)), print)
        return
    behind = CrossEncoder(folder)
    with reranking(lambda question, passages: next(behind.scores([Listed(question, tuple(passages))]))) as server:
        yield teacher.connect(Train(teacher=server.url, teacher_key="sk-secret"), print)


def test_every_passage_of_every_list_gets_a_score_in_order(named: Teacher, folder: Path) -> None:
    alone = [[next(CrossEncoder(folder).scores([Listed(one.question, (text,))]))[0] for text in one.passages] for one in LISTS]
    for seen, wanted in zip(named.scores(LISTS), alone, strict=True):
        assert seen == pytest.approx(wanted, abs=1e-4)


def test_many_lists_are_scored_as_few_are(named: Teacher) -> None:
    few = list(named.scores(LISTS))
    for seen, wanted in zip(named.scores(LISTS * 30), few * 30, strict=True):
        assert seen == pytest.approx(wanted, abs=1e-4)


def test_no_lists_have_no_scores(named: Teacher) -> None:
    assert list(named.scores([])) == []


def test_the_identity_stays_the_same_and_holds_no_secret(named: Teacher) -> None:
    assert named.identity == named.identity
    assert "sk-secret" not in named.identity


def test_what_was_scored_before_a_kill_is_not_scored_again(named: Teacher, tmp_path: Path) -> None:
    wanted = teacher.scores(named, LISTS, Kept(tmp_path / "whole.jsonl"), lambda done: None)
    path, seen = tmp_path / "killed.jsonl", list[int]()
    teacher.scores(named, LISTS[:1], Kept(path), lambda done: None)
    with path.open("a") as file:
        file.write('\n["a line that a kill cut')

    class Watched:
        identity = named.identity

        def scores(self, lists: list[Listed]) -> Iterator[list[float]]:
            assert lists == LISTS[1:]
            return islice(named.scores(lists), len(lists))

    assert teacher.scores(Watched(), LISTS, Kept(path), seen.append) == [pytest.approx(one, abs=1e-4) for one in wanted]  # type: ignore[arg-type]
    assert seen == [2, 3]
