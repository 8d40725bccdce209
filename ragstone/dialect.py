"""Elasticsearch's JSON for an index of vectors, said in Ragstone's settings: `dense_vector` mappings and `inference` pipelines.

Much is written for that engine and typed at OpenSearch, which knows neither word. What can be meant is taken, with the reason why
something else is sent; what can't is refused, never left out silently. Nothing is read or sent here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from ragstone import config
from ragstone.connect import scheme
from ragstone.errors import ConfigError, IndexingError

STATEMENT = re.compile(r"\s*(?:[A-Z]+\s+)?(?:/?(?P<path>[^\s{]+))?\s*(?P<body>\{.*)", re.DOTALL)
"""JSON, and what stands before it in a console: a method and a path."""

COMPRESSION = {"hnsw": "1x", "int8_hnsw": "4x", "bbq_hnsw": "32x"}
"""Elasticsearch's graphs, and how much OpenSearch must compress for the same."""

SIMILARITIES = ("cosine", "dot_product", "max_inner_product", "l2_norm")

TYPE = "dense_vector is Elasticsearch's type: OpenSearch's is knn_vector, with dimension for dims and space_type for similarity"
OWN = "the field {name!r} is called vector, and beside it stand Ragstone's own: terms for BM25, facets for groups and filters, the chunk"
OTHERS = "{names} is not made: documents are parsed and chunked by Ragstone, which keeps title, text and metadata in its own fields"
LENGTH = "similarity {given}: vectors have length 1, so the cosine orders them alike, and a hit's score is made of that"
WHEN = "an ingest pipeline works when documents come in; what embeds a question at query time is {asking}"
ASKING = {"elasticsearch": "query_vector_builder in the knn query"}
"""By the engine, where it is not OpenSearch's."""
PROCESSOR = "inference is a processor of Elasticsearch: OpenSearch's is text_embedding, of a model that ML Commons knows"
MODEL = "model_id {given!r} stands for the model in force: what the engine calls it, Ragstone finds by the model's digest"
FOLLOWED = "{name} is another name for the pipeline of that model, so that one of another model never takes its place half way"


@dataclass(frozen=True)
class Translation:
    """The settings of the index that the JSON asks for, the dimensions that it says, and why what is sent differs from it."""

    index: config.Index
    dimensions: int | None
    notes: tuple[str, ...]

    def check(self, dimensions: int) -> None:
        """Raises `IndexingError` when the model's vectors have another number of dimensions than the mapping says."""
        if self.dimensions not in (None, dimensions):
            wrong = f"the mapping says dims {self.dimensions}; the model in force has {dimensions} dimensions"
            raise IndexingError(wrong, f'"dims": {dimensions}, or leave dims out')


    def explain(self) -> list[str]:
        """The notes, and the settings that say the same for good, as lines to read."""
        if not self.notes:
            return []
        said = {"url": self.index.url, "inference": self.index.inference, "pipeline": self.index.pipeline}
        lines = [f"{name} = {json.dumps(value)}" for name, value in said.items() if value != getattr(config.Index(), name)]
        return [*(f"# {note}" for note in self.notes), "# the same in ragstone.toml:", *(f"#   {line}" for line in ["[index]", *lines])]


def translate(index: config.Index, mapping: str, pipeline: str) -> Translation:
    """What a mapping and a pipeline ask for, over these settings; an empty text asks for nothing. Raises `ConfigError`.

    >>> asked = 'PUT /_ingest/pipeline/vector-ingest {"processors": [{"inference": {"model_id": "custom-emb"}}]}'
    >>> made = translate(config.Index(url="opensearch://h/docs"), '{"properties": {"v": {"type": "dense_vector", "dims": 384}}}', asked)
    >>> made.index.inference, made.index.pipeline, made.dimensions
    ('engine', 'vector-ingest', 384)
    """
    if mapping and scheme(index.url) == "elasticsearch":
        raise ConfigError("a mapping is translated for OpenSearch; for Elasticsearch say type, m, ef_construction in index.url")
    made = Translation(index, None, ())
    if mapping:
        made = _mapped(made, mapping)
    if pipeline:
        made = _piped(made, pipeline)
    return made


def _mapped(made: Translation, text: str) -> Translation:
    _, body = _statement(text, "mapping")
    properties = body.get("mappings", body).get("properties")
    fields = properties if isinstance(properties, dict) else {}
    vectors = {name: field for name, field in fields.items() if isinstance(field, dict) and field.get("type") == "dense_vector"}
    if len(vectors) != 1:
        raise ConfigError(f"the mapping has {len(vectors)} fields of the type dense_vector; an index of Ragstone's has one")
    ((name, field),) = vectors.items()
    options, notes = _graph(field)
    others = ", ".join(sorted(fields.keys() - {name}))
    told = [TYPE, OWN.format(name=name), *([OTHERS.format(names=others)] if others else []), *notes]
    url = _with_options(made.index.url, options)
    return Translation(replace(made.index, url=url), _whole("dims", field.get("dims")), (*made.notes, *told))


def _graph(field: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """What `index.url` says for the field's graph, and why."""
    _only(field, "dense_vector", "type", "dims", "index", "similarity", "index_options", "element_type")
    if not field.get("index", True) or field.get("element_type", "float") != "float":
        raise ConfigError("dense_vector: only indexed vectors of float are made")
    similarity = field.get("similarity", "cosine")
    if similarity not in SIMILARITIES:
        raise ConfigError(f"dense_vector: similarity {similarity!r} is none of {', '.join(SIMILARITIES)}")
    options, notes = _options(field.get("index_options", {}))
    return options, [*notes, *([LENGTH.format(given=similarity)] if similarity != "cosine" else [])]


def _options(given: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    _only(given, "index_options", "type", "m", "ef_construction")
    options = {name: str(_whole(name, given[name])) for name in ("m", "ef_construction") if name in given}
    if "type" not in given:
        return options, []
    kind = given["type"]
    if kind not in COMPRESSION:
        raise ConfigError(f"index_options: type {kind!r} has no like in OpenSearch's engine; there are {', '.join(COMPRESSION)}")
    return options | {"compression": COMPRESSION[kind]}, [f"{kind} is the method hnsw at compression_level {COMPRESSION[kind]}"]


def _piped(made: Translation, text: str) -> Translation:
    path, body = _statement(text, "pipeline")
    _only(body, "pipeline", "processors", "description")
    processors = body.get("processors")
    if not isinstance(processors, list) or len(processors) != 1 or list(processors[0]) not in (["inference"], ["text_embedding"]):
        raise ConfigError("the pipeline must have one processor, inference or text_embedding: Ragstone does the rest before it sends")
    ((kind, asked),) = processors[0].items()
    model = asked.get("model_id")
    if not isinstance(model, str) or not model:
        raise ConfigError(f"the pipeline's {kind} has no model_id")
    name = path.rpartition("_ingest/pipeline/")[2]
    elsewhere = ASKING.get(scheme(made.index.url))
    told = [WHEN.format(asking=elsewhere or "the neural query")]
    told += [PROCESSOR] if kind == "inference" and not elsewhere else []
    told += [MODEL.format(given=model), *([FOLLOWED.format(name=name)] if name else [])]
    index = replace(made.index, inference=config.ENGINE, pipeline=name)
    return replace(made, index=index, notes=(*made.notes, *told))


def _statement(text: str, what: str) -> tuple[str, Mapping[str, Any]]:
    """The path, if it has one, and the JSON. Raises `ConfigError`."""
    found = STATEMENT.fullmatch(text)
    try:
        body = json.loads(found["body"]) if found else None
    except json.JSONDecodeError as error:
        raise ConfigError(f"the {what} is not JSON: {error}") from error
    if not found or not isinstance(body, dict):
        raise ConfigError(f"the {what} is neither a JSON object nor a request with one: {text[:60]!r}")
    return found["path"] or "", body


def _only(given: Mapping[str, Any], what: str, *known: str) -> None:
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise ConfigError(f"{what}: {unknown[0]!r} can't be translated; there are {', '.join(known)}")


def _whole(name: str, value: object) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"{name} = {value!r} is not a whole number from 1")
    return value


def _with_options(url: str, options: Mapping[str, str]) -> str:
    """The URL with these options over its own."""
    place, _, given = url.partition("?")
    both = dict(parse_qsl(given)) | dict(options)
    return f"{place}?{urlencode(both)}" if both else place
