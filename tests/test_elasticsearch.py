"""What is Elasticsearch's own: what its URL says, what is wrong, what its graphs round. The rest is `conformance/test_hosted.py`."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from ragstone import config, project, store
from ragstone.cluster import Cluster
from ragstone.config import Settings
from ragstone.errors import ConfigError, IndexingError
from ragstone.index import elasticsearch
from ragstone.inference import Model
from ragstone.show import Silence
from tests import elastic_node, node
from tests.conformance.test_index import CHUNKS, QUERY, VECTORS, unit


def connect(url: str, **credentials: str) -> elasticsearch.Elasticsearch:
    return elasticsearch.connect(config.Index(url=url, **credentials))


# ---- what the URL says


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("elasticsearch://", "names no host"),
        ("elasticsearch://h/Docs", "'Docs' can't begin an index's name"),
        ("elasticsearch://h/?m=many", "invalid literal for int"),
        ("elasticsearch://h/?ef_search=9", "no option 'ef_search'; there are shards, replicas, fusion, ca, type, m, ef_construction"),
        ("elasticsearch://h/?type=int2_hnsw", "type=int2_hnsw is none of hnsw, int8_hnsw, bbq_hnsw"),
        ("elasticsearch://h/?num_candidates=20000", "is more than the 10000 that Elasticsearch takes"),
        ("elasticsearch://h/?oversample=0", "oversample is 1 at least"),
    ],
)
def test_a_url_that_can_mean_nothing_is_refused_with_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        connect(url)


def test_credentials_in_the_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="RAGSTONE_INDEX_PASSWORD") as caught:
        connect("elasticsearch://elastic:hunter2@host")
    assert "hunter2" not in str(caught.value)


def test_what_decides_the_vectors_graph_decides_the_digest_and_how_it_is_searched_does_not() -> None:
    plain = connect("elasticsearch://h/docs").identity
    assert connect("elasticsearch://h/docs?num_candidates=64&oversample=2").identity == plain
    for other in ("elasticsearch://h/docs?m=24", "elasticsearch://h/docs?type=hnsw", "elasticsearch://h/other", "elasticsearch://g/docs"):
        assert connect(other).identity != plain


# ---- what is wrong before any work


def nodes(*versions: str) -> dict[str, Any]:
    return {"nodes": {str(at): {"version": version, "build_flavor": "default"} for at, version in enumerate(versions)}}


WELL: dict[str, Any] = {**node.WELL, "GET /_nodes": nodes("9.5.3", "8.18.0")}

FAULTS = [
    ({"GET /_nodes": nodes("9.5.3", "8.9.2")}, "is 8.9.2; 8.18 or newer is needed"),
    ({"GET /_nodes": {"nodes": {"one": {"version": "3.6.0"}}}}, "is not Elasticsearch"),
    ({"GET /_nodes": {}}, "is not Elasticsearch"),
    ({"GET /_nodes": (401, {"error": "Unauthorized"})}, "answered 401 to GET /_nodes"),
    ({"GET /docs-0": (403, {"error": "docs-* is not yours"})}, r"answered 403 to GET /docs-0: docs-\* is not yours"),
    ({"GET /_cluster/health": {"status": "red"}}, "is red"),
    ({"GET /_cluster/settings": {"persistent": {"cluster.blocks.read_only": "true"}}}, "takes no writes: cluster.blocks.read_only"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS)
def test_a_cluster_that_can_take_no_index_is_named_with_the_reason(fault: dict[str, Any], words: str) -> None:
    with node.running({**WELL, **fault}) as one, pytest.raises(IndexingError, match=words):
        connect(f"elasticsearch://{one.address}/docs").check()


def test_a_cluster_that_is_well_passes() -> None:
    with node.running(WELL) as one:
        connect(f"elasticsearch://{one.address}").check()


def test_an_explanation_names_each_check_that_is_made() -> None:
    with node.running(WELL) as one:
        there = connect(f"elasticsearch://{one.address}/docs")
        there.check()
        checks = [request for request in there.explain("d", 9, Model("m", 3)) if "can it take an index?" in request]
    assert [request.split(one.address)[1].partition("?")[0] for request in checks] == [asked.removeprefix("GET ") for asked in one.asked]


def test_a_node_that_nobody_runs_is_named() -> None:
    with node.running({}) as one:
        address = one.address
    with pytest.raises(IndexingError, match=rf"Elasticsearch at http://{address} can't be reached"):
        connect(f"elasticsearch://{address}").check()


def test_nothing_is_encoded_for_a_cluster_that_can_take_no_index(settings: Settings, manuals: Path) -> None:
    opened = store.connect(settings.store_url)
    with node.running({**WELL, "GET /_cluster/health": {"status": "red"}}) as one:
        there = config.override(settings, "index", url=f"elasticsearch://{one.address}")
        with pytest.raises(IndexingError, match="is red"):
            project.build(there, opened, Silence())
    assert not list(opened.list("indexes/"))


def test_a_chunk_that_the_engine_gave_no_cosine_is_an_error() -> None:
    def found(*ids: str) -> dict[str, Any]:
        return {"timed_out": False, "_shards": {"failed": 0}, "hits": {"hits": [{"_id": id, "_score": 0.9} for id in ids]}}

    answers = [(200, {"responses": [found("a"), found("b")]}), (200, {"responses": [found("a"), found("a")]})]
    with node.running({"POST /i/_msearch": answers}) as one:
        cluster = Cluster("Elasticsearch", f"http://{one.address}", "", "")
        index = elasticsearch.ElasticsearchIndex("d", cluster, "i", {"chunks": 9}, elasticsearch.Options())
        with pytest.raises(IndexingError, match="scored 1 chunks of i instead of 2"):
            index.search(QUERY)


# ---- a real node


@pytest.fixture
def place() -> elasticsearch.Elasticsearch:
    return connect(elastic_node.url(f"test-{uuid4().hex}"))


@pytest.mark.parametrize("fusion", ["rrf", "linear"])
def test_a_node_without_the_retriever_is_told_of_in_its_own_words(place: elasticsearch.Elasticsearch, fusion: str) -> None:
    """What Maven Central has is the server without that module; a cluster without the licence refuses at the same place."""
    place.check()
    with pytest.raises(IndexingError, match=rf"does not do what fusion={fusion} asks: .* answered 400 .*: unknown retriever \[{fusion}\]"):
        connect(f"{place._url}?fusion={fusion}").check()


def test_a_licence_that_does_not_cover_the_retriever_is_told_of_before_any_work() -> None:
    refusal = (403, {"error": {"reason": "current license is non-compliant for [Reciprocal Rank Fusion (RRF)]"}})
    with node.running({**WELL, "POST /docs-0*/_search": refusal}) as one:
        with pytest.raises(IndexingError, match=r"fusion=rrf asks: .*license is non-compliant") as caught:
            connect(f"elasticsearch://{one.address}/docs?fusion=rrf").check()
        asked = json.loads(one.bodies[-1])["retriever"]["rrf"]
    assert [(entry["weight"], *entry["retriever"]) for entry in asked["retrievers"]] == [(0.5, "standard")] * 2
    assert "Ragstone fuses" in caught.value.hint


@pytest.mark.parametrize("type", elasticsearch.TYPES)
def test_a_cosine_is_that_of_the_full_vectors_whatever_the_graph_rounds_them_to(tmp_path: Path, type: str) -> None:
    place = connect(elastic_node.url(f"test-{uuid4().hex}?type={type}"))
    wide = unit(np.random.default_rng(3).normal(size=(len(CHUNKS), 96)).astype(np.float32))
    expected = {chunk.id: float(vector @ wide[4]) for chunk, vector in zip(CHUNKS, wide, strict=True)}
    place.build(tmp_path, "d", CHUNKS, wide)
    with closing(place.open(tmp_path, "d")) as index:
        found = index.search(replace(QUERY, vector=wide[4]))
    assert any(one.in_keyword and not one.in_dense for one in found)
    assert {one.chunk: one.dense for one in found} == pytest.approx({one.chunk: expected[one.chunk] for one in found}, abs=1e-6)


@pytest.mark.slow
def test_the_longest_lists_are_scored_to_their_ends(place: elasticsearch.Elasticsearch, tmp_path: Path) -> None:
    """As many by words as by vectors, and none by both."""
    vectors = np.random.default_rng(3).normal(size=(12_000, 8)).astype(np.float32)
    vectors[:6_000, 0], vectors[6_000:, 0] = 4, -4
    chunks = [replace(CHUNKS[0], id=f"{row:05d}", title="", text="gasket" if row >= 6_000 else "rotor") for row in range(12_000)]
    place.build(tmp_path, "d", chunks, unit(vectors))
    with closing(place.open(tmp_path, "d")) as index:
        found = index.search(replace(QUERY, text="gasket", vector=np.eye(8, dtype=np.float32)[0], limit=20_000))
    assert [sum(one.in_dense for one in found), sum(one.in_keyword for one in found), len(found)] == [5_000, 5_000, 10_000]
    rows = [int(one.chunk) for one in found]
    assert [one.dense for one in found] == pytest.approx([float(value) for value in unit(vectors)[rows, 0]], abs=1e-6)


def test_a_graph_that_can_not_hold_the_vectors_is_refused_in_the_engines_words(tmp_path: Path) -> None:
    place = connect(elastic_node.url(f"test-{uuid4().hex}?type=bbq_hnsw"))
    with pytest.raises(IndexingError, match=r"answered 400 to PUT .*64"):
        place.build(tmp_path, "d", CHUNKS, VECTORS)
