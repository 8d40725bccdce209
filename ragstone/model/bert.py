"""From the weights of an encoder of BERT's kind to the ONNX graph that runs it: no torch, and the same weights give the same bytes.

The graph takes `ids` [texts, tokens], every text of the same length (no padding, so no mask), and gives `vectors` [texts, dimensions]
of length 1. Matrix products are int8: weights by column, activations as they come. The scale of an activation spans all texts of a
call, so the engine gives one text a call, and a text's vector never depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragstone.errors import WeightsError
from ragstone.model.architecture import DISTANCES, Architecture, bert_name, buckets, read, read_config, unknown
from ragstone.model.dense import Dense
from ragstone.model.tensors import FILE, load

Tensors = Mapping[str, NDArray[np.float32]]

OPSET = 18
IR_VERSION = 9
CONTRIB = "com.microsoft"
"""ONNX Runtime's fused operators, where they are faster: with attention of standard ones a text took 1.1 times as long."""

TOP = 63
"""Weights take 7 of 8 bits: with all 8, CPUs without VNNI overflow, so an index and a query made on two machines would disagree."""

PLACES = {"cls": 0, "last": -1}
"""The token whose state is the vector, for the poolings that take one."""


def build(folder: Path, pooling: str, layers: Sequence[Dense] = ()) -> bytes:
    """The ONNX model of `folder` (`config.json`, `model.safetensors`), pooled by `mean`, `cls` or `last`, through the dense layers.

    Raises `WeightsError` when that is no encoder of BERT's kind, or damaged.
    """
    config = read_config(folder / "config.json")
    if pooling != "mean" and pooling not in PLACES:
        raise WeightsError(f"{folder} pools by {pooling!r}; mean, cls and last are known")
    if foreign := unknown(config):
        raise WeightsError(f"{folder / 'config.json'} has {foreign}, which is no encoder of BERT's kind", "ragstone models list")
    tensors = {bert_name(name, config): tensor for name, tensor in load(folder / FILE).items()}
    try:
        return _Graph(tensors, read(config)).encoder().pool(pooling).dense(layers).model()
    except KeyError as error:
        raise WeightsError(f"{folder / FILE} has no tensor {error}, which a BERT encoder has") from error


class _Graph:
    """A graph being built: `value` is the name of the last node's output."""

    def __init__(self, tensors: Tensors, architecture: Architecture) -> None:
        self.tensors = tensors
        self.architecture = architecture
        self.dimensions = architecture.width
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.value = "ids"

    def encoder(self) -> _Graph:
        self._embed()
        distances = self._distances() if DISTANCES in self.tensors else ""
        for layer in range(self.architecture.layers):
            at = f"encoder.layer.{layer}"
            before = self.value
            if distances:
                self._attend_at_distances(f"{at}.attention.self", distances)
            else:
                self._attend(f"{at}.attention.self")
            self._dense(f"{at}.attention.output.dense")
            self._add_and_norm(before, f"{at}.attention.output.LayerNorm")
            before = self.value
            self._dense(f"{at}.intermediate.dense")
            self._node("Gelu", [self.value], CONTRIB)
            self._dense(f"{at}.output.dense")
            self._add_and_norm(before, f"{at}.output.LayerNorm")
        return self

    def pool(self, pooling: str) -> _Graph:
        if pooling == "mean":
            self._node("ReduceMean", [self.value, self._constant("axis", np.array([1]))], keepdims=0)
        else:
            self._node("Gather", [self.value, self._constant("place", np.array(PLACES[pooling]))], axis=1)
        return self

    def dense(self, layers: Sequence[Dense]) -> _Graph:
        """One product a text, so in fp32."""
        for number, layer in enumerate(layers):
            self._node("MatMul", [self.value, self._constant(f"dense.{number}.weight", layer.weight.T)])
            self._node("Add", [self.value, self._constant(f"dense.{number}.bias", layer.bias)])
            if layer.tanh:
                self._node("Tanh", [self.value])
            self.dimensions = len(layer.bias)
        return self

    def model(self) -> bytes:
        """The graph as it stands, its last value made length 1."""
        from onnx import TensorProto, helper

        self._node("LpNormalization", [self.value], axis=-1, p=2)
        self.nodes[-1].output[0] = "vectors"
        graph = helper.make_graph(
            self.nodes,
            "bert",
            [helper.make_tensor_value_info("ids", TensorProto.INT32, ["texts", "tokens"])],
            [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", self.dimensions])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ragstone")
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def _embed(self) -> None:
        """Words + positions; the token type is always 0, so its row, where there is one, is added to the positions beforehand."""
        place = "embeddings"
        positions = self.tensors[f"{place}.position_embeddings.weight"][self.architecture.first :]
        if (types := self.tensors.get(f"{place}.token_type_embeddings.weight")) is not None:
            positions = positions + types[0]
        words = self._constant("words", self.tensors[f"{place}.word_embeddings.weight"])
        norm = self._norm(f"{place}.LayerNorm")
        inputs = ["ids", "", words, self._constant("positions", positions), "", *norm]
        epsilon = self.architecture.epsilon
        self._node("EmbedLayerNormalization", inputs, CONTRIB, outputs=["embedded", "unmasked"], epsilon=epsilon)

    def _attend(self, at: str) -> None:
        weight_name, scale, zero = self._quantised(at, self._joined(at, "weight"))
        quantised = f"{at}.input"
        self._node("DynamicQuantizeLinear", [self.value], outputs=[quantised, f"{quantised}.scale", f"{quantised}.zero"])
        bias = self._constant(f"{at}.bias", self._joined(at, "bias"))
        inputs = [quantised, weight_name, bias, f"{quantised}.scale", scale, "", f"{quantised}.zero", zero]
        self._node("QAttention", inputs, CONTRIB, num_heads=self.architecture.heads)

    def _attend_at_distances(self, at: str, distances: str) -> None:
        """Attention with a bias, which the int8 operator does not take: its three products are int8, the rest fp32."""
        weight = self._quantised(at, self._joined(at, "weight"))
        bias = self._constant(f"{at}.bias", self._joined(at, "bias"))
        self._node("DynamicQuantizeMatMul", [self.value, *weight, bias], CONTRIB)
        parts = [f"{at}.{part}" for part in ("query", "key", "value")]
        self._node("Split", [self.value], outputs=parts, axis=-1, num_outputs=3)
        self._node("MultiHeadAttention", [*parts, "", "", distances], CONTRIB, num_heads=self.architecture.heads)

    def _distances(self) -> str:
        """The name of the attention's bias [1, heads, tokens, tokens]: the table's rows for the corner that the text fills."""
        table, states = self.tensors[DISTANCES], self.value
        longest = len(self.tensors["embeddings.position_embeddings.weight"]) - self.architecture.first
        self._node("Shape", ["ids"], start=1, end=2)
        self._node("Concat", [self.value, self.value], axis=0)
        corner = self._constant("corner", np.zeros(2, np.int64))
        rows = self._constant("buckets", buckets(longest, len(table)).astype(np.int32))
        self._node("Slice", [rows, corner, self.value])
        self._node("Gather", [self._constant("distances", table), self.value], axis=0)
        self._node("Transpose", [self.value], perm=[2, 0, 1])
        self._node("Unsqueeze", [self.value, self._constant("front", np.array([0]))])
        bias, self.value = self.value, states
        return bias

    def _joined(self, at: str, kind: str) -> NDArray[np.float32]:
        return np.concatenate([self.tensors[f"{at}.{part}.{kind}"] for part in ("query", "key", "value")])

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

    def _add_and_norm(self, other: str, at: str) -> None:
        """Layer normalisation of the sum. ONNX Runtime's own adds up one number at a time, which took a quarter of a text's time.

        That of an instance is vectorised, and is the same when each token is an instance of one channel.
        """
        weight, bias = self._norm(at)
        self._node("Add", [self.value, other])
        summed = self.value
        self._node("Shape", [summed])
        shape = self.value
        self._node("Reshape", [summed, self._constant(f"{at}.apart", np.array([-1, 1, self.architecture.width]))])
        plain = [self._constant(f"{at}.one", np.ones(1, np.float32)), self._constant(f"{at}.zero", np.zeros(1, np.float32))]
        self._node("InstanceNormalization", [self.value, *plain], epsilon=self.architecture.epsilon)
        self._node("Reshape", [self.value, shape])
        self._node("Mul", [self.value, weight])
        self._node("Add", [self.value, bias])

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
