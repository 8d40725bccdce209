"""What is Elasticsearch's own: what its URL says, what is wrong before any work, and that its scores are the local index's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import urllib3

from ragstone import config, project, release, store
from ragstone.cluster import Cluster
from ragstone.config import Settings
from ragstone.corpus import Chunk
from ragstone.errors import ConfigError, IndexingError
from ragstone.hosted import HostedIndex
from ragstone.index import Index, elasticsearch, local
from ragstone.show import Silence
from tests import elastic_node, node
from tests.conformance.test_index import CHUNKS, QUERY, VECTORS, unit
from tests.test_opensearch import CHANGES, SHORT, TEXTS, cosines, hits, shares


def connect(url: str, **credentials: str) -> elasticsearch.Elasticsearch:
    return elasticsearch.connect(config.Index(url=url, **credentials))


# ---- what the URL says


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("elasticsearch://", "names no host"),
        ("elasticsearch://h/Docs", "'Docs' can't begin an index's name"),
        ("elasticsearch://h/?m=many", "invalid literal for int"),
        ("elasticsearch://h/?ef_search=9", "no option 'ef_search'; there are type, m, ef_construction, num_candidates, oversample, ca"),
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


@pytest.fixture
def both(place: elasticsearch.Elasticsearch, tmp_path: Path) -> Iterator[tuple[Index, Index]]:
    chunks, vectors = [*CHUNKS, SHORT], [*VECTORS, VECTORS[5]]
    for at in (local.Folders(), place):
        at.build(tmp_path / type(at).__name__, "d", chunks, np.stack(vectors))
    with closing(local.open(tmp_path / "Folders", "d")) as here, closing(place.open(tmp_path / "Elasticsearch", "d")) as there:
        yield here, there


@pytest.mark.parametrize("text", TEXTS)
def test_scores_are_those_of_the_local_index(both: tuple[Index, Index], text: str) -> None:
    for query in [replace(QUERY, text=text, **change) for change in CHANGES]:
        here, there = ({one.chunk: one for one in index.search(replace(query, limit=400))} for index in both)
        assert here.keys() == there.keys()
        for id, one in here.items():
            assert there[id].keyword == pytest.approx(one.keyword, rel=1e-3, abs=1e-6)
            assert there[id].dense == pytest.approx(one.dense, abs=1e-3)
        narrow_here, narrow_there = (index.search(query) for index in both)
        assert cosines(narrow_here) == pytest.approx(cosines(narrow_there), abs=1e-3)
        assert shares(narrow_here) == pytest.approx(shares(narrow_there), rel=1e-3)


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


def test_what_is_in_the_index_need_not_be_encoded_again(both: tuple[Index, Index]) -> None:
    asked: list[Chunk] = [CHUNKS[3], replace(CHUNKS[4], text="edited"), replace(CHUNKS[5], id="new")]
    here, there = (index.encoded(asked) for index in both)
    assert here.keys() == there.keys() == {CHUNKS[3].id}
    assert there[CHUNKS[3].id] == pytest.approx(VECTORS[3], abs=1e-6)


def ask(index: HostedIndex, method: str, path: str, body: object = None) -> Any:
    cluster = index._cluster
    assert cluster
    return cluster.ask(method, path.replace("INDEX", index._name), body)


def test_a_load_that_died_half_way_is_gone_on_with(place: elasticsearch.Elasticsearch, tmp_path: Path) -> None:
    place.build(tmp_path / "one", "d", CHUNKS, VECTORS)
    index = place.open(tmp_path / "one", "d")
    before = index.search(QUERY)
    ask(index, "PUT", "/INDEX/_mapping", {"_meta": {"digest": "d"}})
    with pytest.raises(IndexingError, match=r"Elasticsearch at .* has no whole index"):
        place.open(tmp_path / "one", "d")
    place.build(tmp_path / "two", "d", CHUNKS, VECTORS)
    assert place.open(tmp_path / "two", "d").search(QUERY) == before
    assert ask(index, "GET", "/INDEX/_count")["count"] == 300


def test_a_whole_index_takes_no_more_documents(place: elasticsearch.Elasticsearch, tmp_path: Path) -> None:
    place.build(tmp_path, "d", CHUNKS, VECTORS)
    with pytest.raises(IndexingError, match="answered 403"):
        ask(place.open(tmp_path, "d"), "PUT", "/INDEX/_doc/x", {})


def address(name: str) -> str:
    """Of an index, or of the node for an empty name, over HTTP."""
    return elastic_node.url(name).replace("elasticsearch", "http").rstrip("/")


def test_a_read_only_cluster_is_found_before_any_work(place: elasticsearch.Elasticsearch) -> None:
    where = f"{address('')}/_cluster/settings"
    urllib3.request("PUT", where, json={"persistent": {"cluster.blocks.read_only": True}})
    try:
        with pytest.raises(IndexingError, match=r"takes no writes: cluster\.blocks\.read_only"):
            place.check()
    finally:
        urllib3.request("PUT", where, json={"persistent": {"cluster.blocks.read_only": None}})


def test_a_red_cluster_is_found_before_any_work(place: elasticsearch.Elasticsearch) -> None:
    """An index whose only shard may lie on no node."""
    lost = address(f"lost-{uuid4().hex}")
    nowhere = {"settings": {"index.routing.allocation.require._name": "nobody", "number_of_replicas": 0}}
    urllib3.request("PUT", f"{lost}?wait_for_active_shards=0", json=nowhere)
    try:
        with pytest.raises(IndexingError, match="is red"):
            place.check()
    finally:
        urllib3.request("DELETE", lost)


# ---- a release


@pytest.fixture
def there(settings: Settings) -> Settings:
    return config.override(settings, "index", url=elastic_node.url(f"test-{uuid4().hex}"))


@pytest.mark.slow
def test_a_release_finds_the_same_wherever_its_index_is(settings: Settings, there: Settings, manuals: Path) -> None:
    opened = store.connect(settings.store_url)
    here = project.build(settings, opened, Silence())
    expected = hits(settings)
    assert project.build(there, opened, Silence()).index != here.index
    assert hits(there) == expected
    assert hits(settings) == expected, "a release's index is found by the release, not by the setting"
    assert hits(there, here.id) == expected


@pytest.mark.slow
def test_the_old_index_is_kept_and_a_rollback_has_the_alias_follow(there: Settings, manuals: Path) -> None:
    opened = store.connect(there.store_url)
    first = project.build(there, opened, Silence())
    before = hits(there)
    (manuals / "pump.md").write_text("# Feed pump\n\nPrime the feed pump for two hundred seconds before it is started.\n")
    second = project.build(there, opened, Silence())
    assert aliased(there) == [second.index[:32]]
    record = release.rollback(opened, "production")
    project.point(there, opened, record, Silence())
    assert aliased(there) == [first.index[:32]]
    assert hits(there) == before


def aliased(settings: Settings) -> list[str]:
    """The digests of what the channel's alias stands for."""
    host, _, prefix = settings.index.url.replace("elasticsearch", "http").rpartition("/")
    found = urllib3.request("GET", f"{host}/_alias/{prefix}-production").json()
    return [name.removeprefix(f"{prefix}-") for name in found]
