"""An index in OpenSearch 3. What an index in a search engine is, is `ragstone/hosted.py`; here is what OpenSearch calls things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragstone import config, inference, mapping, options
from ragstone.cluster import Cluster, Request
from ragstone.corpus import Chunk
from ragstone.embedder import Vectors
from ragstone.errors import ConfigError, IndexingError
from ragstone.hosted import BLOCKS, FORMAT, HEALTH, RANK, Hosted, HostedIndex, Load
from ragstone.index import Done, Known, Query, check, check_chunks, counted, ignored
from ragstone.inference import CHUNK, QUERY, Inference, Model
from ragstone.mapping import floats
from ragstone.options import LINEAR, RRF

PLUGINS = "/_cat/plugins?format=json&h=name,component"

ASKED = 128 << 10
"""Bytes of a bulk request whose vectors the engine asks for: some 60 chunks, encoded long before the answer is given up."""

OLDEST = 3
"""Major version. Before it the engine's BM25 has another scale."""

SAME = {
    "technique": "min_max",
    "parameters": {
        "lower_bounds": [{"mode": "clip", "min_score": 0.5}, {"mode": "clip", "min_score": 0.0}],
        "upper_bounds": [{"mode": "clip", "max_score": 1.0}, {"mode": "clip", "max_score": 1.0}],
    },
}
"""Bounds instead of each question's own extremes, the cosine's from 0 to 1: the sum is the one that Ragstone makes."""

COSINE = "1 + cosineSimilarity(params.vector, doc.vector)"
"""In the engine's script language; a score must not be below 0."""


@dataclass(frozen=True)
class Options(options.Options):
    """And about the vectors' graph."""

    engine: str = "lucene"
    """`lucene` is in every node; `faiss` needs the k-NN plugin's native libraries."""
    m: int = 16
    ef_construction: int = 128
    ef_search: int = 256
    compression: str = "1x"


class OpenSearch(Hosted):
    """A place of indexes: a cluster, and what their names begin with."""

    kind = "OpenSearch"
    _options: Options

    def __init__(self, cluster: Cluster, prefix: str, url: str, options: Options) -> None:
        super().__init__(cluster, prefix, url, options)
        self.identity: tuple[object, ...] = ("opensearch", FORMAT, cluster.url, prefix, options.lasting("ef_search"))

    def check(self) -> None:
        told = self._cluster.greet().get("version", {})
        _check_version(self._cluster.url, told)
        plugins = self._cluster.ask("GET", PLUGINS)
        self._check_plugins([plugin["component"] for plugin in plugins])
        self._check_health()
        self._check_blocks()
        self._check_fusion()

    def _checks(self) -> list[str]:
        return ["/", PLUGINS, HEALTH, BLOCKS]

    def build(self, folder: Path, digest: str, chunks: Sequence[Chunk], vectors: Vectors, progress: Done = ignored) -> None:
        check(chunks, vectors)
        super().build(folder, digest, chunks, vectors, progress)

    def _vector(self, dimensions: int) -> dict[str, Any]:
        graph = {"m": self._options.m, "ef_construction": self._options.ef_construction}
        return {
            "type": "knn_vector",
            "dimension": dimensions,
            "space_type": "cosinesimil",
            "data_type": "float",
            "compression_level": self._options.compression,
            "method": {"name": "hnsw", "engine": self._options.engine, "parameters": graph},
        }

    def _settings(self) -> dict[str, Any]:
        return {"knn": True, "knn.algo_param.ef_search": self._options.ef_search}

    def _opened(self, digest: str, name: str, meta: Mapping[str, Any]) -> OpenSearchIndex:
        if "model" not in meta:
            return OpenSearchIndex(digest, self._cluster, name, meta, self._options)
        asker = inference.known(self._cluster, meta["model"])
        return InferringIndex(digest, self._cluster, name, meta, self._options, asker)

    def _check_plugins(self, installed: Sequence[str]) -> None:
        if "opensearch-knn" not in installed:
            raise IndexingError(f"OpenSearch at {self._cluster.url} has no k-NN plugin", "bin/opensearch-plugin install opensearch-knn")


class Inferring(OpenSearch):
    """A place whose engine makes the vectors of chunks and questions itself."""

    def __init__(self, cluster: Cluster, prefix: str, url: str, options: Options, inference: Inference, pipeline: str) -> None:
        super().__init__(cluster, prefix, url, options)
        self.identity = (*self.identity, "inference", inference.url)
        self._inference = inference
        self._pipeline = pipeline

    def prepare(self, model: Model) -> None:
        self.check()
        self._inference.prepare(model)

    def ingest(self, folder: Path, digest: str, chunks: Sequence[Chunk], known: Known, model: Model, progress: Done) -> None:
        """Load the chunks, those without a vector through the pipeline that asks for one."""
        check_chunks(chunks)
        question, passage = (self._inference.name(kind, model) for kind in (QUERY, CHUNK))
        for request in self._pipelines(model, inference.known(self._cluster, passage)):
            self._cluster.send(request)
        lines = counted(mapping.lines(chunks, known, passage), progress)
        self._keep(folder, digest, Load(len(chunks), model.dimensions, lines, ASKED, question))

    def _preparation(self, model: Model) -> tuple[list[Request], str, str]:
        before = [*self._inference.explain(model), *self._pipelines(model, inference.UNKNOWN + CHUNK.upper())]
        return before, self._inference.name(CHUNK, model), self._inference.name(QUERY, model)

    def _example(self, digest: str, name: str, meta: Mapping[str, Any]) -> InferringIndex:
        return InferringIndex(digest, self._cluster, name, meta, self._options, inference.UNKNOWN + QUERY.upper())

    def _pipelines(self, model: Model, id: str) -> list[Request]:
        own = inference.pipeline(self._inference.url, model.digest, id)
        return [own, inference.alias(self._pipeline, own)] if self._pipeline else [own]

    def _check_plugins(self, installed: Sequence[str]) -> None:
        super()._check_plugins(installed)
        self._inference.check_plugins(installed)


class OpenSearchIndex(HostedIndex):
    """An opened index."""

    kind = "OpenSearch"
    _options: Options

    def _nearest(self, query: Query, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """The filter is inside: the graph is walked until `limit` chunks are found that pass it."""
        return {"size": limit, "query": {"knn": {"vector": {"vector": floats(query.vector), **self._walk(limit, allowed)}}}}

    def _walk(self, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        deep = {"ef_search": max(limit, self._options.ef_search)}
        return {"k": limit, "filter": {"bool": {"filter": allowed}}, "method_parameters": deep}

    def _cosines(self, query: Query, ids: Sequence[str]) -> dict[str, Any] | None:
        script = {"source": COSINE, "params": {"vector": floats(query.vector)}}
        return {"size": len(ids), "query": {"script_score": {"query": {"ids": {"values": ids}}, "script": script}}}

    def _cosine(self, score: float) -> float:
        return score - 1

    def _fusion(self, lists: Sequence[Mapping[str, Any]], weights: Sequence[float], limit: int) -> dict[str, Any]:
        """A hybrid query with a search pipeline of its own: none needs to be kept in the cluster, and weights may differ by release."""
        combined = {"technique": "arithmetic_mean", "parameters": {"weights": weights}}
        ranked = {"technique": "rrf", "rank_constant": RANK, "parameters": {"weights": weights}}
        how = {
            LINEAR: {"normalization-processor": {"normalization": SAME, "combination": combined}},
            RRF: {"score-ranker-processor": {"combination": ranked}},
        }[self._options.fusion]
        query = {"hybrid": {"queries": lists, "pagination_depth": limit}}
        return {"size": limit, "query": query, "search_pipeline": {"phase_results_processors": [how]}}


class InferringIndex(OpenSearchIndex):
    """An opened index whose engine makes the vector of a question itself; nothing is compressed, so all its scores are exact."""

    encodes = True
    exact = True

    def __init__(self, digest: str, cluster: Cluster, name: str, meta: Mapping[str, Any], options: Options, asker: str) -> None:
        super().__init__(digest, cluster, name, meta, options)
        self._asker = asker
        """The engine's id of the model for questions."""

    def _nearest(self, query: Query, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        if not query.text.strip():  # the engine refuses it
            return None
        asked = {"query_text": query.text, "model_id": self._asker}
        return {"size": limit, "query": {"neural": {"vector": {**asked, **self._walk(limit, allowed)}}}}

    def _cosines(self, query: Query, ids: Sequence[str]) -> dict[str, Any] | None:
        """Where no more are allowed than are searched for, the engine scores each, without its graph."""
        return self._nearest(query, len(ids), [{"ids": {"values": ids}}])

    def _cosine(self, score: float) -> float:
        return 2 * score - 1


def connect(settings: config.Index) -> OpenSearch:
    """The place that a URL names. Raises `ConfigError` on what it can't mean."""
    read = options.read(Options, settings.url)
    if read.engine not in ("lucene", "faiss"):
        raise ConfigError(f"index.url: engine={read.engine} is neither lucene nor faiss")
    cluster, prefix = options.reach("OpenSearch", settings, read.ca)
    if settings.inference == config.CLIENT:
        return OpenSearch(cluster, prefix, settings.url, read)
    if (read.engine, read.compression) != ("lucene", "1x"):
        raise ConfigError(f"index.inference = {config.ENGINE!r} needs engine=lucene and compression=1x: they score by full vectors")
    inference.check_name(settings.pipeline)
    asking = Inference(cluster, settings.embeddings, settings.embeddings_key)
    return Inferring(cluster, prefix, settings.url, read, asking, settings.pipeline)


def _check_version(url: str, told: Mapping[str, Any]) -> None:
    number = str(told.get("number", "of no version"))
    if told.get("distribution") != "opensearch":
        raise IndexingError(f"{url} is not OpenSearch, but calls itself {told.get('build_flavor', 'another server')} {number}")
    if int(number.split(".")[0]) < OLDEST:
        raise IndexingError(f"OpenSearch at {url} is {number}; {OLDEST}.0 or newer is needed")
