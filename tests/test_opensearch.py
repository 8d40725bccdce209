"""What is OpenSearch's own: what its URL says, what is wrong at once, how it is loaded. The rest is `conformance/test_hosted.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ragstone import config, project, store
from ragstone import index as indexes
from ragstone.cluster import Cluster, Patience
from ragstone.config import Settings
from ragstone.errors import ConfigError, IndexingError
from ragstone.hosted import HostedIndex
from ragstone.index import opensearch
from ragstone.inference import Model
from ragstone.retrieve import fuse
from ragstone.show import Silence
from tests import engines, node
from tests.conformance.test_index import CHUNKS, QUERY, VECTORS


def connect(url: str, **credentials: str) -> opensearch.OpenSearch:
    return opensearch.connect(config.Index(url=url, **credentials))


# ---- what the URL says


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("opensearch://", "names no host"),
        ("opensearch://h:many/", "index.url: Port could not be cast"),
        ("opensearch://h/Docs", "'Docs' can't begin an index's name"),
        ("opensearch://h/?m=many", "invalid literal for int"),
        (
            "opensearch://h/?efsearch=9",
            "no option 'efsearch'; there are shards, replicas, fusion, ca, engine, m, ef_construction, ef_search",
        ),
        ("opensearch://h/?shards=0", "shards is 1 at least"),
        ("opensearch://h/?replicas=some", "replicas=some is neither a number nor a range"),
        ("opensearch://h/?fusion=magic", "fusion=magic is none of client, linear, rrf"),
        ("opensearch://h/?engine=nmslib", "engine=nmslib is neither lucene nor faiss"),
    ],
)
def test_a_url_that_can_mean_nothing_is_refused_with_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        connect(url)


def test_credentials_in_the_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="RAGSTONE_INDEX_PASSWORD") as caught:
        connect("opensearch://admin:hunter2@host")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(config.Index(password="hunter2"))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("opensearch://search.example", "https://search.example:9200"),
        ("opensearch://localhost/docs", "http://localhost:9200"),
        ("opensearch://127.0.0.1:9201", "http://127.0.0.1:9201"),
        ("opensearch://[::1]:9201", "http://[::1]:9201"),
        ("opensearch+https://127.0.0.1", "https://127.0.0.1:9200"),
        ("opensearch+http://search.example:80", "http://search.example:80"),
    ],
)
def test_tls_is_spoken_except_on_this_machine(url: str, address: str) -> None:
    assert address in connect(url).identity


def test_what_decides_the_vectors_graph_decides_the_digest_and_how_it_is_searched_does_not() -> None:
    plain = connect("opensearch://h/docs").identity
    assert connect("opensearch://h/docs?ef_search=64&replicas=2&fusion=rrf").identity == plain
    for other in (
        "opensearch://h/docs?shards=3",
        "opensearch://h/docs?m=24",
        "opensearch://h/docs?compression=4x",
        "opensearch://h/other",
        "opensearch://g/docs",
    ):
        assert connect(other).identity != plain


# ---- what is wrong before any work

FAULTS = [
    ({"GET /": {"version": {"distribution": "opensearch", "number": "2.19.1"}}}, "is 2.19.1; 3.0 or newer is needed"),
    ({"GET /": {"version": {"number": "9.5.3", "build_flavor": "default"}}}, "is not OpenSearch"),
    ({"GET /": {"tagline": "something else"}}, "is not OpenSearch"),
    ({"GET /": (401, {"error": "Unauthorized"})}, "answered 401 to GET /"),
    ({"GET /_cat/plugins": []}, "has no k-NN plugin"),
    ({"GET /_cluster/health": {"status": "red"}}, "is red"),
    ({"GET /_cluster/settings": {"persistent": {"cluster.blocks.read_only": "true"}}}, "takes no writes: cluster.blocks.read_only"),
    ({"GET /_cluster/settings": {"transient": {"cluster.blocks.create_index": True}}}, "takes no writes: cluster.blocks.create_index"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS)
def test_a_cluster_that_can_take_no_index_is_named_with_the_reason(fault: dict[str, Any], words: str) -> None:
    with node.running({**node.WELL, **fault}) as one, pytest.raises(IndexingError, match=words):
        connect(one.url).check()


def test_a_cluster_that_is_well_passes() -> None:
    with node.running(node.WELL) as one:
        connect(one.url).check()


def test_an_engine_that_can_not_fuse_is_told_of_before_any_work() -> None:
    refusal = (400, {"error": {"reason": "unknown query [hybrid]"}})
    with node.running({**node.WELL, "POST /docs-0*/_search": refusal}) as one:
        with pytest.raises(IndexingError, match=r"does not do what fusion=rrf asks: .*unknown query \[hybrid\]") as caught:
            connect(f"{one.url}?fusion=rrf").check()
        connect(one.url).check()
    assert "Ragstone fuses" in caught.value.hint


@pytest.mark.parametrize("options", ["", "?fusion=linear"])
def test_an_explanation_names_each_check_that_is_made(options: str) -> None:
    with node.running({**node.WELL, "POST /docs-0*/_search": {}}) as one:
        there = connect(one.url + options)
        there.check()
        checks = [request for request in there.explain("d", 9, Model("m", 3)) if "can it take" in request or "does it fuse" in request]
    told = [request.split(one.address)[1].partition("\n")[0].partition("?")[0] for request in checks]
    assert told == [asked.partition(" ")[2] for asked in one.asked]


def test_a_node_that_nobody_runs_is_named() -> None:
    with node.running({}) as one:
        url = one.url
    with pytest.raises(IndexingError, match=r"http://127\.0\.0\.1:\d+ can't be reached"):
        connect(url).check()


def test_nothing_is_encoded_for_a_cluster_that_can_take_no_index(settings: Settings, manuals: Path) -> None:
    opened = store.connect(settings.store_url)
    with node.running({**node.WELL, "GET /_cat/plugins": []}) as one:
        there = config.override(settings, "index", url=one.url)
        with pytest.raises(IndexingError, match="k-NN"):
            project.build(there, opened, Silence())
    assert not list(opened.list("indexes/"))


def test_credentials_are_sent_and_never_shown() -> None:
    with node.running({**node.WELL, "GET /_cluster/health": (403, {"error": {"reason": "no permissions"}})}) as one:
        with pytest.raises(IndexingError, match="no permissions") as caught:
            connect(one.url, user="admin", password="hunter2").check()
        assert set(one.credentials) == {"Basic YWRtaW46aHVudGVyMg=="}
    assert "hunter2" not in str(caught.value)
    assert "RAGSTONE_INDEX_USER" in caught.value.hint


def test_credentials_go_to_the_address_that_the_settings_name_and_to_no_other(tmp_path: Path) -> None:
    with node.running({**node.WELL, "GET /docs-d": (404, {})}) as old:
        (tmp_path / indexes.PLACE).write_text(json.dumps({"url": old.url, "index": "docs-d"}))
        with pytest.raises(IndexingError, match="has no whole index docs-d"):
            indexes.open(tmp_path, "d", config.Index(url="opensearch://elsewhere", user="admin", password="hunter2"))
        with pytest.raises(IndexingError, match="has no whole index docs-d"):
            indexes.open(tmp_path, "d", config.Index(url=f"{old.url}?ef_search=9", user="admin", password="hunter2"))
        assert old.credentials == [None, "Basic YWRtaW46aHVudGVyMg=="]


# ---- loading


def items(*statuses: int) -> dict[str, Any]:
    return {"errors": True, "items": [{"create": {"_id": str(at), "status": status}} for at, status in enumerate(statuses)]}


def cluster(one: node.Node, loads: int = 4) -> Cluster:
    return Cluster("OpenSearch", f"http://{one.address}", "", "", patience=Patience(backoff=0, loads=loads))


def test_only_what_a_busy_engine_refused_is_sent_again() -> None:
    answers = [(200, items(201, 429, 409)), (429, {"error": "busy"}), (200, items(201))]
    with node.running({"POST /i/_bulk": answers}) as one:
        cluster(one).load("i", [b"a\n", b"b\n", b"c\n"])
    assert one.bodies == [b"a\nb\nc\n", b"b\n", b"b\n"]


def test_two_bodies_are_on_their_way_and_one_that_fails_ends_the_load() -> None:
    refused = {"items": [{"create": {"_id": "b", "status": 400, "error": {"reason": "failed to parse"}}}]}
    with node.running({"POST /i/_bulk": refused}) as one:
        with pytest.raises(IndexingError, match="refused chunk 'b'"):
            cluster(one).load("i", [b"a\n", b"b\n", b"c\n", b"d\n"], body=1)
        assert sorted(one.bodies) == [b"a\n", b"b\n"]


def test_every_body_is_there_when_a_load_ends() -> None:
    with node.running({"POST /i/_bulk": (200, items(201))}) as one:
        cluster(one).load("i", [b"a\n", b"b\n", b"c\n", b"d\n", b"e\n"], body=1)
        assert sorted(one.bodies) == [b"a\n", b"b\n", b"c\n", b"d\n", b"e\n"]


def test_an_engine_that_stays_busy_ends_the_load_with_a_count() -> None:
    answers = [(200, items(201, 429)), (200, items(429))]
    with node.running({"POST /i/_bulk": answers}) as one, pytest.raises(IndexingError, match="refused 1 chunks 3 times"):
        cluster(one, loads=3).load("i", [b"a\n", b"b\n"])


def test_a_chunk_that_the_engine_will_never_take_ends_the_load_with_its_name() -> None:
    refused = {"items": [{"create": {"_id": "x7", "status": 400, "error": {"reason": "failed to parse"}}}]}
    with node.running({"POST /i/_bulk": refused}) as one, pytest.raises(IndexingError, match="refused chunk 'x7': failed to parse"):
        cluster(one).load("i", [b"a\n"])


def test_a_question_is_asked_again_when_the_engine_was_busy_but_not_for_long() -> None:
    with node.running({"POST /i/_msearch": [(503, {}), (200, {"responses": []})], "POST /i/_mget": (503, {"error": "busy"})}) as one:
        assert cluster(one).lines("/i/_msearch", b"{}\n") == {"responses": []}
        with pytest.raises(IndexingError, match="answered 503 to POST /i/_mget: busy"):
            cluster(one).ask("POST", "/i/_mget", {})
        assert one.asked == ["POST /i/_msearch"] * 2 + ["POST /i/_mget"] * 3


def test_an_answer_that_lacks_a_shard_is_an_error() -> None:
    half = {"timed_out": False, "_shards": {"failed": 1}, "hits": {"hits": []}}
    with node.running({"POST /i/_msearch": {"responses": [half, half]}}) as one:
        index = opensearch.OpenSearchIndex("d", cluster(one), "i", {"chunks": 9}, opensearch.Options())
        with pytest.raises(IndexingError, match="can't search i"):
            index.search(QUERY)


# ---- fused by a real node


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """`index.url`, and the folder that names the index."""
    url, folder = engines.url(f"test-{uuid4().hex}"), tmp_path_factory.mktemp("loaded")
    connect(url).build(folder, "d", CHUNKS, VECTORS)
    return url, folder


def ways(loaded: tuple[str, Path], fusion: str) -> Iterator[HostedIndex]:
    """The index as Ragstone fuses its lists, and as the engine does."""
    url, folder = loaded
    for options in ("", f"?fusion={fusion}"):
        yield connect(url + options).open(folder, "d")


ASKED = [{}, {"text": "serial123 rotor"}, {"text": "nothing known"}, {"text": ""}, {"groups": ("staff",)}, {"filter": {"language": "de"}}]


@pytest.mark.parametrize("change", ASKED)
@pytest.mark.parametrize("weight", [0.5, 0.2])
def test_the_engines_sum_is_ragstones_own_where_both_lists_reach_to_the_end(
    loaded: tuple[str, Path], change: dict[str, Any], weight: float
) -> None:
    """But for what a cosine below 0 counts: the engine gives it 0.001, Ragstone nothing."""
    query = replace(QUERY, limit=400, dense_weight=weight, **change)
    here, there = ({one.chunk: fused for one, fused in fuse(index.search(query), weight)} for index in ways(loaded, "linear"))
    assert here.keys() == there.keys()
    assert list(there.values()) == pytest.approx([here[id] for id in there], abs=1.1e-3)


def test_a_list_whose_scores_are_all_the_same_counts_in_full_in_the_engines_sum(loaded: tuple[str, Path]) -> None:
    """Its rule for lists without a spread, which bounds do not lift: two numbers, each in one chunk."""
    here, there = (index.search(replace(QUERY, text="serial123 serial7", limit=400)) for index in ways(loaded, "linear"))
    assert len({round(one.keyword, 4) for one in here if one.in_keyword}) == 1
    for one in there:
        assert one.fused == pytest.approx((max(0.0, one.dense) + one.in_keyword) / 2, abs=1.1e-3)


def test_what_only_one_short_list_holds_gets_nothing_from_the_other_in_the_engines_sum(loaded: tuple[str, Path]) -> None:
    here, there = (index.search(QUERY) for index in ways(loaded, "linear"))
    listed = {one.chunk: one for one in here}
    assert len(there) == QUERY.limit
    for one in there:
        dense, keyword = max(0.0, one.dense) * listed[one.chunk].in_dense, one.keyword * listed[one.chunk].in_keyword
        assert one.fused == pytest.approx((dense + keyword) / 2, abs=1.1e-3)


def test_the_engines_ranks_are_those_of_ragstones_lists(loaded: tuple[str, Path]) -> None:
    query = replace(QUERY, dense_weight=0.7)
    here, there = (index.search(query) for index in ways(loaded, "rrf"))
    near = sorted((one for one in here if one.in_dense), key=lambda one: -one.dense)
    words = sorted((one for one in here if one.in_keyword), key=lambda one: (-one.keyword, one.chunk))
    ranks = [{one.chunk: rank for rank, one in enumerate(ranked, 1)} for ranked in (near, words)]
    for one in there:
        shares = [weight / (60 + rank[one.chunk]) for weight, rank in zip((0.7, 0.3), ranks, strict=True) if one.chunk in rank]
        assert one.fused == pytest.approx(sum(shares), rel=1e-4)


def test_fused_hits_carry_the_scores_that_others_have(loaded: tuple[str, Path]) -> None:
    here, there = (index.search(replace(QUERY, limit=400)) for index in ways(loaded, "rrf"))
    expected = {one.chunk: (one.dense, one.keyword) for one in here}
    assert {one.chunk: (one.dense, one.keyword) for one in there} == {id: pytest.approx(expected[id], abs=1e-4) for id in expected}


def test_an_engine_that_fuses_passes(loaded: tuple[str, Path]) -> None:
    url, _ = loaded
    for fusion in ("linear", "rrf"):
        connect(f"{url}?fusion={fusion}").check()
