"""An index in OpenSearch 3. What an index in a search engine is, is `ragstone/hosted.py`; here is what OpenSearch calls things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ragstone import config, hosted
from ragstone.cluster import Cluster
from ragstone.corpus import Chunk
from ragstone.embedder import Vectors
from ragstone.errors import ConfigError, IndexingError
from ragstone.hosted import FORMAT, Hosted, HostedIndex
from ragstone.index import Query, check

OLDEST = 3
"""Major version. Before it the engine's BM25 has another scale."""

COSINE = "1 + cosineSimilarity(params.vector, doc.vector)"
"""In the engine's script language; a score must not be below 0."""


@dataclass(frozen=True)
class Options:
    """What `index.url` says about the vectors' graph after the question mark."""

    engine: str = "lucene"
    """`lucene` is in every node; `faiss` needs the k-NN plugin's native libraries."""
    m: int = 16
    ef_construction: int = 128
    ef_search: int = 256
    compression: str = "1x"
    ca: str = ""
    """A file of certificates that the engine's is signed by; empty takes the system's."""


class OpenSearch(Hosted):
    """A place of indexes: a cluster, and what their names begin with."""

    kind = "OpenSearch"

    def __init__(self, cluster: Cluster, prefix: str, url: str, options: Options) -> None:
        super().__init__(cluster, prefix, url)
        self._options = options
        self.identity = ("opensearch", FORMAT, cluster.url, prefix, {**asdict(options), "ef_search": 0, "ca": ""})

    def check(self) -> None:
        told = self._cluster.greet().get("version", {})
        _check_version(self._cluster.url, told)
        plugins = self._cluster.ask("GET", "/_cat/plugins?format=json&h=name,component")
        if not any(plugin["component"] == "opensearch-knn" for plugin in plugins):
            raise IndexingError(f"OpenSearch at {self._cluster.url} has no k-NN plugin", "bin/opensearch-plugin install opensearch-knn")
        self._check_health()
        self._check_blocks()

    def build(self, folder: Path, digest: str, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        check(chunks, vectors)
        super().build(folder, digest, chunks, vectors)

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
        return OpenSearchIndex(digest, self._cluster, name, meta, self._options)


class OpenSearchIndex(HostedIndex):
    """An opened index."""

    kind = "OpenSearch"

    def __init__(self, digest: str, cluster: Cluster, name: str, meta: Mapping[str, Any], options: Options) -> None:
        super().__init__(digest, cluster, name, meta)
        self._options = options

    def _nearest(self, query: Query, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The filter is inside: the graph is walked until `limit` chunks are found that pass it."""
        knn = {
            "vector": np.asarray(query.vector, np.float32),
            "k": limit,
            "filter": {"bool": {"filter": allowed}},
            "method_parameters": {"ef_search": max(limit, self._options.ef_search)},
        }
        return {"size": limit, "query": {"knn": {"vector": knn}}}

    def _cosines(self, query: Query, ids: Sequence[str]) -> dict[str, Any]:
        script = {"source": COSINE, "params": {"vector": np.asarray(query.vector, np.float32)}}
        return {"size": len(ids), "query": {"script_score": {"query": {"ids": {"values": ids}}, "script": script}}}

    def _cosine(self, score: float) -> float:
        return score - 1


def connect(settings: config.Index) -> OpenSearch:
    """The place that a URL names. Raises `ConfigError` on what it can't mean."""
    options = hosted.options(Options, settings.url)
    if options.engine not in ("lucene", "faiss"):
        raise ConfigError(f"index.url: engine={options.engine} is neither lucene nor faiss")
    cluster, prefix = hosted.reach("OpenSearch", settings, options.ca)
    return OpenSearch(cluster, prefix, settings.url, options)


def _check_version(url: str, told: Mapping[str, Any]) -> None:
    number = str(told.get("number", "of no version"))
    if told.get("distribution") != "opensearch":
        raise IndexingError(f"{url} is not OpenSearch, but calls itself {told.get('build_flavor', 'another server')} {number}")
    if int(number.split(".")[0]) < OLDEST:
        raise IndexingError(f"OpenSearch at {url} is {number}; {OLDEST}.0 or newer is needed")
