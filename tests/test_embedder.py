"""A model by digest: what its vectors depend on, and what they do not."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ragstone import embedder
from ragstone.embedder import Embedder
from ragstone.engine import onnx
from ragstone.errors import WeightsError
from tests.bases import base
from tests.tiny import tiny

TEXTS = ["a pump", "the seal of the feed pump is flushed with water at 6 bar", "", "漢字 and £", "word " * 500]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Embedder:
    return Embedder(folder, threads=2)


def changed(folder: Path, target: Path, **card: object) -> Path:
    """A copy of the model whose card says something else."""
    shutil.copytree(folder, target)
    (target / "card.json").write_text(json.dumps({**json.loads((folder / "card.json").read_text()), **card}))
    return target


def test_vectors_have_length_one_whatever_the_text(model: Embedder) -> None:
    vectors = model.documents(TEXTS)
    assert vectors.shape == (5, model.dimensions)
    assert vectors.dtype == np.dtype(np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_texts_are_no_vectors(model: Embedder) -> None:
    assert model.documents([]).shape == model.queries([]).shape == (0, model.dimensions)


def test_a_text_has_the_same_vector_alone_and_among_others(model: Embedder) -> None:
    together = model.documents(TEXTS)
    assert all((model.documents([text])[0] == row).all() for text, row in zip(TEXTS, together, strict=True))


def test_the_number_of_threads_changes_no_vector(folder: Path, model: Embedder) -> None:
    assert (Embedder(folder, threads=1).documents(TEXTS) == model.documents(TEXTS)).all()


def test_calls_from_several_threads_do_not_disturb_each_other(model: Embedder) -> None:
    expected = model.documents(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        assert all((vectors == expected).all() for vectors in pool.map(model.documents, [TEXTS] * 8))


def test_progress_counts_every_passage_in_order(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "SLAB", 2)
    seen: list[int] = []
    model.documents(TEXTS, seen.append)
    assert seen == [1, 2, 3, 4, 5]


def test_a_long_text_is_read_up_to_max_tokens(model: Embedder) -> None:
    assert model.tokens("word " * 500) == model.card.max_tokens == 64
    assert (model.documents(["word " * 500]) == model.documents(["word " * 90])).all()


def test_questions_and_passages_get_their_prefixes(folder: Path, model: Embedder, tmp_path: Path) -> None:
    prefixed = Embedder(changed(folder, tmp_path / "model", query_prefix="query: ", document_prefix="passage: "), threads=1)
    assert (prefixed.queries(["a pump"]) == model.queries(["query: a pump"])).all()
    assert (prefixed.documents(["a pump"]) == model.documents(["passage: a pump"])).all()


def test_the_digest_is_that_of_what_changes_vectors(folder: Path, tmp_path: Path) -> None:
    same = changed(folder, tmp_path / "renamed", name="other", lineage={"pairs": 3})
    (same / "model.onnx").write_bytes(b"another build of the graph")
    assert embedder.digest(same) == embedder.digest(folder) == Embedder(folder).digest
    for key, value in {"pooling": "cls", "max_tokens": 32, "query_prefix": "q: ", "document_prefix": "d: "}.items():
        assert embedder.digest(changed(folder, tmp_path / key, **{key: value})) != embedder.digest(folder)


@pytest.mark.parametrize("file", embedder.WEIGHTS)
def test_each_weight_file_is_in_the_digest(folder: Path, tmp_path: Path, file: str) -> None:
    other = changed(folder, tmp_path / "model")
    with (other / file).open("ab") as end:
        end.write(b" ")
    assert embedder.digest(other) != embedder.digest(folder)


def test_a_prepared_folder_describes_itself_by_the_layout_files(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder.parent / "source", source)
    (source / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    (source / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: ", "document": "d: "}}')
    digest = embedder.prepare(source, tmp_path / "model", name="mine", base="theirs", lineage={"run": 1})
    card = embedder.read_card(tmp_path / "model")
    assert card == embedder.Card("mine", "theirs", 32, "cls", 64, "q: ", "d: ", {"run": 1})
    assert digest == embedder.digest(tmp_path / "model")
    assert (tmp_path / "model/1_Pooling/config.json").is_file()


def test_a_folder_without_a_weight_file_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder.parent / "source", source)
    (source / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match=r"has no tokenizer\.json"):
        embedder.prepare(source, tmp_path / "model", name="mine", base="mine")


def test_a_prefix_that_is_given_counts_instead_of_the_folders(folder: Path) -> None:
    source = folder.parent / "source"
    described = embedder.describe(source, name="mine", base="org/e5-small", query_prefix="")
    assert (described.query_prefix, described.document_prefix) == ("", "passage: ")


def test_the_layers_after_pooling_are_in_the_digest(tmp_path: Path) -> None:
    source = base(tmp_path / "source", "bert", dense=["torch.nn.modules.linear.Identity"])
    digest = embedder.prepare(source, tmp_path / "model", name="mine", base="mine")
    with (tmp_path / "model/2_Dense/model.safetensors").open("ab") as end:
        end.write(b" ")
    assert embedder.digest(tmp_path / "model") != digest


@pytest.mark.parametrize("file", ["card.json", "tokenizer.json", "model.onnx"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_damaged_model_is_an_error_that_names_the_file(folder: Path, tmp_path: Path, file: str, damage: str) -> None:
    broken = changed(folder, tmp_path / "model")
    (broken / file).unlink()
    if damage == "garbage":
        (broken / file).write_bytes(b"\xff{")
    with pytest.raises(WeightsError, match=file):
        Embedder(broken, digest="given")


def test_a_finished_folder_needs_no_layout_files(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in embedder.WEIGHTS:
        shutil.copyfile(folder / file, bare / file)
    card = replace(embedder.read_card(folder), name="tuned")
    assert embedder.finish(bare, card) == embedder.digest(folder)
    assert embedder.read_card(bare) == card
