"""Training runs and models that were spoilt on purpose: whatever a gate promotes, it must be none of these."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ragstone import embedder
from ragstone.corpus.pairs import Pair
from ragstone.train import Recipe

Run = tuple[list[Pair], Recipe]


def shuffled(pairs: Sequence[Pair], recipe: Recipe) -> Run:
    """Every question with the passage and the negatives of another."""
    others = random.Random(f"shuffled {recipe.seed}").sample(list(pairs), len(pairs))
    return [replace(other, question=pair.question) for pair, other in zip(pairs, others, strict=True)], recipe


def steep(pairs: Sequence[Pair], recipe: Recipe) -> Run:
    """Forty times the learning rate."""
    return list(pairs), replace(recipe, learning_rate=40 * recipe.learning_rate)


def salad(pairs: Sequence[Pair], recipe: Recipe) -> Run:
    """One epoch of questions that are the words of all questions in no order."""
    bag = [word for pair in pairs for word in pair.question.split()]
    draw = random.Random(f"salad {recipe.seed}")
    return [replace(pair, question=" ".join(draw.sample(bag, 8))) for pair in pairs], replace(recipe, epochs=1)


def backwards(pairs: Sequence[Pair], recipe: Recipe) -> Run:
    """The hard negative as the passage, and the passage as its negative; a teacher's scores in the reverse order."""
    turned = [replace(pair, positive=pair.negatives[0], negatives=(pair.positive, *pair.negatives[1:])) for pair in pairs if pair.negatives]
    return [replace(pair, chunk="") if not pair.scores else pair for pair in turned], recipe


RUNS: Mapping[str, Callable[[Sequence[Pair], Recipe], Run]] = {
    "shuffled labels": shuffled,
    "too high a learning rate": steep,
    "one epoch of noise": salad,
    "hard negatives as answers": backwards,
}


def noisy(base: Path, folder: Path, amount: float, seed: int = 5) -> Path:
    """A model folder: the base with noise on its weights, `amount` in units of each tensor's own spread."""
    shutil.copytree(base, folder)
    draw = np.random.default_rng(seed)
    found = load_file(base / "model.safetensors")
    save_file({name: _noise(value, amount, draw) for name, value in found.items()}, folder / "model.safetensors")
    embedder.finish(folder, replace(embedder.read_card(folder), name="noisy"))
    return folder


def _noise(value: NDArray[np.float32], amount: float, draw: np.random.Generator) -> NDArray[np.float32]:
    if value.dtype != np.float32:
        return value
    noise: NDArray[np.float32] = (amount * value.std() * draw.standard_normal(value.shape)).astype(np.float32)
    return value + noise
