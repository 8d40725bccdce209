"""An embedding model by digest: texts in, unit vectors out, by ONNX Runtime. No torch here.

A model folder holds `model.safetensors`, `tokenizer.json`, `config.json` (the weights), `card.json` (how to use them) and
`model.onnx` (what runs). `prepare` makes one from any folder in Sentence-Transformers' layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ragstone.index import Vectors


@dataclass(frozen=True)
class Card:
    """How a model is used: `card.json`. Everything but `name`, `base` and `lineage` changes its vectors, so it is part of the digest."""

    name: str
    base: str
    dimensions: int
    pooling: Literal["mean", "cls"] = "mean"
    max_tokens: int = 256
    query_prefix: str = ""
    document_prefix: str = ""
    lineage: Mapping[str, object] = field(default_factory=dict)


class Embedder:
    """A model folder, loaded. Safe to use from several threads; `threads` bounds the cores of one call, 0 takes all."""

    digest: str
    dimensions: int
    card: Card

    def __init__(self, folder: Path, digest: str = "", threads: int = 0) -> None:
        raise NotImplementedError

    def queries(self, texts: Sequence[str]) -> Vectors:
        """One unit vector for each question, float32 [n, dimensions]."""
        raise NotImplementedError

    def documents(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Vectors:
        """One unit vector for each passage, float32 [n, dimensions]. `progress` is told how many are done."""
        raise NotImplementedError


def prepare(weights: Path, target: Path, *, name: str, base: str, lineage: Mapping[str, object] = {}) -> str:
    """The digest of the complete model folder `target`, made from `weights` in Sentence-Transformers' layout (a base, or a trained candidate)."""
    raise NotImplementedError


def finish(folder: Path, card: Card) -> str:
    """The digest of `folder`, which has `model.safetensors`, `tokenizer.json` and `config.json` and gets `card.json` and `model.onnx`."""
    raise NotImplementedError


def digest(folder: Path) -> str:
    """SHA-256 over what the vectors depend on: weights, tokenizer, config, and the card's pooling, prefixes and max_tokens. Not the graph."""
    raise NotImplementedError
