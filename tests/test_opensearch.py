"""What is OpenSearch's own: what its URL says, what is wrong before any work, and that its scores are the local index's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import urllib3

from ragstone import config, mapping, project, release, store
from ragstone import index as indexes
from ragstone.cluster import Cluster, Patience
from ragstone.config import Settings
from ragstone.corpus import Chunk
from ragstone.errors import ConfigError, IndexingError
from ragstone.index import Candidate, Index, local, opensearch
from ragstone.show import Silence
from tests import engines, node
from tests.conformance.test_index import CHUNKS, QUERY, VECTORS

SHORT = replace(CHUNKS[0], id="short", title="", path=(), text="gasket", metadata={})
"""A chunk of one word: it has no pair."""


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
        ("opensearch://h/?efsearch=9", "no option 'efsearch'; there are engine, m, ef_construction, ef_search, compression, ca"),
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
    assert connect("opensearch://h/docs?ef_search=64").identity == plain
    for other in ("opensearch://h/docs?m=24", "opensearch://h/docs?compression=4x", "opensearch://h/other", "opensearch://g/docs"):
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
        index = opensearch.OpenSearchIndex("d", cluster(one), "i", 9, mapping.Options())
        with pytest.raises(IndexingError, match="can't search i"):
            index.search(QUERY)


# ---- a real node


@pytest.fixture
def place() -> opensearch.OpenSearch:
    return connect(engines.url(f"test-{uuid4().hex}"))


@pytest.fixture
def both(place: opensearch.OpenSearch, tmp_path: Path) -> Iterator[tuple[Index, Index]]:
    chunks, vectors = [*CHUNKS, SHORT], [*VECTORS, VECTORS[5]]
    for at in (local.Folders(), place):
        at.build(tmp_path / type(at).__name__, "d", chunks, np.stack(vectors))
    with closing(local.open(tmp_path / "Folders", "d")) as here, closing(place.open(tmp_path / "OpenSearch", "d")) as there:
        yield here, there


TEXTS = ["Which gasket does the rotor need?", "serial123 serial7", "valve", "pump pump boiler seals", CHUNKS[9].text, "nothing known", ""]


CHANGES: list[dict[str, Any]] = [{}, {"bigram_weight": 1.0}, {"bigram_weight": 0.0}, {"groups": ("staff",)}, {"filter": {"language": "de"}}]


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


def cosines(found: list[Candidate]) -> list[float]:
    """Of the dense list, best first: chunks may swap that are nearer to each other than the local index's rounding."""
    return sorted((one.dense for one in found if one.in_dense), reverse=True)


def shares(found: list[Candidate]) -> list[float]:
    """Of the keyword list, likewise."""
    return sorted((one.keyword for one in found if one.in_keyword), reverse=True)


def test_what_is_in_the_index_need_not_be_encoded_again(both: tuple[Index, Index]) -> None:
    asked: list[Chunk] = [CHUNKS[3], replace(CHUNKS[4], text="edited"), replace(CHUNKS[5], id="new")]
    here, there = (index.encoded(asked) for index in both)
    assert here.keys() == there.keys() == {CHUNKS[3].id}
    assert there[CHUNKS[3].id] == pytest.approx(VECTORS[3], abs=1e-6)


def ask(index: opensearch.OpenSearchIndex, method: str, path: str, body: object = None) -> Any:
    cluster = index._cluster
    assert cluster
    return cluster.ask(method, path.replace("INDEX", index._name), body)


def test_a_load_that_died_half_way_is_gone_on_with(place: opensearch.OpenSearch, tmp_path: Path) -> None:
    place.build(tmp_path / "one", "d", CHUNKS, VECTORS)
    index = place.open(tmp_path / "one", "d")
    before = index.search(QUERY)
    ask(index, "PUT", "/INDEX/_mapping", {"_meta": {"digest": "d"}})
    with pytest.raises(IndexingError, match="no whole index"):
        place.open(tmp_path / "one", "d")
    place.build(tmp_path / "two", "d", CHUNKS, VECTORS)
    assert place.open(tmp_path / "two", "d").search(QUERY) == before
    assert ask(index, "GET", "/INDEX/_stats/docs")["_all"]["primaries"]["docs"] == {"count": 300, "deleted": 0}


def test_a_whole_index_takes_no_more_documents(place: opensearch.OpenSearch, tmp_path: Path) -> None:
    place.build(tmp_path, "d", CHUNKS, VECTORS)
    with pytest.raises(IndexingError, match="answered 403"):
        ask(place.open(tmp_path, "d"), "PUT", "/INDEX/_doc/x", {})


def test_an_index_that_is_removed_is_gone_and_may_be_removed_again(place: opensearch.OpenSearch, tmp_path: Path) -> None:
    place.build(tmp_path, "d", CHUNKS, VECTORS)
    name = json.loads((tmp_path / indexes.PLACE).read_text())["index"]
    for _ in range(2):
        place.remove(name)
        with pytest.raises(IndexingError, match="no whole index"):
            place.open(tmp_path, "d")


def test_a_read_only_cluster_is_found_before_any_work(place: opensearch.OpenSearch) -> None:
    node_url = engines.url("x").replace("opensearch", "http").removesuffix("/x")
    block: dict[str, Any] = {"persistent": {"cluster.blocks.create_index": True}}
    urllib3.request("PUT", f"{node_url}/_cluster/settings", json=block)
    try:
        with pytest.raises(IndexingError, match="takes no writes"):
            place.check()
    finally:
        urllib3.request("PUT", f"{node_url}/_cluster/settings", json={"persistent": {"cluster.blocks.create_index": None}})


def test_a_red_cluster_is_found_before_any_work(place: opensearch.OpenSearch) -> None:
    """An index whose only shard may lie on no node."""
    lost = engines.url(f"lost-{uuid4().hex}").replace("opensearch", "http")
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
    return config.override(settings, "index", url=engines.url(f"test-{uuid4().hex}"))


def hits(settings: Settings, name: str | None = None) -> list[tuple[str, float]]:
    found = project.retrieve(settings, store.connect(settings.store_url), "How long is the pump primed?", ("public",), name, 5)
    return [(hit.chunk.id, round(hit.fused, 3)) for hit in found]


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
    url = settings.index.url.replace("opensearch", "http")
    host, _, prefix = url.rpartition("/")
    found = urllib3.request("GET", f"{host}/_alias/{prefix}-production").json()
    return [name.removeprefix(f"{prefix}-") for name in found]
