"""What the encoders of BERT's kind have in common, and where they differ: one set of names and numbers for the graph and for training.

BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT and MPNet are one computation. They differ in what their settings and tensors are called,
in the position that a text starts at, and in MPNet's bias by distance. Everything is given under BERT's names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragstone.errors import WeightsError

DISTANCES = "encoder.relative_attention_bias.weight"
"""MPNet's table [buckets, heads]: what the distance of two tokens adds to their attention in every layer."""

FARTHEST = 128
"""Longer distances share MPNet's last bucket."""

HEADS = re.compile(r"^(bert|roberta|distilbert|mpnet)\.")
"""The prefix of weights that were saved under a head."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of one encoder, whatever its family calls them."""

    width: int
    layers: int
    heads: int
    epsilon: float
    dropout: float
    first: int
    """The row of the position table that the first token takes."""


@dataclass(frozen=True)
class _Family:
    """How a `model_type` calls what BERT has: settings, then parts of tensor names, each as (its own, BERT's)."""

    settings: Mapping[str, str]
    names: tuple[tuple[str, str], ...] = ()
    padded: bool = False
    """Positions start after the padding token's id."""


_BERT = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "activation": "hidden_act",
}
_DISTIL = {"width": "dim", "layers": "n_layers", "heads": "n_heads", "dropout": "dropout", "activation": "activation"}
_ROBERTA = _Family(_BERT, padded=True)
_FAMILIES = {
    "bert": _Family(_BERT),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _Family(
        _BERT,
        (
            ("attention.attn.q.", "attention.self.query."),
            ("attention.attn.k.", "attention.self.key."),
            ("attention.attn.v.", "attention.self.value."),
            ("attention.attn.o.", "attention.output.dense."),
            ("attention.LayerNorm.", "attention.output.LayerNorm."),
        ),
        padded=True,
    ),
    "distilbert": _Family(
        _DISTIL,
        (
            ("transformer.layer.", "encoder.layer."),
            ("attention.q_lin.", "attention.self.query."),
            ("attention.k_lin.", "attention.self.key."),
            ("attention.v_lin.", "attention.self.value."),
            ("attention.out_lin.", "attention.output.dense."),
            ("sa_layer_norm.", "attention.output.LayerNorm."),
            ("ffn.lin1.", "intermediate.dense."),
            ("ffn.lin2.", "output.dense."),
            ("output_layer_norm.", "output.LayerNorm."),
        ),
    ),
}


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a `config.json`. Raises `WeightsError` when it can't be read."""
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(f"can't read {path}: {error}") from error
    return config


def unknown(config: Mapping[str, Any]) -> str:
    """What of a model is not of BERT's kind, as `key 'value'`; empty when it is.

    >>> unknown({"model_type": "bert"}), unknown({"model_type": "qwen3"}), unknown({"model_type": "bert", "hidden_act": "relu"})
    ('', "model_type 'qwen3'", "hidden_act 'relu'")
    """
    kind = config.get("model_type", "bert")
    if kind not in _FAMILIES:
        return f"model_type {kind!r}"
    expected = {_FAMILIES[kind].settings["activation"]: "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    return next((f"{key} {config[key]!r}" for key, value in expected.items() if config.get(key, value) != value), "")


def read(config: Mapping[str, Any]) -> Architecture:
    """The architecture that `config.json` describes. Raises `KeyError` for a setting that it lacks."""
    family = _FAMILIES[config.get("model_type", "bert")]
    names = family.settings
    padding = 1 if config["model_type"] == "mpnet" else config.get("pad_token_id", 1)
    return Architecture(
        width=int(config[names["width"]]),
        layers=int(config[names["layers"]]),
        heads=int(config[names["heads"]]),
        epsilon=float(config[names["epsilon"]]) if "epsilon" in names else 1e-12,
        dropout=float(config.get(names["dropout"], 0.1)),
        first=int(padding) + 1 if family.padded else 0,
    )


def bert_name(name: str, config: Mapping[str, Any]) -> str:
    """What BERT calls the tensor that a weight file calls `name`.

    >>> bert_name("distilbert.transformer.layer.0.ffn.lin1.weight", {"model_type": "distilbert"})
    'encoder.layer.0.intermediate.dense.weight'
    """
    name = HEADS.sub("", name)
    for own, theirs in _FAMILIES[config.get("model_type", "bert")].names:
        name = name.replace(own, theirs)
    return name


def buckets(tokens: int, count: int) -> NDArray[np.int64]:
    """Which row of `DISTANCES` each pair of places takes, [tokens, tokens]: near ones have one each, far ones share; each side has half."""
    distance = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
    half, exact = count // 2, count // 4
    far = np.abs(distance).clip(exact).astype(np.float32)
    scaled = exact + (np.log(far / exact) / np.log(np.float32(FARTHEST / exact)) * (half - exact)).astype(np.int64)
    rows: NDArray[np.int64] = np.where(np.abs(distance) < exact, np.abs(distance), scaled.clip(max=half - 1))
    return rows + half * (distance < 0)
