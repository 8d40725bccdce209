"""The contract of a trainer, held against every connector that runs without an account."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ragstone import embedder, train, weights
from ragstone.corpus.pairs import Pair, mine
from ragstone.embedder import Embedder
from ragstone.errors import TrainError
from ragstone.train import Progress, Recipe, Trainer, Work
from tests.tiny import tiny
from tests.topics import topics

ROOT = Path(__file__).parents[2]
SHORT = Recipe(epochs=2, batch=4, query_tokens=16, document_tokens=24, interpolations=(0.5, 1.0))
"""Two epochs of three batches: six steps."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Threads that wait for each other make a tiny model slower, and far slower on busy cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["local"])
def trainer(request: pytest.FixtureRequest) -> Trainer:
    return train.connect(request.param)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("base"))


@cache
def pairs(seed: int = 17) -> list[Pair]:
    found = mine(topics(), limit=12, seed=seed).pairs
    return [replace(pair, negatives=(found[at - 1].positive,)) for at, pair in enumerate(found)]


def steps_of(trainer: Trainer, base: Path, recipe: Recipe, work: Path) -> list[Progress]:
    seen: list[Progress] = []
    trainer.train(base, pairs(), recipe, work, seen.append)
    return seen


@dataclass(frozen=True)
class Finished:
    """A run that went through: where, what came out, and what it told."""

    work: Path
    folders: dict[float, Path]
    seen: list[Progress]


@pytest.fixture(scope="module")
def finished(trainer: Trainer, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    work, seen = tmp_path_factory.mktemp("finished"), list[Progress]()
    return Finished(work, trainer.train(base, pairs(), SHORT, work, seen.append), seen)


def tensors(folder: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    found: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = load_file(folder / "model.safetensors")
    return found


def test_every_interpolation_becomes_a_complete_model_folder(finished: Finished, base: Path) -> None:
    assert set(finished.folders) == {0.5, 1.0}
    for folder in finished.folders.values():
        model = Embedder(folder, threads=1)
        assert np.allclose(np.linalg.norm(model.queries(["how is a class made?"]), axis=1), 1, atol=1e-3)
    assert len({embedder.digest(folder) for folder in (base, *finished.folders.values())}) == 3


def test_a_candidate_lies_on_the_line_from_the_base_to_the_tuned_weights(finished: Finished, base: Path) -> None:
    start, half, whole = tensors(base), tensors(finished.folders[0.5]), tensors(finished.folders[1.0])
    moved = [name for name in start if start[name].dtype == np.float32 and not np.array_equal(start[name], whole[name])]
    assert moved
    assert all(np.allclose(half[name], (start[name] + whole[name]) / 2, atol=1e-6) for name in moved)


@pytest.mark.slow
def test_the_real_base_learns_and_stays_loadable(trainer: Trainer, tmp_path: Path) -> None:
    """From the folder as its package has it, in Sentence-Transformers' layout."""
    seen: list[Progress] = []
    folders = trainer.train(weights.pull("minilm"), pairs(), replace(SHORT, epochs=4, learning_rate=2e-4), tmp_path, seen.append)
    assert np.mean([now.loss for now in seen[-3:]]) < np.mean([now.loss for now in seen[:3]])
    assert Embedder(folders[0.5], threads=1).queries(["how is a class made?"]).shape == (1, 384)


def test_the_lineage_names_base_pairs_and_recipe(finished: Finished, base: Path) -> None:
    lineage = json.loads((finished.folders[0.5] / "card.json").read_text())["lineage"]
    assert lineage["base"] == embedder.digest(base)
    assert lineage["recipe"]["seed"] == SHORT.seed
    assert (lineage["share"], lineage["steps"]) == (0.5, 6)


def test_equal_runs_give_equal_models(trainer: Trainer, base: Path, tmp_path: Path) -> None:
    first, second = (trainer.train(base, pairs(), SHORT, tmp_path / name, lambda now: None) for name in "ab")
    assert embedder.digest(first[1.0]) == embedder.digest(second[1.0])


def test_progress_counts_every_step_and_the_seconds_left_end_at_zero(finished: Finished) -> None:
    assert [now.step for now in finished.seen] == [1, 2, 3, 4, 5, 6]
    assert {now.steps for now in finished.seen} == {6}
    assert finished.seen[-1].seconds_left == 0


def test_progress_tells_the_learning_rate_of_each_step(finished: Finished) -> None:
    """Warmed up by the first step, it falls to zero."""
    told = [now.learning_rate / SHORT.learning_rate for now in finished.seen]
    assert told == pytest.approx([(1 + math.cos(math.pi * step / 5)) / 2 for step in (0, 0, 1, 2, 3, 4)])


def test_the_minutes_cut_a_run_short_and_still_give_candidates(trainer: Trainer, base: Path, tmp_path: Path) -> None:
    recipe = replace(SHORT, epochs=1000, minutes=0.0001)
    assert len(steps_of(trainer, base, recipe, tmp_path)) < 10
    assert (tmp_path / "candidate-0.5" / "model.onnx").is_file()


def test_a_passage_that_is_known_to_answer_is_no_negative(trainer: Trainer, base: Path, tmp_path: Path) -> None:
    """With every other passage of the batch known to answer too, only its own is left: there is nothing to learn."""
    texts = tuple(pair.positive for pair in pairs())
    known = [replace(pair, answers=texts, negatives=()) for pair in pairs()]
    seen: list[Progress] = []
    trainer.train(base, known, SHORT, tmp_path, seen.append)
    assert {now.loss for now in seen} == {0.0}


def test_a_teachers_scores_are_learned(trainer: Trainer, base: Path, tmp_path: Path) -> None:
    """Taught that the other passage is the better one, the model puts it nearer than the base does."""
    scored = [replace(pair, scores=(0.2, 0.9)) for pair in pairs()]
    folders = trainer.train(base, scored, replace(SHORT, epochs=8, learning_rate=1e-3), tmp_path, lambda now: None)

    def lead(folder: Path) -> float:
        model = Embedder(folder, threads=1)
        asked = model.queries([pair.question for pair in scored])
        near = model.documents([pair.negatives[0] for pair in scored]) - model.documents([pair.positive for pair in scored])
        return float((asked * near).sum(axis=1).mean())

    assert lead(folders[1.0]) > 2 * abs(lead(base))


def test_no_pairs_are_an_error_that_says_so(trainer: Trainer, base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no pairs"):
        trainer.train(base, [], SHORT, tmp_path, lambda now: None)


def test_a_loss_that_is_no_number_ends_the_run(trainer: Trainer, base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("tokenizer.json", "config.json", "card.json", "model.onnx"):
        (broken / name).write_bytes((base / name).read_bytes())
    found = {name: np.full_like(value, np.nan) if "layer.1" in name else value for name, value in tensors(base).items()}
    save_file(found, broken / "model.safetensors")
    with pytest.raises(TrainError, match="the loss is nan at step 1"):
        trainer.train(broken, pairs(), SHORT, tmp_path / "work", lambda now: None)
    assert not (tmp_path / "work" / "checkpoint.safetensors").exists()


def test_an_interrupted_run_goes_on_where_it_stopped(trainer: Trainer, finished: Finished, base: Path, tmp_path: Path) -> None:
    """Workers elsewhere may take some steps more until they hear of it; none is lost and none taken twice."""

    def interrupt(now: Progress) -> None:
        if now.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(base, pairs(), SHORT, tmp_path, interrupt)
    rest = [now.step for now in steps_of(trainer, base, SHORT, tmp_path)]
    assert rest in ([5, 6], [6], [])
    assert embedder.digest(tmp_path / "candidate-1") == embedder.digest(finished.folders[1.0])


def test_a_finished_run_is_not_repeated(trainer: Trainer, finished: Finished, base: Path) -> None:
    before = embedder.digest(finished.folders[1.0])
    assert steps_of(trainer, base, SHORT, finished.work) == []
    assert embedder.digest(finished.folders[1.0]) == before


def passages(model: Path) -> Work[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return Embedder(model, threads=1).documents


def test_what_is_mapped_is_what_is_computed_here_to_the_bit(trainer: Trainer, base: Path) -> None:
    texts, told = [chunk.context for chunk in topics()][:300], list[int]()
    found = trainer.map(passages, [base], texts, told.append)
    assert np.array_equal(np.stack(found), Embedder(base, threads=1).documents(texts))
    assert told == sorted(told)
    assert told[-1] == len(texts)


def refuse(model: Path) -> Work[str, str]:
    def work(texts: Sequence[str], progress: Callable[[int], None]) -> list[str]:
        raise TrainError(f"there are {len(texts)} texts too many", "ragstone train")

    return work


def test_an_error_while_mapping_is_told_as_it_was_raised(trainer: Trainer, base: Path) -> None:
    with pytest.raises(TrainError, match=r"there are \d+ texts too many\n  try: ragstone train"):
        trainer.map(refuse, [base], ["one"] * 200, lambda done: None)


CHANGES: list[Callable[[Recipe], Recipe]] = [lambda recipe: replace(recipe, seed=18), lambda recipe: replace(recipe, learning_rate=1e-5)]


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_another_recipe_is_ignored(
    trainer: Trainer, base: Path, tmp_path: Path, change: Callable[[Recipe], Recipe]
) -> None:
    steps_of(trainer, base, SHORT, tmp_path)
    assert len(steps_of(trainer, base, change(SHORT), tmp_path)) == 6


def test_a_checkpoint_of_other_pairs_is_ignored(trainer: Trainer, base: Path, tmp_path: Path) -> None:
    steps_of(trainer, base, SHORT, tmp_path)
    seen: list[Progress] = []
    trainer.train(base, pairs(seed=18), SHORT, tmp_path, seen.append)
    assert seen[0].step == 1


def test_a_damaged_checkpoint_is_ignored(trainer: Trainer, base: Path, tmp_path: Path) -> None:
    steps_of(trainer, base, SHORT, tmp_path)
    whole = (tmp_path / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(whole[: len(whole) // 2])
    assert len(steps_of(trainer, base, SHORT, tmp_path)) == 6


def test_a_killed_run_goes_on_from_its_last_checkpoint(base: Path, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
import torch
from ragstone import train, tune
from tests.conformance.test_train import SHORT, pairs
torch.set_num_threads(1)
tune.CHECKPOINT_STEPS = 2
train.connect("local").train(Path({str(base)!r}), pairs(), SHORT, Path({str(tmp_path)!r}), lambda now: print(now.step, flush=True))
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if line.strip() == "3":
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    resumed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert resumed.stdout.split()[0] in {"3", "5"}
    assert Embedder(tmp_path / "candidate-0.5", threads=1).queries(["a question"]).shape == (1, 32)


def test_what_is_trained_is_what_is_served(tmp_path: Path) -> None:
    """The two are written apart, in PyTorch and as a graph; the graph's products are int8, hence 0.98."""
    from ragstone import encoder

    folder = tmp_path / "minilm"
    embedder.prepare(weights.pull("minilm"), folder, name="minilm", base="minilm")
    texts = ["how is a class made?", topics()[0].text, "one"]
    with torch.no_grad():
        trained = encoder.open(folder, torch.device("cpu")).encode(texts, 256).numpy()
    assert (trained * Embedder(folder, threads=1).documents(texts)).sum(axis=1) == pytest.approx(1, abs=0.02)


def test_without_torch_the_error_says_what_to_install() -> None:
    script = "import sys; sys.modules['torch'] = None\nfrom pathlib import Path\nfrom ragstone import train\n"
    script += "train.connect('local').train(Path(), [], train.Recipe(), Path(), print)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "pip install 'ragstone[train]'" in done.stderr
