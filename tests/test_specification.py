"""What is sent to a search engine is what its project's own API specification knows; skipped, loudly, where that is not given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ragstone import address, config
from ragstone import index as indexes
from ragstone.hosted import FORMAT, Hosted
from ragstone.inference import Model
from tests import node, specification
from tests.conformance.test_index import CHUNKS, QUERY
from tests.specification import Specification

PLACES = {
    "opensearch": ["", "?shards=3&replicas=2&compression=4x", "?fusion=linear", "?fusion=rrf"],
    "elasticsearch": ["", "?shards=3&replicas=2&type=bbq_hnsw", "?fusion=linear", "?fusion=rrf"],
}

UNSAID = {
    "opensearch": {
        r"_settings: index/(blocks\.write|refresh_interval): None is not": "null puts a setting back",
        r"_termvectors: : Unevaluated .*term_statistics": "what the query may say is read from the body too",
        r"_search: search_pipeline: |_msearch: .*'search_pipeline' was": "a pipeline of the request's own",
        r"_ml/models/_search: : Unevaluated .*'_source'": "a search like any other",
        r"_ml/models/_register: : Unevaluated .*'connector'": "a connector of the model's own, which the guide to remote models has",
        r"_predict: parameters(/input)?: ": "a list where the connector's request takes one",
        r"_msearch: 1: .*'query'": "method_parameters of a neural query",
    },
    "elasticsearch": {
        r"_update: : 'service' is a required": "what an endpoint that is there can't change, and refuses",
        r"_meta": "values of _meta, which are anybody's",
        r"PUT /docs-d: mappings: Unevaluated": "the same, seen from above",
        r"PUT /docs-d: settings": "shards, replicas and similarities, which Serverless has not",
        r"_settings: index": "write blocks, replicas, and null to put a setting back, likewise",
    },
}
"""What engines take though their specifications do not say so: OpenSearch's of 2026-08-21, Elasticsearch Serverless' of 2026-08-20."""

Request = tuple[str, str, bytes]
"""Method, path without the query, body."""


@pytest.fixture(params=PLACES, scope="module")
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def known(engine: str) -> Specification:
    return specification.read(engine)


def connect(engine: str, address: str, options: str, **more: str) -> Hosted:
    place = indexes.connect(config.Index(url=f"{engine}://{address}/docs{options}", **more))
    assert isinstance(place, Hosted)
    return place


def told(place: Hosted) -> Iterator[Request]:
    """What an explanation says would be sent."""
    for request in place.explain("d", 9, Model("m", 3)):
        head, _, body = request.partition("\n")[2].partition("\n")
        method, url = head.split(" ")
        yield method, "/" + url.split("/", 3)[3].partition("?")[0], body.encode()


HIT = {"_id": CHUNKS[0].id, "_score": 1.5}
FOUND = {"timed_out": False, "_shards": {"failed": 0}, "hits": {"total": {"value": 1}, "hits": [HIT]}}
ANSWERS: dict[str, Any] = {
    "GET /docs-d": {"docs-d": {"mappings": {"_meta": {"chunks": 9, "format": FORMAT}}}},
    "POST /docs-d/_msearch": {"responses": [FOUND, FOUND]},
    "POST /docs-d/_termvectors": {"term_vectors": {}},
    "POST /docs-d/_mget": {"docs": [{"_id": CHUNKS[0].id, "found": True, "_source": {"chunk": asdict(CHUNKS[0])}}]},
    "POST /_aliases": {},
}


def asked(engine: str, options: str, folder: Path) -> Iterator[Request]:
    """What searching, reading chunks and moving the alias send."""
    with node.running(ANSWERS) as one:
        place = connect(engine, one.address, options)
        address.write(folder, f"{engine}://{one.address}/docs", "docs-d")
        place.point(folder, "production")
        with closing(place.open(folder, "d")) as index:
            index.search(replace(QUERY, filter={"language": "de"}))
            index.chunks([CHUNKS[0].id])
        yield from ((*request.split(" "), body) for request, body in zip(one.asked, one.bodies, strict=True))  # type: ignore[misc]


def faults(engine: str, known: Specification, requests: Iterable[Request]) -> list[str]:
    """Of the requests that have a body, but for what is known to be unsaid; some of the others are not in every edition."""
    found = [fault for method, path, body in requests if body for fault in known.faults(method, path, body)]
    return [fault for fault in found if not any(re.search(gap, fault) for gap in UNSAID[engine])]


@pytest.mark.parametrize("at", range(4))
def test_an_index_is_made_by_what_the_specification_knows(engine: str, known: Specification, at: int) -> None:
    assert faults(engine, known, told(connect(engine, "127.0.0.1:9200", PLACES[engine][at]))) == []


@pytest.mark.parametrize("at", [0, 2, 3])
def test_an_index_is_asked_by_what_the_specification_knows(engine: str, known: Specification, at: int, tmp_path: Path) -> None:
    assert faults(engine, known, asked(engine, PLACES[engine][at], tmp_path)) == []


def test_an_engine_is_told_to_make_vectors_by_what_the_specification_knows(engine: str, known: Specification) -> None:
    place = connect(engine, "127.0.0.1:9200", "", inference=config.ENGINE, embeddings_key="k")
    assert faults(engine, known, told(place)) == []


WRONG: dict[str, Any] = {"query": {"bool": {"shoud": []}}}


def test_a_misspelt_field_is_a_fault(known: Specification) -> None:
    """So the tests above can fail."""
    assert "shoud" in str(known.faults("POST", "/docs-d/_search", json.dumps(WRONG).encode()))
    assert known.faults("PATCH", "/docs-d/_search", b"{}") == ["PATCH /docs-d/_search: no such operation"]
