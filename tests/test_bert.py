"""The graph that is built without torch, held against what PyTorch makes of the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ragstone import embedder, weights
from ragstone.embedder import Embedder, Vectors
from ragstone.errors import WeightsError
from ragstone.model import bert
from ragstone.model.architecture import buckets
from tests.tiny import tiny
from tests.topics import topics

QUESTIONS = ["How are keyword arguments passed to a function?", "yield", "", "naïve café 漢字"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("tiny"))


def edited(small: Path, target: Path, **config: object) -> Path:
    """A copy of the model with other settings in `config.json`."""
    shutil.copytree(small, target)
    values = json.loads((small / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**values, **config}))
    return target


def by_torch(folder: Path, texts: list[str], pooling: str) -> Vectors:
    """What Transformers computes in float32, pooled by hand."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    model = BertModel.from_pretrained(folder)
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    rows = []
    for text in texts:
        with torch.no_grad():
            states = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].numpy()
        row = states[0] if pooling == "cls" else states.mean(axis=0)
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, np.float32)


def test_the_graph_of_minilm_agrees_with_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    source = weights.pull("minilm")
    texts = [*QUESTIONS, *(chunk.context for chunk in topics()[:20])]
    theirs = SentenceTransformer(str(source), device="cpu").encode(texts, normalize_embeddings=True)
    embedder.prepare(source, tmp_path, name="minilm", base="minilm")
    cosines = (Embedder(tmp_path, threads=1).documents(texts) * theirs).sum(axis=1)
    assert cosines.mean() > 0.99
    assert cosines[len(QUESTIONS) :].min() > 0.985, "passages"
    assert cosines.min() > 0.97, "int8 costs most on a text of no or few words"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_both_poolings_agree_with_transformers(small: Path, tmp_path: Path, pooling: str) -> None:
    shutil.copytree(small, tmp_path / "model")
    embedder.finish(tmp_path / "model", embedder.Card("tiny", "tiny", 32, pooling=pooling, max_tokens=64))
    ours = Embedder(tmp_path / "model", threads=1).documents(QUESTIONS)
    assert (ours * by_torch(small, QUESTIONS, pooling)).sum(axis=1).min() > 0.98


def test_the_same_weights_give_the_same_bytes(small: Path) -> None:
    assert bert.build(small, "mean") == bert.build(small, "mean") != bert.build(small, "cls")


def test_weights_saved_under_a_head_are_the_same_model(small: Path, tmp_path: Path) -> None:
    folder = edited(small, tmp_path / "model")
    save_file({f"bert.{name}": tensor for name, tensor in load_file(small / "model.safetensors").items()}, folder / "model.safetensors")
    assert bert.build(folder, "mean") == bert.build(small, "mean")


def test_half_precision_weights_are_read(small: Path, tmp_path: Path) -> None:
    folder = edited(small, tmp_path / "model")
    halves = {name: tensor.astype(np.float16) for name, tensor in load_file(small / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors")
    assert len(bert.build(folder, "mean")) == len(bert.build(small, "mean"))


@pytest.mark.parametrize("setting", [{"model_type": "qwen3"}, {"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}])
def test_another_architecture_is_refused_by_name(small: Path, tmp_path: Path, setting: dict[str, str]) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(WeightsError, match=f"has {name} '{value}'"):
        bert.build(edited(small, tmp_path / "model", **setting), "mean")


def test_an_unknown_pooling_is_refused(small: Path) -> None:
    with pytest.raises(WeightsError, match="pools by 'max'"):
        bert.build(small, "max")


def test_a_missing_tensor_is_named(small: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no tensor 'encoder\.layer\.2\.attention"):
        bert.build(edited(small, tmp_path / "model", num_hidden_layers=3), "mean")


def test_a_bias_by_distance_is_cut_to_the_text() -> None:
    """MPNet's: near distances have a row each, far ones share, and the two sides are apart."""
    rows = buckets(200, 32)
    assert (rows[:50, :50] == buckets(50, 32)).all()
    assert (rows[10, 10], rows[17, 10], rows[10, 17]) == (0, 7, 23)
    assert (rows[199, 0], rows[0, 199], rows.max()) == (15, 31, 31)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_damaged_file_is_named(small: Path, tmp_path: Path, file: str, damage: str) -> None:
    folder = edited(small, tmp_path / "model")
    (folder / file).unlink()
    if damage == "garbage":
        (folder / file).write_bytes(b"\xff" * 64)
    with pytest.raises(WeightsError, match=file):
        bert.build(folder, "mean")
