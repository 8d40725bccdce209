"""How a folder is used, by its own files and by its family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ragstone.errors import WeightsError
from ragstone.model import layout
from ragstone.model.card import Card
from tests.bases import base, put, static


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base(tmp_path_factory.mktemp("base") / "source", "xlm-roberta")


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """A copy whose files a test may change; the weights are linked."""
    for path in source.rglob("*"):
        if path.is_file():
            target = tmp_path / "copy" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".safetensors":
                target.symlink_to(path)
            else:
                target.write_bytes(path.read_bytes())
    return tmp_path / "copy"


def described(folder: Path, name: str = "model") -> Card:
    return layout.describe(folder, Card(name, name, 0))


FAMILY_PREFIXES = [
    ("hub://intfloat/e5-small-v2", "query: ", "passage: "),
    ("intfloat/multilingual-e5-base", "query: ", "passage: "),
    ("intfloat/multilingual-e5-large-instruct", "Instruct: Given", ""),
    ("/models/bge-small-en-v1.5/", "Represent this sentence", ""),
    ("hub://BAAI/bge-base-zh-v1.5@main", "为这个句子", ""),
    ("BAAI/bge-m3", "", ""),
    ("Qwen/Qwen3-Embedding-0.6B", "Instruct: Given", ""),
    ("nomic-ai/modernbert-embed-base", "search_query: ", "search_document: "),
    ("thenlper/gte-small", "", ""),
    ("minilm", "", ""),
    ("/home/e5-fan/some-model", "", ""),
]


@pytest.mark.parametrize(("name", "query", "document"), FAMILY_PREFIXES)
def test_a_family_knows_what_goes_before_questions_and_passages(folder: Path, name: str, query: str, document: str) -> None:
    card = described(folder, name)
    assert card.query_prefix.startswith(query) if query else not card.query_prefix
    assert card.document_prefix == document


def test_the_folders_own_prompts_count_before_the_familys(folder: Path) -> None:
    put(folder / "config_sentence_transformers.json", {"prompts": {"query": "ask: ", "passage": "read: "}})
    card = described(folder, "org/e5-small")
    assert (card.query_prefix, card.document_prefix) == ("ask: ", "read: ")


def test_empty_prompts_say_nothing(folder: Path) -> None:
    """The library writes them into every folder that it saves."""
    put(folder / "config_sentence_transformers.json", {"prompts": {"query": "", "document": ""}})
    assert described(folder, "org/e5-small").query_prefix == "query: "


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"word_embedding_dimension": 64}, "mean"),
    ],
)
def test_pooling_is_read_in_every_spelling(folder: Path, config: dict[str, object], pooling: str) -> None:
    put(folder / "1_Pooling/config.json", config)
    assert described(folder).pooling == pooling


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "cls.*mean"),
        ({"pooling_mode": "mean", "include_prompt": False}, "mean without its prompt"),
    ],
)
def test_another_pooling_is_refused_by_name(folder: Path, config: dict[str, object], named: str) -> None:
    put(folder / "1_Pooling/config.json", config)
    with pytest.raises(WeightsError, match=f"pools by .*{named}"):
        described(folder)


def test_a_folder_without_modules_is_pooled_as_its_family_is(folder: Path) -> None:
    (folder / "modules.json").unlink()
    (folder / "1_Pooling/config.json").unlink()
    assert described(folder).pooling == "mean"
    assert described(folder, "Qwen3-Embedding-0.6B").pooling == "last"


def test_a_text_is_no_longer_than_there_are_positions(folder: Path) -> None:
    """XLM-RoBERTa's begin after the padding token: 130 rows, 128 tokens."""
    put(folder / "tokenizer_config.json", {"model_max_length": 10**30})
    assert described(folder).max_tokens == 128
    put(folder / "sentence_bert_config.json", {"max_seq_length": 100})
    assert described(folder).max_tokens == 100


def test_without_a_normalise_module_a_cosine_model_is_the_same(folder: Path, tmp_path: Path) -> None:
    bare = base(tmp_path / "bare", "xlm-roberta", normalise=False)
    assert replace(described(bare), lineage={}) == described(folder)


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_a_model_for_which_length_counts_is_refused(tmp_path: Path, similarity: str) -> None:
    bare = base(tmp_path / "bare", "bert", normalise=False)
    put(bare / "config_sentence_transformers.json", {"similarity_fn_name": similarity})
    with pytest.raises(WeightsError, match=f"ranks by {similarity}"):
        described(bare)


def test_a_module_that_does_not_run_here_is_named(folder: Path) -> None:
    put(folder / "modules.json", [{"path": "", "type": "sentence_transformers.models.CNN"}])
    with pytest.raises(WeightsError, match="a module CNN"):
        described(folder)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/b"])
def test_a_module_lies_in_the_folder(folder: Path, path: str) -> None:
    put(folder / "modules.json", [{"path": path, "type": "Dense"}])
    with pytest.raises(WeightsError, match="has the path"):
        described(folder)


@pytest.mark.parametrize(
    ("config", "named"), [({"activation_function": "torch.nn.modules.activation.GELU"}, "GELU"), ({"use_residual": True}, "a residual")]
)
def test_a_dense_layer_that_does_not_run_here_is_named(tmp_path: Path, config: dict[str, object], named: str) -> None:
    folder = base(tmp_path / "dense", "bert", dense=["torch.nn.modules.linear.Identity"])
    put(folder / "2_Dense/config.json", config)
    with pytest.raises(WeightsError, match=named):
        described(folder)


def test_a_static_model_has_no_limit(tmp_path: Path) -> None:
    card = described(static(tmp_path / "static"))
    assert (card.engine, card.dimensions, card.max_tokens) == ("static", 64, layout.ENDLESS)


def test_a_file_that_is_no_json_is_named(folder: Path) -> None:
    (folder / "modules.json").write_text("{")
    with pytest.raises(WeightsError, match=r"modules\.json is not JSON"):
        described(folder)
