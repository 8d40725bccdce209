"""What every index in a search engine does beside what every index does: a real node each. A new engine adds one line to `ENGINES`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import urllib3

from ragstone import address as where
from ragstone import config, project, release, store
from ragstone import index as indexes
from ragstone.config import Settings
from ragstone.corpus import Chunk
from ragstone.errors import IndexingError
from ragstone.hosted import Hosted, HostedIndex
from ragstone.index import Candidate, Index, local
from ragstone.show import Silence
from tests import elastic_node, engines
from tests.conformance.test_index import CHUNKS, QUERY, VECTORS

ENGINES: dict[str, Callable[[str], str]] = {"opensearch": engines.url, "elasticsearch": elastic_node.url}
"""Scheme -> `index.url` for indexes of a name in the node that tests were given."""

SHORT = replace(CHUNKS[0], id="short", title="", path=(), text="gasket", metadata={})
"""A chunk of one word: it has no pair."""


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest) -> str:
    """A place of its own."""
    return ENGINES[request.param](f"test-{uuid4().hex}")


@pytest.fixture
def place(url: str) -> Hosted:
    return connect(url)


def connect(url: str) -> Hosted:
    found = indexes.connect(config.Index(url=url))
    assert isinstance(found, Hosted)
    return found


@pytest.fixture
def both(place: Hosted, tmp_path: Path) -> Iterator[tuple[Index, Index]]:
    chunks, vectors = [*CHUNKS, SHORT], [*VECTORS, VECTORS[5]]
    for name, at in (("here", local.Folders()), ("there", place)):
        at.build(tmp_path / name, "d", chunks, np.stack(vectors))
    with closing(local.open(tmp_path / "here", "d")) as here, closing(place.open(tmp_path / "there", "d")) as there:
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


def test_several_shards_find_and_score_as_one_does(both: tuple[Index, Index], url: str, tmp_path: Path) -> None:
    """Rarity is that of all shards: `dfs_query_then_fetch`."""
    spread = connect(f"{url}?shards=3&replicas=0")
    spread.build(tmp_path / "spread", "d3", [*CHUNKS, SHORT], np.stack([*VECTORS, VECTORS[5]]))
    here, _ = both
    with closing(spread.open(tmp_path / "spread", "d3")) as index:
        told = ask(index, "GET", "/INDEX/_settings")[index._name]["settings"]["index"]
        assert (told["number_of_shards"], told["number_of_replicas"]) == ("3", "0")
        for query in [replace(QUERY, text=text, **change) for text in TEXTS[:3] for change in CHANGES]:
            expected, found = ({one.chunk: one for one in way.search(replace(query, limit=400))} for way in (here, index))
            assert found.keys() == expected.keys()
            for id, one in expected.items():
                assert (found[id].dense, found[id].keyword) == pytest.approx((one.dense, one.keyword), rel=1e-3, abs=1e-3)
            assert cosines(index.search(query)) == pytest.approx(cosines(here.search(query)), abs=1e-3)


def test_what_is_in_the_index_need_not_be_encoded_again(both: tuple[Index, Index]) -> None:
    asked: list[Chunk] = [CHUNKS[3], replace(CHUNKS[4], text="edited"), replace(CHUNKS[5], id="new")]
    here, there = (index.encoded(asked) for index in both)
    assert here.keys() == there.keys() == {CHUNKS[3].id}
    assert there[CHUNKS[3].id] == pytest.approx(VECTORS[3], abs=1e-6)


def ask(index: HostedIndex, method: str, path: str, body: object = None) -> Any:
    cluster = index._cluster
    assert cluster
    return cluster.ask(method, path.replace("INDEX", index._name), body)


def test_a_load_that_died_half_way_is_gone_on_with(place: Hosted, tmp_path: Path) -> None:
    place.build(tmp_path / "one", "d", CHUNKS, VECTORS)
    index = place.open(tmp_path / "one", "d")
    before = index.search(QUERY)
    ask(index, "PUT", "/INDEX/_mapping", {"_meta": {"digest": "d"}})
    with pytest.raises(IndexingError, match="no whole index"):
        place.open(tmp_path / "one", "d")
    place.build(tmp_path / "two", "d", CHUNKS, VECTORS)
    assert place.open(tmp_path / "two", "d").search(QUERY) == before
    assert ask(index, "GET", "/INDEX/_count")["count"] == 300


def test_a_load_tells_how_far_it_is(place: Hosted, tmp_path: Path) -> None:
    told: list[int] = []
    place.build(tmp_path, "d", CHUNKS, VECTORS, told.append)
    assert told == list(range(1, len(CHUNKS) + 1))


def test_a_whole_index_takes_no_more_documents(place: Hosted, tmp_path: Path) -> None:
    place.build(tmp_path, "d", CHUNKS, VECTORS)
    with pytest.raises(IndexingError, match="answered 403"):
        ask(place.open(tmp_path, "d"), "PUT", "/INDEX/_doc/x", {})


def test_an_index_that_is_removed_is_gone_and_may_be_removed_again(place: Hosted, tmp_path: Path) -> None:
    place.build(tmp_path, "d", CHUNKS, VECTORS)
    for _ in range(2):
        place.remove(where.name(tmp_path))
        with pytest.raises(IndexingError, match="no whole index"):
            place.open(tmp_path, "d")


def address(url: str) -> str:
    """Of the node, over HTTP."""
    return "http" + url[url.index(":") : url.rindex("/")]


def test_a_read_only_cluster_is_found_before_any_work(place: Hosted, url: str) -> None:
    settings_url = f"{address(url)}/_cluster/settings"
    urllib3.request("PUT", settings_url, json={"persistent": {"cluster.blocks.read_only": True}})
    try:
        with pytest.raises(IndexingError, match=r"takes no writes: cluster\.blocks\.read_only"):
            place.check()
    finally:
        urllib3.request("PUT", settings_url, json={"persistent": {"cluster.blocks.read_only": None}})


def test_a_red_cluster_is_found_before_any_work(place: Hosted, url: str) -> None:
    """An index whose only shard may lie on no node."""
    lost = f"{address(url)}/lost-{uuid4().hex}"
    nowhere = {"settings": {"index.routing.allocation.require._name": "nobody", "number_of_replicas": 0}}
    urllib3.request("PUT", f"{lost}?wait_for_active_shards=0", json=nowhere)
    try:
        with pytest.raises(IndexingError, match="is red"):
            place.check()
    finally:
        urllib3.request("DELETE", lost)


# ---- a release


@pytest.fixture
def there(settings: Settings, url: str) -> Settings:
    return config.override(settings, "index", url=url)


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
    prefix = settings.index.url.rpartition("/")[2]
    found = urllib3.request("GET", f"{address(settings.index.url)}/_alias/{prefix}-production").json()
    return [name.removeprefix(f"{prefix}-") for name in found]
