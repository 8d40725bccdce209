"""From a BERT encoder's weights to the ONNX graph that runs it, built node by node: no torch, and the same weights give the same bytes.

The graph takes `ids` [texts, tokens], every text of the same length (no padding, so no mask), and gives `vectors` [texts, dimensions]
of length 1. Matrix products are int8: weights by column, activations as they come. The scale of an activation spans all texts of a
call, so `Embedder` gives one text a call, and a text's vector never depends on its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragstone.errors import WeightsError

Tensors = Mapping[str, NDArray[Any]]

OPSET = 18
IR_VERSION = 9
CONTRIB = "com.microsoft"
"""ONNX Runtime's fused operators: the same graph of standard ones took 1.1 to 1.3 times as long."""

TOP = 63
"""Weights take 7 of 8 bits: with all 8, CPUs without VNNI overflow, so an index and a query made on two machines would disagree."""


def build(folder: Path, pooling: str) -> bytes:
    """The ONNX model of `folder` (`config.json`, `model.safetensors`), `pooling` by `mean` or `cls`. Raises `WeightsError`."""
    config, tensors = _config(folder / "config.json"), _tensors(folder / "model.safetensors")
    if pooling not in ("mean", "cls"):
        raise WeightsError(f"{folder} pools by {pooling!r}; mean and cls are known")
    try:
        return _Graph(tensors).encoder(config).pool(pooling).model(int(config["hidden_size"]))
    except KeyError as error:
        raise WeightsError(f"{folder / 'model.safetensors'} has no tensor {error}, which a BERT encoder has") from error


def _config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(f"can't read {path}: {error}") from error
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise WeightsError(f"{path} has {key} {config[key]!r}; {value!r} is what runs here", "ragstone models list")
    return config


def _tensors(path: Path) -> Tensors:
    """The weights by their name in `BertModel`; a head's prefix (`bert.`) is taken off."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError) as error:
        raise WeightsError(f"can't read {path}: {error}") from error
    return {name.removeprefix("bert."): tensor.astype(np.float32) for name, tensor in tensors.items()}


class _Graph:
    """A graph being built: `value` is the name of the last node's output."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.value = "ids"

    def encoder(self, config: Mapping[str, Any]) -> _Graph:
        heads, epsilon = int(config["num_attention_heads"]), float(config["layer_norm_eps"])
        self._embed(epsilon)
        for layer in range(int(config["num_hidden_layers"])):
            at = f"encoder.layer.{layer}"
            before = self.value
            self._attend(f"{at}.attention.self", heads)
            self._dense(f"{at}.attention.output.dense")
            self._add_and_norm(before, f"{at}.attention.output.LayerNorm", epsilon)
            before = self.value
            self._dense(f"{at}.intermediate.dense")
            self._node("Gelu", [self.value], CONTRIB)
            self._dense(f"{at}.output.dense")
            self._add_and_norm(before, f"{at}.output.LayerNorm", epsilon)
        return self

    def pool(self, pooling: str) -> _Graph:
        if pooling == "mean":
            self._node("ReduceMean", [self.value, self._constant("axis", np.array([1]))], keepdims=0)
        else:
            self._node("Gather", [self.value, self._constant("first", np.array(0))], axis=1)
        self._node("LpNormalization", [self.value], axis=-1, p=2)
        return self

    def model(self, dimensions: int) -> bytes:
        from onnx import TensorProto, helper

        self.nodes[-1].output[0] = "vectors"
        graph = helper.make_graph(
            self.nodes,
            "bert",
            [helper.make_tensor_value_info("ids", TensorProto.INT32, ["texts", "tokens"])],
            [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", dimensions])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ragstone")
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def _embed(self, epsilon: float) -> None:
        """Words + positions; the token type is always 0, so its row is added to the positions beforehand."""
        place = "embeddings"
        positions = self.tensors[f"{place}.position_embeddings.weight"] + self.tensors[f"{place}.token_type_embeddings.weight"][0]
        words = self._constant("words", self.tensors[f"{place}.word_embeddings.weight"])
        norm = self._norm(f"{place}.LayerNorm")
        inputs = ["ids", "", words, self._constant("positions", positions), "", *norm]
        self._node("EmbedLayerNormalization", inputs, CONTRIB, outputs=["embedded", "unmasked"], epsilon=epsilon)

    def _attend(self, at: str, heads: int) -> None:
        parts = [f"{at}.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self.tensors[f"{part}.weight"] for part in parts])
        bias = np.concatenate([self.tensors[f"{part}.bias"] for part in parts])
        weight_name, scale, zero = self._quantised(at, weight)
        quantised = f"{at}.input"
        self._node("DynamicQuantizeLinear", [self.value], outputs=[quantised, f"{quantised}.scale", f"{quantised}.zero"])
        inputs = [quantised, weight_name, self._constant(f"{at}.bias", bias), f"{quantised}.scale", scale, "", f"{quantised}.zero", zero]
        self._node("QAttention", inputs, CONTRIB, num_heads=heads)

    def _dense(self, at: str) -> None:
        weight = self._quantised(at, self.tensors[f"{at}.weight"])
        bias = self._constant(f"{at}.bias", self.tensors[f"{at}.bias"])
        self._node("DynamicQuantizeMatMul", [self.value, *weight, bias], CONTRIB)

    def _quantised(self, at: str, weight: NDArray[np.float32]) -> tuple[str, str, str]:
        """The names of the int8 weight [in, out], its scale by column and its zero points."""
        scale = np.maximum(np.abs(weight).max(axis=1), 1e-8) / TOP
        rounded = np.rint(weight / scale[:, None]).astype(np.int8).T
        zeros = np.zeros(len(scale), np.int8)
        return self._constant(f"{at}.weight", rounded), self._constant(f"{at}.scale", scale), self._constant(f"{at}.zero", zeros)

    def _add_and_norm(self, other: str, at: str, epsilon: float) -> None:
        self._node("SkipLayerNormalization", [self.value, other, *self._norm(at)], CONTRIB, epsilon=epsilon)

    def _norm(self, at: str) -> tuple[str, str]:
        return self._constant(f"{at}.weight", self.tensors[f"{at}.weight"]), self._constant(f"{at}.bias", self.tensors[f"{at}.bias"])

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _node(self, operator: str, inputs: list[str], domain: str = "", outputs: list[str] | None = None, **attributes: Any) -> None:
        from onnx import helper

        outputs = outputs or [f"{operator}.{len(self.nodes)}"]
        self.nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes))
        self.value = outputs[0]
