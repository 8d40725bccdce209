"""ONNX Runtime on the CPU, int8: encoders of BERT's kind, without PyTorch. One text a call on each thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragstone.engine import Done, Vectors
from ragstone.errors import WeightsError
from ragstone.model import bert, dense
from ragstone.model.card import Card
from ragstone.model.tokens import tokenizer

FILE = "model.onnx"

SLAB = 1024
"""Texts handed to the threads at a time: bounds what waits in memory."""


class OnnxEngine:
    """A graph, loaded."""

    def __init__(self, folder: Path, card: Card, threads: int) -> None:
        self.threads, self.dimensions = threads, card.dimensions
        self._tokenizer = tokenizer(folder, card.max_tokens)
        self._session = _session(folder / FILE)

    def encode(self, texts: Sequence[str], done: Done) -> Vectors:
        """One text a call: see `bert` for why. It also saves the padding, and threads that share nothing scale best."""
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        if len(texts) == 1:
            vectors[0] = self._vector(texts[0])
            return vectors
        with ThreadPoolExecutor(self.threads, "embedder") as pool:
            for start in range(0, len(texts), SLAB):
                for row, vector in enumerate(pool.map(self._vector, texts[start : start + SLAB]), start):
                    vectors[row] = vector
                    done(row + 1)
        return vectors

    def tokens(self, text: str) -> int:
        """How many tokens of the text the model reads."""
        return len(self._tokenizer.encode(text).ids)

    def _vector(self, text: str) -> NDArray[np.float32]:
        ids = np.array([self._tokenizer.encode(text).ids], np.int32)
        vector: NDArray[np.float32] = self._session.run(None, {"ids": ids})[0][0]
        return vector


def build(folder: Path, card: Card) -> None:
    """Write the graph of the folder's weights."""
    layers = [dense.load(folder / layer) for layer in card.dense]
    (folder / FILE).write_bytes(bert.build(folder, card.pooling, layers))


def open(folder: Path, card: Card, threads: int) -> OnnxEngine:
    """The engine of a folder that has a graph."""
    return OnnxEngine(folder, card, threads)


def _session(path: Path) -> Any:
    """One thread a run: parallel runs share nothing, where threads inside a run wait for each other at every node."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the package raises a new class for each status
        raise WeightsError(f"can't run {path}: {error}", "ragstone up") from error
