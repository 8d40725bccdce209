"""Weights as they are published: halves of both kinds, and several files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ragstone.errors import WeightsError
from ragstone.model import tensors


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_float_becomes_float32_and_integers_are_left_out(tmp_path: Path, kind: torch.dtype) -> None:
    values = torch.tensor([[1.5, -2.0], [0.25, 3e4]])
    save_file({"weight": values.to(kind), "position_ids": torch.arange(3)}, tmp_path / "a.safetensors")
    loaded = tensors.load(tmp_path / "a.safetensors")
    assert loaded.keys() == {"weight"}
    assert loaded["weight"].dtype == np.dtype(np.float32)
    assert np.array_equal(loaded["weight"], values.to(kind).float().numpy())


def sharded(folder: Path, parts: dict[str, dict[str, torch.Tensor]]) -> Path:
    for file, part in parts.items():
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / tensors.SHARDS).write_text(json.dumps(index))
    return folder


def test_several_files_become_one_with_every_tensor(tmp_path: Path) -> None:
    first = {"one": torch.randn(3, 5), "half": torch.randn(7).bfloat16()}
    second = {"two": torch.randn(2, 2), "whole": torch.arange(3)}
    folder = sharded(tmp_path, {"model-1.safetensors": first, "model-2.safetensors": second})
    tensors.join(folder, tmp_path / "joined.safetensors")
    with safe_open(tmp_path / "joined.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        for name, tensor in {**first, **second}.items():
            assert torch.equal(file.get_tensor(name), tensor)


def test_one_file_is_copied(tmp_path: Path) -> None:
    save_file({"one": torch.ones(2)}, tmp_path / tensors.FILE)
    tensors.join(tmp_path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / tensors.FILE).read_bytes()


def test_a_shard_that_is_missing_or_damaged_is_an_error_of_ours(tmp_path: Path) -> None:
    folder = sharded(tmp_path, {"model-1.safetensors": {"one": torch.ones(2)}, "model-2.safetensors": {"two": torch.ones(2)}})
    (folder / "model-2.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(WeightsError, match="can't read the weights"):
        tensors.join(folder, tmp_path / "joined")
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(WeightsError, match="can't read the weights"):
        tensors.join(folder, tmp_path / "joined")


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        tensors.join(tmp_path, tmp_path / "joined")
