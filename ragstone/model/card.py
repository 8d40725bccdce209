"""What a model folder says of its use: `card.json`, and the digest that names the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ragstone import terms
from ragstone.errors import WeightsError
from ragstone.model import dense
from ragstone.store import sha256

WEIGHTS = ("model.safetensors", "tokenizer.json", "config.json")
"""Without these three a folder is no model."""


@dataclass(frozen=True)
class Card:
    """How a model is used: `card.json`. `name`, `base` and `lineage` say where it comes from; the rest changes its vectors."""

    name: str
    base: str
    dimensions: int
    pooling: str = "mean"
    max_tokens: int = 256
    query_prefix: str = ""
    document_prefix: str = ""
    lineage: Mapping[str, object] = field(default_factory=dict)
    engine: str = "onnx"
    """What runs it: a module of `ragstone.engine`."""
    dense: tuple[str, ...] = ()
    """The folders of the layers after pooling, in order."""
    fusion: tuple[float, ...] = ()
    """`dense_weight` and `bigram_weight` that suit the questions people asked; none without labels."""


def read_card(folder: Path) -> Card:
    """The card of a model folder. Raises `WeightsError` when it has none or it can't be read."""
    try:
        values = json.loads((folder / "card.json").read_bytes())
        return Card(**{**values, **{name: tuple(values.get(name, ())) for name in ("dense", "fusion")}})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{folder} has no card.json that can be read: {error}", "ragstone up") from error


def write(folder: Path, card: Card) -> None:
    """Put the card into its folder."""
    (folder / "card.json").write_text(json.dumps(asdict(card), indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def digest(folder: Path, card: Card, *, whole: bool = True) -> str:
    """SHA-256 over what a search depends on: the weights, the term space, and what the card says of use. Not the graph.

    Unless `whole`, over what the encoder's own vectors depend on: without the term space and the fusion.
    """
    space = [terms.FILE] if whole and (folder / terms.FILE).is_file() else []
    files = [*WEIGHTS, *space, *(f"{layer}/{file}" for layer in card.dense for file in dense.FILES)]
    parts = {file: sha256(folder / file) for file in files}
    use = [card.pooling, card.max_tokens, card.query_prefix, card.document_prefix, *card.dense, *(card.fusion if whole else ())]
    return hashlib.sha256(json.dumps([parts, use], sort_keys=True).encode()).hexdigest()
