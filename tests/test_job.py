from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from ragstone import embedder, job, weights
from ragstone.corpus.pairs import Pair
from ragstone.errors import TrainError
from ragstone.recipe import Progress, Recipe
from ragstone.train.__main__ import main
from tests.conformance.test_train import SHORT, pairs
from tests.tiny import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A job that nobody has run."""
    job.write(tmp_path / "job", base, pairs(), SHORT)
    return tmp_path / "job"


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ragstone.train", "--job", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def outcome(folder: Path) -> tuple[int, list[dict[str, float]], str]:
    process = start(folder)
    told, error = process.communicate()
    return process.returncode, [json.loads(line) for line in told.splitlines()], error


def made(folder: Path, share: float, text: bytes) -> Path:
    """A candidate that a trainer left in its work folder."""
    (folder / "work" / f"candidate-{share:g}" / "1_Pooling").mkdir(parents=True)
    (folder / "work" / f"candidate-{share:g}" / "model.safetensors").write_bytes(text)
    (folder / "work" / f"candidate-{share:g}" / "1_Pooling" / "config.json").write_text("{}")
    return folder / "work" / f"candidate-{share:g}"


def test_what_is_written_is_what_is_read(base: Path, tmp_path: Path) -> None:
    awkward = Pair("¿qué?\u2028\n", "c", "d", 'a "b"\\', ("one", "two"), "keyword")
    recipe = replace(SHORT, interpolations=(1.0,), learning_rate=1e-5)
    job.write(tmp_path, base, (*pairs(), awkward), recipe)
    found = job.read(tmp_path)
    assert found == job.Job(tmp_path / "base", (*pairs(), awkward), recipe)
    assert embedder.digest(found.base) == embedder.digest(base)


def test_a_base_as_its_package_has_it_becomes_a_whole_model_folder(tmp_path: Path) -> None:
    job.write(tmp_path, weights.pull("minilm"), pairs(), SHORT)
    assert embedder.read_card(tmp_path / "base").name == weights.pull("minilm").name
    assert (tmp_path / "base" / "model.onnx").is_file()


def test_the_digest_names_base_pairs_and_recipe_and_not_the_place(base: Path, folder: Path, tmp_path: Path) -> None:
    first = job.digest(folder)
    assert job.write(tmp_path / "other", base, pairs(), SHORT) == first
    assert job.write(tmp_path / "other", base, pairs(seed=18), SHORT) != first
    assert job.write(tmp_path / "other", base, pairs(), replace(SHORT, seed=18)) != first
    changed = shutil.copytree(base, tmp_path / "base")
    card = json.loads((changed / "card.json").read_text())
    (changed / "card.json").write_text(json.dumps({**card, "query_prefix": "query: "}))
    assert job.write(tmp_path / "other", changed, pairs(), SHORT) != first


def test_the_digest_does_not_depend_on_the_graph(folder: Path) -> None:
    """It is made from the weights, and another version of the library writes other bytes."""
    first = job.digest(folder)
    (folder / "base" / "model.onnx").write_bytes(b"another")
    assert job.digest(folder) == first


def test_a_job_written_over_another_keeps_nothing_of_it(base: Path, folder: Path) -> None:
    (folder / "base" / "stray.txt").write_text("x")
    job.write(folder, base, pairs(), SHORT)
    assert not (folder / "base" / "stray.txt").exists()


def test_no_pairs_are_no_job(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="there are no pairs to train on"):
        job.write(tmp_path, base, [], SHORT)


NAMES = ["base/model.safetensors", "base/tokenizer.json", "base/config.json", "pairs.jsonl", "recipe.json"]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_remedy(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(TrainError, match=f"{folder / name} is missing") as missing:
        job.read(folder)
    assert missing.value.hint == job.AGAIN


@pytest.mark.parametrize("name", [*NAMES, "base/card.json"])
def test_a_file_cut_short_is_named_with_the_remedy(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) - 40])
    with pytest.raises(TrainError, match=f"{folder / name}.* is damaged") as damaged:
        job.read(folder)
    assert damaged.value.hint == job.AGAIN


PAIR = {"question": "q", "chunk": "c", "document": "d", "positive": "p"}
WRONG = [
    ("[]", "line 2 is no JSON object"),
    ('{"question": "q"}', "line 2 is damaged"),
    (json.dumps({**PAIR, "positive": 7}), "line 2 is damaged: positive is 7"),
    (json.dumps({**PAIR, "negatives": "p"}), "line 2 is damaged: negatives is 'p'"),
    (json.dumps({**PAIR, "negatives": [["p"]]}), "line 2 is damaged: negatives"),
    (json.dumps({**PAIR, "mood": "good"}), "line 2 has 'mood', which this version does not know"),
    (b"\xff\xfe", "is damaged: 'utf-8'"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_a_pair_that_is_none_is_named_by_its_line(folder: Path, line: str | bytes, message: str) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    (folder / "pairs.jsonl").write_bytes(json.dumps(PAIR).encode() + b"\n" + raw)
    with pytest.raises(TrainError, match=message):
        job.read(folder)


@pytest.mark.parametrize(
    "field", [{"epochs": "three"}, {"epochs": True}, {"minutes": None}, {"interpolations": 1}, {"interpolations": ["a"]}]
)
def test_a_recipe_with_a_setting_of_another_kind_is_refused(folder: Path, field: dict[str, object]) -> None:
    (folder / "recipe.json").write_text(json.dumps(field))
    with pytest.raises(TrainError, match=f"recipe.json is damaged: {next(iter(field))} is"):
        job.read(folder)


def test_a_recipe_may_leave_settings_out(folder: Path) -> None:
    (folder / "recipe.json").write_text('{"minutes": 5}')
    assert job.read(folder).recipe == Recipe(minutes=5)


def test_an_empty_file_of_pairs_is_refused(folder: Path) -> None:
    (folder / "pairs.jsonl").write_text("\n")
    with pytest.raises(TrainError, match=r"pairs.jsonl has no pair in it"):
        job.read(folder)


def test_a_job_is_done_when_done_json_says_so_and_not_before(folder: Path) -> None:
    candidates = {0.5: made(folder, 0.5, b"half"), 1.0: made(folder, 1.0, b"whole")}
    assert job.finished(folder) == {}
    job.finish(folder, candidates)
    assert job.finished(folder) == {0.5: folder / "candidates" / "0.5", 1.0: folder / "candidates" / "1"}
    told = job.candidates((folder / "done.json").read_bytes(), job.digest(folder), "done.json")
    assert [(one.share, one.folder, sorted(one.files)) for one in told] == [
        (0.5, "candidates/0.5", ["1_Pooling/config.json", "model.safetensors"]),
        (1.0, "candidates/1", ["1_Pooling/config.json", "model.safetensors"]),
    ]


def test_done_json_of_another_job_does_not_count(base: Path, folder: Path) -> None:
    job.finish(folder, {0.5: made(folder, 0.5, b"half")})
    job.write(folder, base, pairs(seed=18), SHORT)
    assert job.finished(folder) == {}


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_candidate_that_is_not_what_was_made_is_named(folder: Path, damage: str) -> None:
    job.finish(folder, {0.5: made(folder, 0.5, b"half")})
    weights = folder / "candidates" / "0.5" / "model.safetensors"
    weights.write_bytes(b"hale") if damage == "changed" else weights.unlink()
    with pytest.raises(TrainError, match=r"candidates/0.5/model.safetensors is not what the job made: its SHA-256 is"):
        job.finished(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"job": "JOB"}', '{"job": "JOB", "candidates": [{"share": "x"}]}'])
def test_a_damaged_done_json_is_named(folder: Path, text: str) -> None:
    (folder / "done.json").write_text(text.replace("JOB", job.digest(folder)))
    with pytest.raises(TrainError, match=r"done.json is damaged"):
        job.finished(folder)


def test_the_entry_trains_tells_its_progress_and_is_not_repeated(folder: Path) -> None:
    status, told, error = outcome(folder)
    assert (status, error) == (0, "")
    assert [now["step"] for now in told] == [1, 2, 3, 4, 5, 6]
    assert all(set(now) == {field.name for field in fields(Progress)} for now in told)
    assert set(job.finished(folder)) == {0.5, 1.0}
    assert outcome(folder) == (0, [], "")


def test_the_entry_told_to_stop_writes_its_checkpoint_and_goes_on_from_it(base: Path, tmp_path: Path) -> None:
    job.write(tmp_path, base, pairs(), replace(SHORT, epochs=1_000_000, minutes=60))
    firsts = []
    for _ in range(2):
        process = start(tmp_path)
        assert process.stdout
        firsts.append(json.loads(process.stdout.readline())["step"])
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate()
        assert process.returncode == 130
        assert "the same command goes on where it stopped" in error
    assert firsts[0] == 1
    assert firsts[1] > 1
    assert not (tmp_path / "done.json").exists()


def test_the_entry_takes_a_memory_bound(folder: Path) -> None:
    assert main(["--job", str(folder), "--memory", "0"]) == 0
    assert set(job.finished(folder)) == {0.5, 1.0}


def test_the_entry_names_what_is_wrong_and_fails(folder: Path) -> None:
    (folder / "recipe.json").unlink()
    status, told, error = outcome(folder)
    assert (status, told) == (1, [])
    assert error == f"ragstone.train: {folder / 'recipe.json'} is missing\n  try: {job.AGAIN}\n"
