"""What a batch is to learn: one right passage, or the shares that a teacher gives; and several workers on one run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from torch import Tensor

from ragstone.corpus.pairs import AT_RANDOM, Pair
from ragstone.tune import Run, share, targets
from tests.conformance.test_train import SHORT, pairs
from tests.tiny import tiny

LABELLED = Pair("a?", "a", "a", "A", ("A wrong",))
TAUGHT = Pair("b?", "b", "b", "B", ("B near", "B far"), scores=(0.8, 0.6, 0.1))


def test_a_labelled_pair_has_all_on_its_passage() -> None:
    assert targets([LABELLED, TAUGHT], 0.1)[0].tolist() == [1, 0, 0, 0, 0]


def test_a_taught_pair_has_the_softmax_of_its_scores_and_others_count_as_found_at_random() -> None:
    wanted = torch.softmax(torch.tensor([AT_RANDOM, 0.8, AT_RANDOM, 0.6, 0.1]) / 0.1, 0)
    torch.testing.assert_close(targets([LABELLED, TAUGHT], 0.1)[1], wanted)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_every_question_shares_out_the_whole(temperature: float) -> None:
    torch.testing.assert_close(targets([TAUGHT, LABELLED, TAUGHT], temperature).sum(1), torch.ones(3))


def test_a_lower_temperature_trusts_the_first_more() -> None:
    cold, warm = (targets([TAUGHT], temperature)[0] for temperature in (0.05, 0.5))
    assert cold[0] > warm[0]
    assert cold[2] < warm[2]


class Threads:
    """Workers in one process, that wait for each other at a barrier: what they share is plain to see."""

    def __init__(self, rank: int, barrier: Barrier, table: dict[int, list[Tensor]]) -> None:
        self.rank, self.count, self.barrier, self.table = rank, barrier.parties, barrier, table

    def _all(self, own: list[Tensor]) -> list[list[Tensor]]:
        self.barrier.wait()
        self.table[self.rank] = own
        self.barrier.wait()
        return [self.table[rank] for rank in range(self.count)]

    def gather(self, own: Tensor, rows: int) -> Tensor:
        parts = [part for (part,) in self._all([own.detach()])]
        assert sum(map(len, parts)) == rows
        return torch.cat([*parts[: self.rank], own, *parts[self.rank + 1 :]])

    def add(self, tensors: Iterable[Tensor]) -> None:
        own = list(tensors)
        for mine, *others in zip(own, *self._all([tensor.clone() for tensor in own]), strict=True):
            mine.copy_(torch.stack(others).sum(0))

    def agree(self, value: float) -> float:
        return float(self._all([torch.tensor(value, dtype=torch.float64)])[0][0])


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base without dropout."""
    folder = tiny(tmp_path_factory.mktemp("steady"))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.0'))
    return folder


def shared(base: Path, work: Path, count: int) -> tuple[list[list[float]], list[Run]]:
    """Each worker's losses, and its end."""
    barrier, table = Barrier(count), dict[int, list[Tensor]]()
    runs = [Run(base, pairs(), SHORT, work / str(rank), Threads(rank, barrier, table)) for rank in range(count)]
    losses: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run.encoder.half = False

    def take(run: Run, told: list[float]) -> None:
        run.optimise(lambda now: told.append(now.loss))

    threads = [Thread(target=take, args=work) for work in zip(runs, losses, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return losses, runs


@pytest.mark.parametrize("count", [2, 3])
def test_workers_that_share_a_run_learn_what_one_learns_alone(steady: Path, tmp_path: Path, count: int) -> None:
    """To rounding. The key's bias has no gradient in attention, so Adam takes steps along its rounding errors."""
    (alone,), (one,) = shared(steady, tmp_path / "alone", 1)
    losses, runs = shared(steady, tmp_path / "shared", count)
    assert losses == [losses[0]] * count
    assert losses[0] == pytest.approx(alone, rel=1e-5)
    for name in [name for name in one.learned if not name.endswith("key.bias")]:
        assert torch.allclose(runs[-1].learned[name], one.learned[name], atol=1e-5), name


def test_only_the_first_worker_writes_checkpoints(steady: Path, tmp_path: Path) -> None:
    shared(steady, tmp_path, 2)
    assert [(tmp_path / rank / "checkpoint.safetensors").exists() for rank in "01"] == [True, False]


def test_a_run_tells_of_each_checkpoint_once_it_is_there(steady: Path, tmp_path: Path) -> None:
    told: list[Path] = []
    Run(steady, pairs(), SHORT, tmp_path, saved=told.append).optimise(lambda now: None)
    assert told == [tmp_path / "checkpoint.safetensors"]


@pytest.mark.parametrize(("rows", "count"), [(0, 2), (2, 3), (7, 3), (32, 4)])
def test_shares_are_all_the_rows_once(rows: int, count: int) -> None:
    parts = [list(range(rows))[share(rows, rank, count)] for rank in range(count)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
