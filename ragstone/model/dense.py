"""The layers that some models put after pooling (Sentence-Transformers' `Dense` modules): one product and a bias each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragstone.errors import WeightsError
from ragstone.model.tensors import load as tensors_of

FILES = ("config.json", "model.safetensors")
"""What the folder of a layer holds."""

ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": False,
    "torch.nn.modules.activation.Tanh": True,
}
"""Whether an activation, by its name in the file, is the hyperbolic tangent or nothing: the two that embedding models use."""


@dataclass(frozen=True)
class Dense:
    """A layer: `weight` [out, in], `bias` [out], and whether `tanh` follows."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    tanh: bool


def load(folder: Path) -> Dense:
    """The layer in `folder`. Raises `WeightsError` when it can't be read or computes something else."""
    try:
        config = json.loads((folder / FILES[0]).read_bytes())
        tensors = tensors_of(folder / FILES[1])
        weight = tensors["linear.weight"]
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"can't read the dense layer {folder}: {error}") from error
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in ACTIVATIONS or config.get("use_residual"):
        kind = "a residual" if config.get("use_residual") else activation
        raise WeightsError(f"{folder} has {kind}; {' and '.join(ACTIVATIONS)} run here")
    bias = tensors.get("linear.bias", np.zeros(len(weight), np.float32))
    return Dense(weight, bias, ACTIVATIONS[activation])
