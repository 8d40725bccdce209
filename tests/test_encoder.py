"""Models of many architectures in PyTorch: what is trained of them, and that it comes back as what is served."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ragstone import embedder, encoder
from ragstone.corpus.pairs import Pair
from ragstone.embedder import Embedder
from ragstone.recipe import Recipe
from ragstone.tune import Run
from tests.bases import base

TEXTS = ["how is the pump primed?", "the seal of the feed pump is flushed with water at 6 bar", "boiler"]
PAIRS = [
    Pair(f"what does valve {number} do?", f"chunk {number}", "valves.md", f"valve {number} cuts line {number * 7} off")
    for number in range(8)
]
RECIPE = Recipe(epochs=2, batch=4, query_tokens=16, document_tokens=24, interpolations=(1.0,), learning_rate=1e-3)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trained(source: Path, work: Path) -> Path:
    """The one candidate of a short run."""
    run = Run(source, PAIRS, RECIPE, work)
    run.optimise(lambda now: None)
    return run.candidates()[1.0]


def named(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "mpnet", "modernbert", "qwen3"])
def test_every_architecture_can_be_trained_and_is_then_served(tmp_path: Path, kind: str) -> None:
    source = base(tmp_path / "source", kind, dense=["torch.nn.modules.activation.Tanh"])
    tuned = trained(source, tmp_path / "work")
    before, after = named(source), named(tuned)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(moved) > 10
    assert not any("word_embeddings" in name or "embed_tokens" in name or "tok_embeddings" in name for name in moved)
    with torch.inference_mode():
        expected = encoder.open(tuned, torch.device("cpu")).encode(TEXTS, 128).numpy()
        start = encoder.open(tmp_path / "work/base", torch.device("cpu")).encode(TEXTS, 128).numpy()
    assert (Embedder(tuned).documents(TEXTS) * expected).sum(axis=1).min() > 0.99
    assert not np.allclose(start, expected, atol=1e-3)


@pytest.mark.parametrize(("kind", "head"), [("xlm-roberta", "roberta."), ("qwen3", "model.")])
def test_weights_saved_under_a_head_go_back_under_their_names(tmp_path: Path, kind: str, head: str) -> None:
    plain = base(tmp_path / "plain", kind)
    headed = base(tmp_path / "headed", kind)
    save_file({f"{head}{name}": tensor for name, tensor in named(plain).items()}, headed / "model.safetensors", metadata={"format": "pt"})
    one, other = trained(plain, tmp_path / "one"), trained(headed, tmp_path / "other")
    assert {name.removeprefix(head): tensor.shape for name, tensor in named(other).items()} == {
        name: tensor.shape for name, tensor in named(one).items()
    }
    assert all(torch.allclose(tensor, named(other)[f"{head}{name}"], atol=1e-6) for name, tensor in named(one).items())


def test_a_model_keeps_the_precision_that_it_was_published_in(tmp_path: Path) -> None:
    source = base(tmp_path / "source", "bert")
    save_file({name: tensor.bfloat16() for name, tensor in named(source).items()}, source / "model.safetensors", metadata={"format": "pt"})
    assert {tensor.dtype for tensor in named(trained(source, tmp_path / "work")).values()} == {torch.bfloat16}


def test_a_trained_candidate_keeps_the_bases_prefixes(tmp_path: Path) -> None:
    source = base(tmp_path / "source", "bert")
    embedder.place(source, tmp_path / "base", embedder.describe(source, name="e5", base="org/e5-small", document_prefix="read: "))
    card = embedder.read_card(trained(tmp_path / "base", tmp_path / "work"))
    assert (card.query_prefix, card.document_prefix) == ("query: ", "read: ")
    again = embedder.describe(tmp_path / "work/candidate-1", name="mine", base="mine")
    assert again == replace(card, name="mine", base="mine"), "a model of ours can be a base"


def test_a_text_among_longer_ones_is_what_it_is_alone(tmp_path: Path) -> None:
    """Padding has no part in a vector, whichever way the attention runs."""
    for kind, pooling in (("mpnet", "pooling_mode_mean_tokens"), ("qwen3", "pooling_mode_lasttoken")):
        source = base(tmp_path / kind / "source", kind, pooling=pooling)
        embedder.prepare(source, tmp_path / kind / "model", name=kind, base=kind)
        opened = encoder.open(tmp_path / kind / "model", torch.device("cpu"))
        with torch.inference_mode():
            together = opened.encode(TEXTS, 128)
            assert all(torch.allclose(opened.encode([text], 128)[0], row, atol=1e-5) for text, row in zip(TEXTS, together, strict=True))


def test_without_transformers_the_error_says_what_to_install(tmp_path: Path) -> None:
    embedder.prepare(base(tmp_path / "source", "qwen3"), tmp_path / "model", name="qwen3", base="qwen3")
    script = """
import sys
from pathlib import Path
from ragstone.embedder import Embedder
sys.modules["transformers"] = None
Embedder(Path(sys.argv[1]))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "a qwen3 model needs transformers" in done.stderr
    assert "pip install 'ragstone[transformers]'" in done.stderr
