"""An embedding model by digest: texts in, unit vectors out, by ONNX Runtime. No torch here.

A model folder holds `model.safetensors`, `tokenizer.json`, `config.json` (the weights), `card.json` (how to use them),
`model.onnx` (what runs) and, when it was trained on a corpus, `terms.safetensors` (its term space). `prepare` makes one from any folder in
Sentence-Transformers' layout; the result loads there too, without the term space.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragstone import bert, terms
from ragstone.errors import WeightsError
from ragstone.store import sha256

Vectors = NDArray[np.float32]
"""Shape [n, dimensions], each row of length 1."""

WEIGHTS = ("model.safetensors", "tokenizer.json", "config.json")
"""Without these three a folder is no model."""

LAYOUT = (
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    terms.FILE,
)
"""What Sentence-Transformers reads besides, and the term space, which it does not know; copied where they are there."""

SLAB = 1024
"""Passages handed to the threads at a time: bounds what waits in memory."""


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


class Embedder:
    """A model folder, loaded. Safe to use from several threads; `threads` bounds the cores of one call, 0 takes all."""

    def __init__(self, folder: Path, digest: str = "", threads: int = 0) -> None:
        self.folder = folder
        self.card = read_card(folder)
        self.digest = digest or globals()["digest"](folder)
        self.dimensions = self.card.dimensions
        self.threads = threads or os.cpu_count() or 1
        self._tokenizer = _tokenizer(folder / "tokenizer.json", self.card.max_tokens)
        self._session = _session(folder / "model.onnx")
        self._terms = terms.load(folder)

    @property
    def has_terms(self) -> bool:
        """Whether a term space is part of it."""
        return self._terms is not None

    @cached_property
    def encoder(self) -> str:
        """The digest of the transformer alone: models that differ in their term space share it."""
        return _digest(self.folder, WEIGHTS)

    def queries(self, texts: Sequence[str]) -> Vectors:
        """One unit vector for each question, float32 [n, dimensions]."""
        return self.joined(self._encode(self.card.query_prefix, texts, None), texts)

    def documents(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Vectors:
        """One unit vector for each passage, float32 [n, dimensions]. `progress` is told how many are done."""
        return self.joined(self._encode(self.card.document_prefix, texts, progress), texts)

    def passages(self, views: Sequence[Sequence[str]], progress: Callable[[int], None] | None = None) -> Vectors:
        """One unit vector for each passage from its views, the whole and then its windows: half the whole, half the windows' mean.

        It found as much as the best of the whole and of each window does, which takes a vector for every view. `progress` is told how
        many views are done.
        """
        return self.joined(self.plain(views, progress), [each[0] for each in views])

    def plain(self, views: Sequence[Sequence[str]], progress: Callable[[int], None] | None = None) -> Vectors:
        """The passages without the term space: equal for all models of one `encoder`."""
        vectors = np.empty((len(views), self.dimensions), np.float32)
        done = 0
        for start in range(0, len(views), SLAB):
            slab = views[start : start + SLAB]
            encoded = self._encode(self.card.document_prefix, [view for each in slab for view in each], _after(done, progress))
            ends = np.cumsum([len(each) for each in slab])
            vectors[start : start + SLAB] = np.stack([_merged(rows) for rows in np.split(encoded, ends[:-1])])
            done += int(ends[-1])
        return vectors

    def joined(self, plain: Vectors, texts: Sequence[str]) -> Vectors:
        """Plain vectors with what the term space says of their texts, if the model has one."""
        return self._terms.join(plain, texts) if self._terms and len(texts) else plain

    def tokens(self, text: str) -> int:
        """How many tokens of the text the model reads: at most `card.max_tokens`."""
        return len(self._tokenizer.encode(text).ids)

    def _encode(self, prefix: str, texts: Sequence[str], progress: Callable[[int], None] | None) -> Vectors:
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        if len(texts) == 1:
            vectors[0] = self._vector(prefix + texts[0])
            return vectors
        with ThreadPoolExecutor(self.threads, "embedder") as pool:
            for start in range(0, len(texts), SLAB):
                slab = [prefix + text for text in texts[start : start + SLAB]]
                for row, vector in enumerate(pool.map(self._vector, slab), start):
                    vectors[row] = vector
                    if progress:
                        progress(row + 1)
        return vectors

    def _vector(self, text: str) -> NDArray[np.float32]:
        """One text a call: see `bert` for why. It also saves the padding, and threads that share nothing scale best."""
        ids = np.array([self._tokenizer.encode(text).ids], np.int32)
        vector: NDArray[np.float32] = self._session.run(None, {"ids": ids})[0][0]
        return vector


def _after(done: int, progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """The same progress, for one that starts when so many are done."""
    return (lambda now: progress(done + now)) if progress else None


def _merged(rows: Vectors) -> NDArray[np.float32]:
    """The vector of a passage from those of its views."""
    vector: NDArray[np.float32] = rows[0]
    if len(rows) > 1:
        windows = rows[1:].sum(axis=0)
        vector = vector + windows / np.linalg.norm(windows)
        vector /= np.linalg.norm(vector)
    return vector


def prepare(weights: Path, target: Path, *, name: str, base: str, lineage: Mapping[str, object] | None = None) -> str:
    """The digest of `target`, made a whole model folder from `weights`: a base or a trained candidate in Sentence-Transformers' layout.

    Raises `WeightsError` when a file is missing or the model is not one that runs here.
    """
    for file in (*WEIGHTS, *LAYOUT):
        if (weights / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(weights / file, target / file)
        elif file in WEIGHTS:
            raise WeightsError(f"{weights} has no {file}", "ragstone models list")
    return finish(target, _described(weights, Card(name=name, base=base, dimensions=0, lineage=lineage or {})))


def finish(folder: Path, card: Card) -> str:
    """The digest of `folder`, which has the three weight files and gets `card.json` and `model.onnx`."""
    (folder / "model.onnx").write_bytes(bert.build(folder, card.pooling))
    (folder / "card.json").write_text(json.dumps(asdict(card), indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    return digest(folder)


def digest(folder: Path) -> str:
    """SHA-256 over what the vectors depend on: weights, term space, the card's pooling, prefixes and max_tokens. Not the graph."""
    return _digest(folder, (*WEIGHTS, terms.FILE) if (folder / terms.FILE).is_file() else WEIGHTS)


def _digest(folder: Path, files: Sequence[str]) -> str:
    card = read_card(folder)
    parts = {file: sha256(folder / file) for file in files}
    use = [card.pooling, card.max_tokens, card.query_prefix, card.document_prefix]
    return hashlib.sha256(json.dumps([parts, use], sort_keys=True).encode()).hexdigest()


def read_card(folder: Path) -> Card:
    """The card of a model folder. Raises `WeightsError` when it has none or it can't be read."""
    try:
        return Card(**json.loads((folder / "card.json").read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{folder} has no card.json that can be read: {error}", "ragstone up") from error


def _described(weights: Path, card: Card) -> Card:
    """The card with what Sentence-Transformers' own files say of pooling, length, size and prompts."""
    config, pooling = _json(weights / "config.json"), _json(weights / "1_Pooling/config.json")
    limit = _json(weights / "sentence_bert_config.json").get("max_seq_length") or config.get("max_position_embeddings", 512)
    prompts = _json(weights / "config_sentence_transformers.json").get("prompts") or {}
    return Card(
        name=card.name,
        base=card.base,
        dimensions=int(config.get("hidden_size", 0)),
        pooling="cls" if pooling.get("pooling_mode_cls_token") else "mean",
        max_tokens=int(limit),
        query_prefix=prompts.get("query") or "",
        document_prefix=prompts.get("document") or "",
        lineage=card.lineage,
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a file of the layout, or an empty one when there is no such file."""
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON: {error}") from error
    return values


def _tokenizer(path: Path, max_tokens: int) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise WeightsError(f"can't read {path}: {error}", "ragstone up") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


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
