"""An index in Elasticsearch. What an index in a search engine is, is `ragstone/hosted.py`; here is what Elasticsearch calls things.

No script is sent: a cluster may forbid them. What the graph finds is scored by full vectors (`rescore_vector`), and the cosines of what
words found come from the same search, narrowed to those chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ragstone import config, inference, mapping, options
from ragstone.cluster import Cluster, Request
from ragstone.corpus import Chunk
from ragstone.embedder import Vectors
from ragstone.endpoint import Endpoints
from ragstone.errors import ConfigError, IndexingError
from ragstone.hosted import BLOCKS, FORMAT, HEALTH, MOST, RANK, Hosted, HostedIndex, Load
from ragstone.index import Done, Known, Query, check, check_chunks, counted, ignored
from ragstone.inference import CHUNK, QUERY, Model
from ragstone.options import LINEAR, RRF

OLDEST = (8, 18)
"""The oldest version that this was run on."""

ASKED = 32 << 10
"""Bytes of a bulk request whose vectors the engine asks for, one chunk after the other: encoded long before the answer is given up."""

TYPES = ("hnsw", "int8_hnsw", "bbq_hnsw")

VERSIONS = "/_nodes?filter_path=nodes.*.version,nodes.*.build_flavor"
"""Of every node: the oldest counts."""


@dataclass(frozen=True)
class Options(options.Options):
    """And about the vectors' graph."""

    type: str = "int8_hnsw"
    """What a vector is rounded to in the graph: nothing, a byte a dimension, or a bit (`bbq_hnsw`, from 64 dimensions)."""
    m: int = 16
    ef_construction: int = 128
    num_candidates: int = 256
    oversample: int = 3
    """How many times what is asked for is found by rounded vectors, and ranked by full ones."""


class Elasticsearch(Hosted):
    """A place of indexes: a cluster, and what their names begin with."""

    kind = "Elasticsearch"
    _options: Options

    def __init__(self, cluster: Cluster, prefix: str, url: str, options: Options) -> None:
        super().__init__(cluster, prefix, url, options)
        self.identity: tuple[object, ...] = ("elasticsearch", FORMAT, cluster.url, prefix, options.lasting("num_candidates", "oversample"))

    def check(self) -> None:
        nodes = self._cluster.greet(VERSIONS).get("nodes", {})
        _check_version(self._cluster.url, list(nodes.values()))
        self._check_rights()
        self._check_health()
        self._check_blocks()
        self._check_fusion()

    def _checks(self) -> list[str]:
        return [VERSIONS, f"/{self._name('0')}", HEALTH, BLOCKS]

    def build(self, folder: Path, digest: str, chunks: Sequence[Chunk], vectors: Vectors, progress: Done = ignored) -> None:
        check(chunks, vectors)
        super().build(folder, digest, chunks, vectors, progress)

    def _vector(self, dimensions: int) -> dict[str, Any]:
        graph = {"type": self._options.type, "m": self._options.m, "ef_construction": self._options.ef_construction}
        return {
            "type": "dense_vector",
            "dims": dimensions,
            "element_type": "float",
            "index": True,
            "similarity": "cosine",
            "index_options": graph,
        }

    def _opened(self, digest: str, name: str, meta: Mapping[str, Any]) -> ElasticsearchIndex:
        kind = InferringIndex if "model" in meta else ElasticsearchIndex
        return kind(digest, self._cluster, name, meta, self._options)


class Inferring(Elasticsearch):
    """A place whose engine makes the vectors of chunks and questions itself."""

    def __init__(self, cluster: Cluster, prefix: str, url: str, options: Options, endpoints: Endpoints, pipeline: str) -> None:
        super().__init__(cluster, prefix, url, options)
        self.identity = (*self.identity, "inference", endpoints.url)
        self._endpoints = endpoints
        self._pipeline = pipeline

    def prepare(self, model: Model) -> None:
        self.check()
        self._endpoints.prepare(model)

    def ingest(self, folder: Path, digest: str, chunks: Sequence[Chunk], known: Known, model: Model, progress: Done) -> None:
        """Load the chunks, those without a vector through the pipeline that asks for one."""
        check_chunks(chunks)
        for request in self._pipelines(model):
            self._endpoints.send(request)
        question, passage = (self._endpoints.name(kind, model) for kind in (QUERY, CHUNK))
        lines = counted(mapping.lines(chunks, known, passage), progress)
        self._keep(folder, digest, Load(len(chunks), model.dimensions, lines, ASKED, question))

    def _preparation(self, model: Model) -> tuple[list[Request], str, str]:
        before = [*self._endpoints.explain(model), *self._pipelines(model)]
        return before, self._endpoints.name(CHUNK, model), self._endpoints.name(QUERY, model)

    def _example(self, digest: str, name: str, meta: Mapping[str, Any]) -> ElasticsearchIndex:
        return self._opened(digest, name, {"model": inference.UNKNOWN + QUERY.upper(), **meta})

    def _pipelines(self, model: Model) -> list[Request]:
        own = self._endpoints.pipeline(model)
        return [own, inference.alias(self._pipeline, own)] if self._pipeline else [own]


class ElasticsearchIndex(HostedIndex):
    """An opened index."""

    kind = "Elasticsearch"
    most = MOST // 2
    """The chunks of both lists together are scored by one search for the nearest."""
    factor = 2.2
    """k1 + 1, which Lucene has dropped."""
    _options: Options

    def _nearest(self, query: Query, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        knn = {
            "field": "vector",
            **self._vector(query),
            "k": limit,
            "num_candidates": max(limit, self._options.num_candidates),
            "filter": {"bool": {"filter": allowed}},
            "rescore_vector": {"oversample": self._options.oversample},
        }
        return {"size": limit, "query": {"knn": knn}}

    def _vector(self, query: Query) -> dict[str, Any]:
        """That of the question."""
        return {"query_vector": np.asarray(query.vector, np.float32)}

    def _cosines(self, query: Query, ids: Sequence[str]) -> dict[str, Any] | None:
        """Where no more chunks are allowed than are searched for, the engine scores each of them, without its graph."""
        return self._nearest(query, len(ids), [{"ids": {"values": ids}}])

    def _cosine(self, score: float) -> float:
        return 2 * score - 1

    def _fusion(self, lists: Sequence[Mapping[str, Any]], weights: Sequence[float], limit: int) -> dict[str, Any]:
        """Each list scaled by its own best and last: without it, what only words found would lack a half for its vector's score."""
        scaled = {"normalizer": "minmax"} if self._options.fusion == LINEAR else {}
        each = [{"retriever": {"standard": {"query": one}}, "weight": weight, **scaled} for one, weight in zip(lists, weights, strict=True)]
        rest = {"rank_constant": RANK} if self._options.fusion == RRF else {}
        return {"size": limit, "retriever": {self._options.fusion: {"retrievers": each, "rank_window_size": limit, **rest}}}


class InferringIndex(ElasticsearchIndex):
    """An opened index whose engine makes the vector of a question itself."""

    encodes = True
    exact = True

    def __init__(self, digest: str, cluster: Cluster, name: str, meta: Mapping[str, Any], options: Options) -> None:
        super().__init__(digest, cluster, name, meta, options)
        self._asker = str(meta["model"])
        """The endpoint for questions."""

    def _nearest(self, query: Query, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        return super()._nearest(query, limit, allowed) if query.text.strip() else None

    def _vector(self, query: Query) -> dict[str, Any]:
        return {"query_vector_builder": {"text_embedding": {"model_id": self._asker, "model_text": query.text}}}


def connect(settings: config.Index) -> Elasticsearch:
    """The place that a URL names. Raises `ConfigError` on what it can't mean."""
    read = options.read(Options, settings.url)
    if read.type not in TYPES:
        raise ConfigError(f"index.url: type={read.type} is none of {', '.join(TYPES)}")
    if read.num_candidates > MOST:
        raise ConfigError(f"index.url: num_candidates={read.num_candidates} is more than the {MOST} that Elasticsearch takes")
    if read.oversample < 1:
        raise ConfigError("index.url: oversample is 1 at least: without it scores would be those of rounded vectors")
    cluster, prefix = options.reach("Elasticsearch", settings, read.ca)
    if settings.inference == config.CLIENT:
        return Elasticsearch(cluster, prefix, settings.url, read)
    inference.check_name(settings.pipeline)
    endpoints = Endpoints(cluster, settings.embeddings, settings.embeddings_key)
    return Inferring(cluster, prefix, settings.url, read, endpoints, settings.pipeline)


def _check_version(url: str, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Only Elasticsearch says of what flavour it was built."""
    if not nodes or not all("build_flavor" in node for node in nodes):
        raise IndexingError(f"{url} is not Elasticsearch, but another server")
    oldest = min(nodes, key=lambda node: _number(node["version"]))["version"]
    if _number(oldest) < OLDEST:
        raise IndexingError(f"Elasticsearch at {url} is {oldest}; {OLDEST[0]}.{OLDEST[1]} or newer is needed")


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))
