"""A term space: what the words of a corpus mean in it, learned from which of them stand together (latent semantic analysis).

A transformer knows the world's words and reads a trade's own as pieces of others. The term space knows nothing but the corpus, and is
learned from it in seconds, without labels. Both vectors of a text, joined and turned into as many dimensions as the transformer has
(the main axes of the corpus), find what neither finds alone: `docs/train.md` has the figures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragstone.analyser import Analyser
from ragstone.errors import WeightsError

FILE = "terms.safetensors"
DIMENSIONS = 256
"""Of the term space. 128 lost on the largest corpora measured, 384 won nothing and take half as much again."""
WEIGHT = 0.25
"""How much the term space's cosine counts beside the transformer's 1. Dense search alone gains up to 0.5; the retriever as a whole, which
has keywords besides, loses from 0.35 on."""
KEEP = 5e-4
"""What each axis of the transformer is credited with beyond its share of the corpus' spread, lest the turn drop what other texts need.

Of 0.76 nDCG@10 on general language 0 kept 0.65 to 0.71, this 0.72 to 0.75, 0.001 0.74 to 0.75; dense search lost .004 and .011 for it.
"""
MAX_TERMS = 50_000
"""The most frequent terms of a larger corpus: 25 MB."""

Floats = NDArray[np.float32]
Counts = Sequence[Counter[str]]


@dataclass(frozen=True)
class Terms:
    """A term space and the turn that joins it to a transformer's vectors."""

    words: tuple[str, ...]
    vectors: NDArray[np.float16]
    """One row a word, [words, dimensions of the space]; its length is the word's rarity."""
    turn: Floats
    """[dimensions of the transformer + of the space, dimensions of the transformer]: an orthonormal column for each main axis."""

    def join(self, dense: Floats, texts: Sequence[str]) -> Floats:
        """Unit vectors [n, dimensions of the transformer] from the transformer's and the texts themselves."""
        turned: Floats = np.hstack([dense, math.sqrt(WEIGHT) * self.encode(texts)]) @ self.turn
        unit: Floats = turned / np.linalg.norm(turned, axis=1, keepdims=True)
        return unit

    def encode(self, texts: Sequence[str]) -> Floats:
        """The texts in the term space, [n, dimensions of the space]: unit rows, or zeros for a text without a known word."""
        found = np.stack([self._sum(counts) for counts in count(texts)])
        unit: Floats = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
        return unit

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        words = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        save_file({"words": words, "vectors": self.vectors, "turn": self.turn}, folder / FILE)

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {word: row for row, word in enumerate(self.words)}

    @cached_property
    def _analyser(self) -> Analyser:
        return Analyser()

    def _sum(self, counts: Counter[str]) -> Floats:
        known = {row: times for word, times in counts.items() if (row := self._rows.get(word)) is not None}
        total: Floats = np.log1p(np.array([*known.values()], np.float32)) @ self.vectors[[*known]].astype(np.float32)
        return total


def load(folder: Path) -> Terms | None:
    """The term space of a model folder; None when it has none. Raises `WeightsError` when it can't be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (folder / FILE).is_file():
        return None
    try:
        parts = load_file(folder / FILE)
        return Terms(tuple(parts["words"].tobytes().decode().split("\n")), parts["vectors"], parts["turn"])
    except (OSError, SafetensorError, KeyError, UnicodeDecodeError) as error:
        raise WeightsError(f"can't read {folder / FILE}: {error}", "ragstone train") from error


def learn(texts: Sequence[str], dense: Floats, seed: int = 17) -> Terms | None:
    """The term space of a corpus, joined to a transformer whose vectors of the first texts are `dense`, [n, dimensions].

    A thousand of those are enough, if the order of the texts is none. None when the texts share too few words.
    """
    counted = count(texts)
    having = Counter(word for counts in counted for word in counts)
    words = tuple(sorted(word for word, texts in having.most_common(MAX_TERMS) if texts > 1))
    dimensions = min(DIMENSIONS, len(texts) // 4, len(words) // 4)
    if dimensions < 2:
        return None
    rarity = np.array([math.log1p((len(texts) - having[word] + 0.5) / (having[word] + 0.5)) for word in words], np.float32)
    axes = _axes(counted, {word: row for row, word in enumerate(words)}, rarity, dimensions, seed)
    vectors = (rarity[:, None] * axes).astype(np.float16)
    space = Terms(words, vectors, np.zeros((0, 0), np.float32)).encode(texts[: len(dense)])
    return Terms(words, vectors, _turn(np.hstack([dense, math.sqrt(WEIGHT) * space]), dense.shape[1]))


def count(texts: Sequence[str]) -> list[Counter[str]]:
    """Each text's stems, and how often each stands in it."""
    reader = Analyser()
    return [Counter(reader.analyze(text)) for text in texts]


def _axes(counted: Counts, rows: Mapping[str, int], rarity: Floats, dimensions: int, seed: int) -> Floats:
    """The first right singular vectors of the matrix of texts and words, [words, dimensions].

    An entry is log(1 + count) x rarity; each text's row has length 1.
    """
    import torch

    places, values = [], []
    for text, counts in enumerate(counted):
        known = {rows[word]: math.log1p(times) * float(rarity[rows[word]]) for word, times in counts.items() if word in rows}
        length = math.sqrt(sum(value * value for value in known.values())) or 1.0
        places += [(text, row) for row in known]
        values += [value / length for value in known.values()]
    shape = (len(counted), len(rows))
    matrix = torch.sparse_coo_tensor(torch.tensor(places).T, torch.tensor(values), shape, check_invariants=True).coalesce()
    torch.manual_seed(seed)
    found: Floats = torch.svd_lowrank(matrix, q=min(dimensions + 32, *matrix.shape), niter=4)[2][:, :dimensions].numpy()
    return found


def _turn(joined: Floats, dimensions: int) -> Floats:
    """The main axes of the joined vectors, as columns, the widest first; the transformer's own are preferred a little."""
    spread = joined.T.astype(np.float64) @ joined
    spread[np.diag_indices(dimensions)] += KEEP * len(joined)
    _, axes = np.linalg.eigh(spread)
    found: Floats = np.ascontiguousarray(axes[:, ::-1][:, :dimensions], np.float32)
    return found
