"""How a folder in Sentence-Transformers' layout is used, by its own files; what they leave out, a table of model families knows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ragstone import terms
from ragstone.errors import WeightsError
from ragstone.model import architecture, dense
from ragstone.model.card import WEIGHTS, Card
from ragstone.model.tensors import load

FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    terms.FILE,
)
"""What Sentence-Transformers reads besides the weights, and the term space, which it does not know; copied where they are there, as is the
folder of each module."""

UNLISTED = ({"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "1_Pooling"})
"""The modules of a folder without `modules.json`."""

POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
"""Its names of the poolings that run here, and ours."""

FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How older folders spell `pooling_mode`."""

ENDLESS = 1_000_000
"""The limit of a model that has none: static embeddings, and tokenizers whose file says none."""

ASKED = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@dataclass(frozen=True)
class Family:
    """What the authors of a family of models say of their use and their files often don't. `name` is searched in the model's name."""

    name: str
    query_prefix: str
    document_prefix: str = ""
    pooling: str = "mean"


NONE = Family("", "")
FAMILIES = (
    Family(r"e5-.*instruct", f"{ASKED} "),
    Family(r"\be5-", "query: ", "passage: "),
    Family(r"\bbge-\w+-en\b", "Represent this sentence for searching relevant passages: ", pooling="cls"),
    Family(r"\bbge-\w+-zh\b", "为这个句子生成表示以用于检索相关文章：", pooling="cls"),
    Family(r"\bbge-m3\b", "", pooling="cls"),
    Family(r"qwen3-embedding", ASKED, pooling="last"),
    Family(r"modernbert-embed|nomic-embed-text", "search_query: ", "search_document: "),
)
"""The first that fits counts; a model of none has no prefixes and is pooled by the mean."""


def family(name: str) -> Family:
    """The family of a model, by the last part of its name.

    >>> family("hub://intfloat/multilingual-e5-small").query_prefix, family("BAAI/bge-small-en-v1.5").pooling, family("minilm").query_prefix
    ('query: ', 'cls', '')
    """
    last = name.split("@")[0].rstrip("/").rpartition("/")[2].lower()
    return next((one for one in FAMILIES if re.search(one.name, last)), NONE)


def describe(folder: Path, card: Card) -> Card:
    """The card, which says no more than name, base and lineage, with all that the folder's files say of how the model is used.

    Raises `WeightsError` when the model computes something that does not run here.
    """
    _refuse_unnormalised(folder)
    known = NONE if is_static(folder) else family(card.base)  # what a transformer was trained with means nothing to a table
    queries, documents = _prefixes(folder, known)
    card = replace(card, query_prefix=queries, document_prefix=documents)
    if is_static(folder):
        (vectors,) = (tensor for name, tensor in load(folder / WEIGHTS[0]).items() if name in STATIC)
        return replace(card, engine="static", dimensions=vectors.shape[1], max_tokens=ENDLESS)
    config = architecture.read_config(folder / "config.json")
    layers = tuple(path for kind, path in modules(folder) if kind == "Dense")
    return replace(
        card,
        dimensions=len(dense.load(folder / layers[-1]).bias) if layers else _width(config),
        pooling=_pooling(folder, known),
        max_tokens=_max_tokens(folder, config),
        engine="transformers" if architecture.unknown(config) else "onnx",
        dense=layers,
    )


STATIC = ("embedding.weight", "embeddings")
"""The only tensor of a static model, as Sentence-Transformers and Model2Vec call it."""


def is_static(folder: Path) -> bool:
    """Whether the model is a table of a vector for each token."""
    return any(kind == "StaticEmbedding" for kind, _ in modules(folder)) or read(folder / "config.json").get("model_type") == "model2vec"


def modules(folder: Path) -> list[tuple[str, str]]:
    """The kind and the sub-folder of each module in order."""
    listed = read(folder / "modules.json") or UNLISTED
    found = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in listed]
    for kind, path in found:
        if kind not in ("Transformer", "Pooling", "Dense", "Normalize", "StaticEmbedding"):
            raise WeightsError(f"{folder / 'modules.json'} has a module {kind}, which does not run here")
        if Path(path).name != path:
            where = "weights at the top, and modules in folders beside them, run here"
            raise WeightsError(f"{folder / 'modules.json'} has the path {path!r}; {where}")
    return found


def files(folder: Path) -> list[str]:
    """The files of a model besides its weights, those that are there."""
    wanted = [*FILES, *(f"{path}/{file}" for kind, path in modules(folder) if path for file in dense.FILES)]
    return [file for file in wanted if (folder / file).is_file()]


def read(path: Path) -> Any:
    """What a JSON file of the layout holds, or an empty object when there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON: {error}") from error


def _refuse_unnormalised(folder: Path) -> None:
    """An index holds unit vectors: a model whose vectors' length counts would rank otherwise here than for its authors."""
    similarity = read(folder / "config_sentence_transformers.json").get("similarity_fn_name") or "cosine"
    normalised = any(kind == "Normalize" for kind, _ in modules(folder))
    if similarity != "cosine" and not (similarity == "dot" and normalised):
        raise WeightsError(f"{folder} ranks by {similarity} over vectors of any length; here every vector has length 1")


def _prefixes(folder: Path, family: Family) -> tuple[str, str]:
    """What goes before questions and passages: the folder's own prompts if it has any, else the family's."""
    prompts = read(folder / "config_sentence_transformers.json").get("prompts") or {}
    query = prompts.get("query") or ""
    document = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    return (query, document) if query or document else (family.query_prefix, family.document_prefix)


def _pooling(folder: Path, family: Family) -> str:
    path = next((path for kind, path in modules(folder) if kind == "Pooling"), "")
    config = read(folder / path / "config.json") if path else {}
    if not config:
        return family.pooling
    flagged = [mode for flag, mode in FLAGS.items() if config.get(flag)]
    mode = config.get("pooling_mode") or (flagged[0] if len(flagged) == 1 else flagged or "mean")
    if not isinstance(mode, str) or mode not in POOLINGS or not config.get("include_prompt", True):
        what = mode if config.get("include_prompt", True) else f"{mode} without its prompt"
        raise WeightsError(f"{folder / path} pools by {what}; {', '.join(POOLINGS)} run here")
    return POOLINGS[mode]


def _max_tokens(folder: Path, config: dict[str, Any]) -> int:
    """What the files say, and never more than there are positions."""
    said = read(folder / "sentence_bert_config.json").get("max_seq_length")
    said = said or read(folder / "tokenizer_config.json").get("model_max_length")
    places = config.get("max_position_embeddings") or ENDLESS
    first = 0 if architecture.unknown(config) else architecture.read(config).first
    return int(min(said or ENDLESS, places - first))


def _width(config: dict[str, Any]) -> int:
    for key in ("hidden_size", "dim", "d_model"):
        if key in config:
            return int(config[key])
    raise WeightsError(f"config.json of a {config.get('model_type')} says no hidden_size")
