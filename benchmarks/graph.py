"""A BERT encoder in fp32 of standard ONNX operators, as others publish them: token ids and mask in, last hidden states out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from ragstone.model import architecture, tensors


class Graph:
    """A graph being built: `value` is the name of the last node's output."""

    def __init__(self, folder: Path) -> None:
        config = architecture.read_config(folder / "config.json")
        self.shape = architecture.read(config)
        self.tensors = {architecture.bert_name(name, config): one for name, one in tensors.load(folder / tensors.FILE).items()}
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.value = ""

    def write(self, path: Path) -> None:
        """Build it and put it there."""
        self._embed()
        hidden = self._mask()
        for layer in range(self.shape.layers):
            at = f"encoder.layer.{layer}"
            before = self.value
            self._attend(f"{at}.attention.self", hidden)
            self._linear(f"{at}.attention.output.dense", self.value)
            self._add_and_norm(before, f"{at}.attention.output.LayerNorm")
            before = self.value
            self._linear(f"{at}.intermediate.dense", before)
            self._node("Gelu", self.value)
            self._linear(f"{at}.output.dense", self.value)
            self._add_and_norm(before, f"{at}.output.LayerNorm")
        self.nodes[-1].output[0] = "last_hidden_state"
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"]) for name in ("input_ids", "attention_mask")]
        states = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["texts", "tokens", self.shape.width])
        graph = helper.make_graph(self.nodes, "bert", inputs, [states], list(self.constants.values()))
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)

    def _embed(self) -> None:
        words = self._node("Gather", self._weight("embeddings.word_embeddings.weight"), "input_ids")
        places = self.tensors["embeddings.position_embeddings.weight"] + self.tensors["embeddings.token_type_embeddings.weight"][0]
        tokens = self._node("Shape", "input_ids", start=1, end=2)
        seen = self._node("Slice", self._constant("places", places), self._constant("zero", np.array([0])), tokens)
        self._node("Add", words, seen)
        self._norm("embeddings.LayerNorm")

    def _mask(self) -> str:
        """What is added to the scores, [texts, 1, 1, tokens]."""
        states = self.value
        seen = self._node("Cast", "attention_mask", to=TensorProto.FLOAT)
        missing = self._node("Sub", self._constant("one", np.float32(1)), seen)
        low = self._node("Mul", missing, self._constant("low", np.float32(-1e4)))
        hidden = self._node("Unsqueeze", low, self._constant("axes", np.array([1, 2])))
        self.value = states
        return hidden

    def _attend(self, at: str, hidden: str) -> None:
        states, shape = self.value, self._constant("split", np.array([0, 0, self.shape.heads, self.shape.width // self.shape.heads]))
        parts = {}
        for part in ("query", "key", "value"):
            split = self._node("Reshape", self._linear(f"{at}.{part}", states), shape)
            parts[part] = self._node("Transpose", split, perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3])
        size = self._constant("size", np.float32((self.shape.width / self.shape.heads) ** -0.5))
        scores = self._node("Add", self._node("Mul", self._node("MatMul", parts["query"], parts["key"]), size), hidden)
        mixed = self._node("MatMul", self._node("Softmax", scores, axis=-1), parts["value"])
        joined = self._constant("joined", np.array([0, 0, self.shape.width]))
        self._node("Reshape", self._node("Transpose", mixed, perm=[0, 2, 1, 3]), joined)

    def _linear(self, at: str, states: str) -> str:
        product = self._node("MatMul", states, self._constant(f"{at}.weight.T", self.tensors[f"{at}.weight"].T))
        return self._node("Add", product, self._weight(f"{at}.bias"))

    def _add_and_norm(self, other: str, at: str) -> None:
        self._node("Add", self.value, other)
        self._norm(at)

    def _norm(self, at: str) -> None:
        self._node("LayerNormalization", self.value, self._weight(f"{at}.weight"), self._weight(f"{at}.bias"), epsilon=self.shape.epsilon)

    def _weight(self, name: str) -> str:
        return self._constant(name, self.tensors[name])

    def _constant(self, name: str, array: Any) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array), name)
        return name

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        self.value = f"{operator}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [self.value], **attributes))
        return self.value
