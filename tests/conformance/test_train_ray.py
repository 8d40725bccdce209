"""The trainers' contract, held against a Ray of two workers on this machine; and its own: processes that die, ports, what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import psutil
import pytest

from ragstone import train
from ragstone.corpus import PUBLIC
from ragstone.corpus.pairs import Pair, harden, mine
from ragstone.embedder import Embedder
from ragstone.errands import keyword_hits
from ragstone.errors import ConfigError, TrainError
from ragstone.index import local
from ragstone.train import Progress, Trainer, Work
from ragstone.tune import CHECKPOINT_STEPS, Run
from tests.conformance.test_train import (  # noqa: F401
    SHORT,
    base,
    finished,
    one_thread,
    pairs,
    steps_of,
    tensors,
    test_a_candidate_lies_on_the_line_from_the_base_to_the_tuned_weights,
    test_a_finished_run_is_not_repeated,
    test_a_loss_that_is_no_number_ends_the_run,
    test_an_error_while_mapping_is_told_as_it_was_raised,
    test_an_interrupted_run_goes_on_where_it_stopped,
    test_every_interpolation_becomes_a_complete_model_folder,
    test_no_pairs_are_an_error_that_says_so,
    test_progress_counts_every_step_and_the_seconds_left_end_at_zero,
    test_progress_tells_the_learning_rate_of_each_step,
    test_the_lineage_names_base_pairs_and_recipe,
    test_what_is_mapped_is_what_is_computed_here_to_the_bit,
)
from tests.processes import below, listening
from tests.tiny import tiny
from tests.topics import topics

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'ragstone[ray]'")
ROOT = Path(__file__).parents[2]
LONG = replace(SHORT, epochs=30)
"""90 steps, with a checkpoint at 20, 40, 60 and 80."""


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return train.connect("ray?workers=2")


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without dropout, whose units differ between workers."""
    folder = tiny(tmp_path_factory.mktemp("steady"))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.0'))
    return folder


@pytest.fixture(scope="module")
def alone(steady: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Progress], Path]:
    """The same run in this process: its steps and its model."""
    work = tmp_path_factory.mktemp("alone")
    return steps_of(train.connect("local"), steady, LONG, work), work / "candidate-1"


def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint_and_the_model_is_that_of_one_process(
    trainer: Trainer, steady: Path, alone: tuple[list[Progress], Path], tmp_path: Path
) -> None:
    seen: list[Progress] = []

    def watch(now: Progress) -> None:
        seen.append(now)
        if len(seen) == CHECKPOINT_STEPS + 2:
            processes_of("RayTrainWorker")[0].kill()

    folders = trainer.train(steady, pairs(), LONG, tmp_path, watch)
    steps = [now.step for now in seen]
    again = next(at for at in range(1, len(steps)) if steps[at] != steps[at - 1] + 1)
    assert steps[again] in range(CHECKPOINT_STEPS + 1, steps[again - 1] + 1, CHECKPOINT_STEPS)
    assert steps[again:] == list(range(steps[again], 91))
    losses = {now.step: now.loss for now in seen}
    assert [losses[now.step] for now in alone[0]] == pytest.approx([now.loss for now in alone[0]], rel=0.02)
    assert apart(folders[1.0], alone[1]) < 0.05 * apart(steady, alone[1])


def processes_of(name: str) -> list[psutil.Process]:
    return [process for process, words in below(psutil.Process.cmdline) if name in " ".join(words)]


def apart(one: Path, other: Path) -> float:
    """How far the weights of two models are from each other."""
    first, second = tensors(one), tensors(other)
    return float(np.sqrt(sum(np.square(first[name] - second[name]).sum() for name in first)))


def test_a_killed_driver_leaves_a_checkpoint_and_no_process(steady: Path, tmp_path: Path) -> None:
    """But for Ray's two agents, which first try for a minute to report to a cluster that is no more."""
    script = f"""
from pathlib import Path
from ragstone import train
from tests.conformance.test_train_ray import LONG, pairs
base, work = Path({str(steady)!r}), Path({str(tmp_path)!r})
train.connect("ray?workers=2").train(base, pairs(), LONG, work, lambda now: print(now.step, flush=True))
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if line.strip() == str(CHECKPOINT_STEPS + 2):
            break
    started = [child for child in psutil.Process(process.pid).children(recursive=True) if "Agent" not in child.name()]
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(started) > 5
    assert psutil.wait_procs(started, timeout=60)[1] == []
    assert Run(steady, pairs(), LONG, tmp_path).step % CHECKPOINT_STEPS == 0
    assert Run(steady, pairs(), LONG, tmp_path).step >= CHECKPOINT_STEPS


def test_hard_negatives_are_those_that_are_mined_here(trainer: Trainer, steady: Path, tmp_path: Path) -> None:
    chunks = topics()
    local.build(tmp_path / "index", chunks, Embedder(steady, threads=1).documents([chunk.context for chunk in chunks]))
    mined = mine(chunks, limit=200).pairs
    asked = [pair.question for pair in mined]

    def hardened(by: Trainer) -> tuple[Pair, ...]:
        found = by.map(partial(keyword_hits, (PUBLIC,)), [tmp_path / "index", steady], asked, lambda done: None)
        search = dict(zip(asked, found, strict=True))
        return harden(mined, chunks, lambda question, limit: search[question])

    assert hardened(trainer) == hardened(train.connect("local"))


def test_every_part_of_ray_listens_on_loopback_only(trainer: Trainer) -> None:
    trainer.map(open_lengths, [], ["text"] * 200, lambda done: None)
    found = [*listening(psutil.Process()), *(ip for _, ips in below(listening) for ip in ips)]
    assert len(found) > 5
    assert all(ip_address(ip.removeprefix("::ffff:")).is_loopback for ip in found), found


def open_lengths() -> Work[str, int]:
    return lambda texts, progress: map(len, texts)


def test_ray_leaves_the_signals_to_us() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_few_items_are_not_worth_a_cluster() -> None:
    """Nothing answers at this address."""
    found = train.connect("ray://127.0.0.1:9?workers=2").map(open_lengths, [], ["one", "three"], lambda done: None)
    assert found == [3, 5]


def test_more_workers_than_fit_are_an_error_that_says_what_there_is(steady: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"4 workers of 9999 CPUs do not fit: the cluster has \d+ CPUs"):
        train.connect("ray?workers=4&cpus=9999").train(steady, pairs(), SHORT, tmp_path, lambda now: None)


@pytest.mark.parametrize("url", ["ray?workers=two", "ray://host", "ray+gcs://", "ray+http://host:1", "ray?worker=2", "ray?workers="])
def test_an_address_that_is_none_is_a_setting_to_mend(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a Ray cluster"):
        train.connect(url)


def test_without_ray_the_error_says_what_to_install() -> None:
    script = "import sys; sys.modules['ray'] = None\nfrom ragstone import train\n"
    script += "train.connect('ray').map(print, [], range(200), print)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "pip install 'ragstone[ray]'" in done.stderr


def test_nothing_is_left_of_a_ray_that_was_shut_down() -> None:
    import ray

    started = processes_of("ray")
    assert started
    ray.shutdown()
    assert psutil.wait_procs(started, timeout=60)[1] == []
