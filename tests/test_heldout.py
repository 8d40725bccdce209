"""Pairs that a run is not taught: which they are, when they are looked at, and what follows from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from torch import Tensor

from ragstone import embedder
from ragstone.corpus.pairs import Pair
from ragstone.heldout import FEW, Looks, interval, split
from ragstone.recipe import Progress, Recipe
from ragstone.tune import Run
from tests.test_tune import Threads
from tests.tiny import tiny

RECIPE = Recipe(epochs=1, batch=16, query_tokens=16, document_tokens=16, interpolations=(1.0,), patience=2)


@cache
def pairs(count: int = 200, share: int = 1) -> tuple[Pair, ...]:
    """Pairs of which so many share a passage."""
    return tuple(Pair(f"what is in line {at}", str(at), "d", f"line {at // share} holds {at // share * 7} bolts") for at in range(count))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(("count", "expected"), [(FEW - 1, 0), (FEW, 12), (480, 30), (5000, 64)])
def test_a_sixteenth_of_the_pairs_is_held_out_at_most_64_and_none_of_few(count: int, expected: int) -> None:
    taught, held = split(pairs(count), 64)
    assert len(held) == expected
    assert len(taught) == count - expected


@pytest.mark.parametrize("share", [1, 3, 40])
def test_no_passage_is_on_both_sides(share: int) -> None:
    taught, held = split(pairs(640, share), 64)
    assert not {pair.positive for pair in taught} & {pair.positive for pair in held}
    assert 0 < len(held) <= 40


def test_which_are_held_out_depends_on_the_passages_alone() -> None:
    _, held = split(pairs(), 64)
    _, again = split([replace(pair, question="another") for pair in reversed(pairs())], 64)
    assert {pair.positive for pair in held} == {pair.positive for pair in again}


@pytest.mark.parametrize(("held", "steps"), [(12, 15), (64, 94), (64, 5000)])
def test_looking_takes_a_twentieth_of_the_time_at_most(held: int, steps: int) -> None:
    assert held / 32 / 3 / interval(held, 32, steps) <= 0.05
    assert steps / interval(held, 32, steps) <= 20


def test_looks_keep_the_best_and_count_those_since() -> None:
    seen = Looks()
    for step, loss in [(5, 2.0), (10, 1.0), (15, 1.5), (20, float("nan"))]:
        seen = seen.after(step, loss)
    assert (seen.step, seen.best_step, seen.best, seen.since) == (20, 10, 1.0, 2)


class Worsening(Run):
    """A run whose held-out pairs look worse and worse after its second look."""

    def _loss(self, batch: Sequence[Pair]) -> Tensor:
        loss = super()._loss(batch)
        return loss if torch.is_grad_enabled() else torch.tensor(float(abs(self.step - 10)))


def steps_of(run: Run, until: int = 10_000) -> list[Progress]:
    """What it tells; it is interrupted after step `until`."""
    seen: list[Progress] = []

    def note(now: Progress) -> None:
        seen.append(now)
        if now.step == until:
            raise KeyboardInterrupt

    try:
        run.optimise(note)
    except KeyboardInterrupt:
        assert seen[-1].step == until
    return seen


def made(run: Run) -> str:
    return embedder.digest(run.candidates()[1.0])


LONG = replace(RECIPE, epochs=4)
"""44 steps, with a look every five."""


def test_the_held_out_loss_is_told_from_the_first_look_to_the_end(base: Path, tmp_path: Path) -> None:
    seen = steps_of(Run(base, pairs(), RECIPE, tmp_path))
    assert [now.step for now in seen if now.held_out is None] == [1, 2, 3, 4]
    told = [now.held_out for now in seen[4:]]
    assert [at + 5 for at, (one, next) in enumerate(pairwise(told), 1) if one != next] == [10, 11]


def test_a_look_changes_nothing_of_what_is_learned(base: Path, tmp_path: Path) -> None:
    watched = Run(base, pairs(), replace(RECIPE, patience=0), tmp_path / "watched")
    steps_of(watched)
    blind = Run(base, split(pairs(), 64)[0], replace(RECIPE, patience=0, held_out=0), tmp_path / "blind")
    steps_of(blind)
    assert all(torch.equal(weight, blind.learned[name]) for name, weight in watched.learned.items())


def test_a_patient_run_stops_and_its_candidates_have_the_weights_of_the_best_look(base: Path, tmp_path: Path) -> None:
    run = Worsening(base, pairs(), LONG, tmp_path / "stopped")
    seen = steps_of(run)
    assert (seen[-1].step, seen[-1].seconds_left, seen[-1].held_out) == (20, 0.0, 10.0)
    assert (run.looks.best_step, run.over) == (10, True)
    short = Run(base, pairs(), LONG, tmp_path / "short")
    steps_of(short, until=10)
    assert all(torch.equal(weight, short.learned[name].detach()) for name, weight in run.best.items())
    assert any(not torch.equal(weight, run.learned[name].detach()) for name, weight in run.best.items())
    folder = run.candidates()[1.0]
    assert embedder.read_card(folder).lineage["steps"] == 10


def test_a_run_without_patience_goes_to_its_end(base: Path, tmp_path: Path) -> None:
    run = Worsening(base, pairs(), replace(LONG, patience=0), tmp_path)
    assert steps_of(run)[-1].step == 44
    assert not run.best


@pytest.mark.parametrize("until", [7, 10, 17])
def test_a_resumed_run_stops_where_the_whole_one_does_with_the_same_weights(base: Path, tmp_path: Path, until: int) -> None:
    whole = Worsening(base, pairs(), LONG, tmp_path / "whole")
    steps_of(whole)
    steps_of(Worsening(base, pairs(), LONG, tmp_path / "resumed"), until)
    resumed = Worsening(base, pairs(), LONG, tmp_path / "resumed")
    assert steps_of(resumed)[-1].step == 20
    assert made(resumed) == made(whole)
    assert Worsening(base, pairs(), LONG, tmp_path / "resumed").over


def test_a_run_that_was_interrupted_before_a_look_makes_up_for_it(base: Path, tmp_path: Path) -> None:
    class Interrupted(Worsening):
        def _look(self) -> None:
            if self.step == 20:
                raise KeyboardInterrupt
            super()._look()

    with pytest.raises(KeyboardInterrupt):
        Interrupted(base, pairs(), LONG, tmp_path).optimise(lambda now: None)
    resumed = Worsening(base, pairs(), LONG, tmp_path)
    assert not resumed.over
    assert steps_of(resumed) == []
    assert (resumed.looks.since, resumed.over) == (2, True)


def test_workers_look_together_and_stop_at_the_same_step(base: Path, tmp_path: Path) -> None:
    barrier, table = Barrier(2), dict[int, list[Tensor]]()
    runs = [Worsening(base, pairs(), LONG, tmp_path / str(rank), Threads(rank, barrier, table)) for rank in range(2)]
    threads = [Thread(target=run.optimise, args=[lambda now: None]) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(run.step, run.looks) for run in runs] == [(20, runs[0].looks)] * 2
    assert all(torch.equal(weight, runs[1].best[name]) for name, weight in runs[0].best.items())
