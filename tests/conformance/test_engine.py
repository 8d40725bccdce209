"""The contract of an engine, held against every engine, and each architecture against Sentence-Transformers over the same folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from ragstone import embedder, encoder
from ragstone.connect import built_in
from ragstone.embedder import Embedder, Vectors
from ragstone.errors import ConfigError, WeightsError
from tests.bases import GRAPHED, OTHERS, base, static

TEXTS = ["a pump", "the seal of the feed pump is flushed with water at 6 bar", "", "漢字 and £", "word " * 300]
TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
MAKERS: dict[str, Callable[[Path], Path]] = {
    "onnx": lambda folder: base(folder, "bert"),
    "transformers": lambda folder: base(folder, "qwen3", pooling="pooling_mode_lasttoken"),
    "static": static,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=sorted(MAKERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model folder that the engine runs."""
    at = tmp_path_factory.mktemp(request.param)
    embedder.prepare(MAKERS[request.param](at / "source"), at / "model", name="narrow", base="narrow")
    assert embedder.read_card(at / "model").engine == request.param
    return at / "model"


@pytest.fixture(scope="module")
def model(folder: Path) -> Embedder:
    return Embedder(folder, threads=2)


def theirs(folder: Path, texts: list[str], prompt: str = "document") -> Vectors:
    """What Sentence-Transformers makes of a folder."""
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(str(folder), device="cpu")
    encode = other.encode_query if prompt == "query" else other.encode_document
    return np.asarray(encode(texts, normalize_embeddings=True), np.float32)


def nearest(ours: Vectors, others: Vectors) -> float:
    return float((ours * others).sum(axis=1).min())


def test_every_engine_is_here() -> None:
    assert sorted(MAKERS) == built_in("engine")


def test_vectors_have_length_one_whatever_the_text(model: Embedder) -> None:
    vectors = model.documents(TEXTS)
    assert vectors.shape == (len(TEXTS), model.dimensions)
    assert vectors.dtype == np.dtype(np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_texts_are_no_vectors(model: Embedder) -> None:
    assert model.documents([]).shape == (0, model.dimensions)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs batches, in which vectors differ by rounding")
def test_a_text_has_the_same_vector_alone_and_among_others(model: Embedder) -> None:
    together = model.documents(TEXTS)
    assert all((model.documents([text])[0] == row).all() for text, row in zip(TEXTS, together, strict=True))


def test_calls_from_several_threads_do_not_disturb_each_other(model: Embedder) -> None:
    expected = model.documents(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.allclose(vectors, expected, atol=1e-6) for vectors in pool.map(model.documents, [TEXTS] * 4))


def test_progress_ends_with_every_text(model: Embedder) -> None:
    seen: list[int] = []
    model.documents(TEXTS, seen.append)
    assert seen[-1] == len(TEXTS)
    assert seen == sorted(seen)


def test_tokens_are_counted_as_they_are_read(model: Embedder) -> None:
    assert model.tokens("a pump") < model.tokens(TEXTS[1])
    assert model.tokens("word " * 300) == min(300, model.card.max_tokens)


def test_sentence_transformers_gives_the_same_vectors(folder: Path, model: Embedder) -> None:
    texts = [text for text in TEXTS if text]  # of no tokens, Sentence-Transformers makes a static vector of length 0
    assert nearest(model.documents(texts), theirs(folder, texts)) > (0.99 if model.card.engine == "onnx" else 0.9999)


@pytest.mark.parametrize("kind", sorted({*GRAPHED, *OTHERS}))
@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "lasttoken"])
def test_every_architecture_and_pooling_agrees_with_sentence_transformers(tmp_path: Path, kind: str, pooling: str) -> None:
    """Served, in int8 where there is a graph; and in PyTorch, as it is trained."""
    layers = [TANH, IDENTITY] if pooling == "cls_token" else []
    source = base(tmp_path / "source", kind, pooling=f"pooling_mode_{pooling}", dense=layers)
    embedder.prepare(source, tmp_path / "model", name=kind, base=kind)
    expected = theirs(source, TEXTS)
    assert (expected @ expected.T).min() < 0.9 or (kind, pooling) == ("qwen3", "cls_token"), "else any vector would do"
    served = Embedder(tmp_path / "model", threads=1)
    assert served.card.engine == ("onnx" if kind in GRAPHED else "transformers")
    assert nearest(served.documents(TEXTS), expected) > (0.99 if kind in GRAPHED else 0.9999)
    with torch.inference_mode():
        assert nearest(encoder.open(tmp_path / "model", torch.device("cpu")).encode(TEXTS, 128).numpy(), expected) > 0.9999


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_questions_and_passages_get_the_folders_own_prompts(tmp_path: Path, kind: str) -> None:
    source = base(tmp_path / "source", kind, prompts={"query": "Instruct: find it\nQuery:", "document": "passage: "})
    embedder.prepare(source, tmp_path / "model", name=kind, base=kind)
    model = Embedder(tmp_path / "model", threads=1)
    assert nearest(model.queries(TEXTS), theirs(source, TEXTS, "query")) > 0.99
    assert nearest(model.documents(TEXTS), theirs(source, TEXTS)) > 0.99


def test_weights_in_several_files_of_bfloat16_are_one_model(tmp_path: Path) -> None:
    from transformers import AutoModel

    source = base(tmp_path / "source", "bert")
    (source / "model.safetensors").unlink()
    whole = AutoModel.from_pretrained(base(tmp_path / "whole", "bert"), dtype=torch.bfloat16)
    whole.save_pretrained(source, max_shard_size="1MB")
    assert (source / "model.safetensors.index.json").is_file()
    embedder.prepare(source, tmp_path / "model", name="bert", base="bert")
    assert nearest(Embedder(tmp_path / "model").documents(TEXTS), theirs(source, TEXTS)) > 0.99


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    source = base(tmp_path / "source", "bert")
    config = json.loads((source / "config.json").read_text())
    custom = {**config, "model_type": "homemade", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (source / "config.json").write_text(json.dumps(custom))
    (source / "code.py").write_text("raise SystemExit('this ran')")
    embedder.prepare(source, tmp_path / "model", name="own", base="own")
    assert not (tmp_path / "model/code.py").exists()
    with pytest.raises(WeightsError, match="transformers can't load"):
        Embedder(tmp_path / "model")


def test_an_engine_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    card = json.loads((folder / "card.json").read_text())
    (tmp_path / "model/card.json").write_text(json.dumps({**card, "engine": "abacus"}))
    with pytest.raises(ConfigError, match="no engine connector for 'abacus': there is onnx, static, transformers"):
        Embedder(tmp_path / "model")
