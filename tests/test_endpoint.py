"""Vectors that Elasticsearch asks Ragstone for: what it is told, what a search says, and what is wrong before any work.

No node of Maven Central has the module, so a real one is only asked whether it says so.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragstone import address, config, endpoint, project, store
from ragstone import index as indexes
from ragstone.config import Settings
from ragstone.errors import ConfigError, IndexingError
from ragstone.hosted import FORMAT
from ragstone.index import elasticsearch
from ragstone.inference import CHUNK, QUERY, Model
from ragstone.show import Silence, ignored
from tests import elastic_node, node
from tests.conformance.test_index import CHUNKS, VECTORS
from tests.test_elasticsearch import WELL

MODEL, KEY = Model("0" * 64, 3), "rs-secret"
EMBEDDINGS = config.Index().embeddings
AT = {kind: f"/_inference/text_embedding/{endpoint.name(EMBEDDINGS, MODEL.digest, kind)}" for kind in (QUERY, CHUNK)}
MADE = {"service_settings": {"dimensions": 3}}
ABLE = {**WELL, **{f"PUT {at}": MADE for at in AT.values()}, **{f"PUT {at}/_update": MADE for at in AT.values()}}
"""A cluster that makes vectors, and has none of the endpoints yet."""


def connect(at: str, **more: str) -> elasticsearch.Inferring:
    place = elasticsearch.connect(config.Index(url=at, inference=config.ENGINE, **({"embeddings_key": KEY} | more)))
    assert isinstance(place, elasticsearch.Inferring)
    return place


def refused(answers: dict[str, Any], model: Model = MODEL) -> IndexingError:
    with node.running({**ABLE, **answers}) as one, pytest.raises(IndexingError) as caught:
        connect(f"elasticsearch://{one.address}/docs").prepare(model)
    assert KEY not in str(caught.value)
    return caught.value


def test_each_kind_of_text_has_an_endpoint_that_asks_our_own_embeddings() -> None:
    with node.running(ABLE) as one:
        connect(f"elasticsearch://{one.address}/docs").prepare(MODEL)
    made = {asked: json.loads(body) for asked, body in zip(one.asked, one.bodies, strict=True) if asked.startswith("PUT ")}
    assert list(made) == [f"PUT {AT[QUERY]}", f"PUT {AT[CHUNK]}"]
    assert made[f"PUT {AT[QUERY]}"] == {
        "service": "openai",
        "service_settings": {
            "url": f"{EMBEDDINGS}?input_type=query",
            "model_id": f"models/{MODEL.digest}",
            "similarity": "cosine",
            "api_key": KEY,
        },
    }


def test_an_endpoint_that_is_there_gets_todays_key_and_nothing_else() -> None:
    there: dict[str, Any] = {f"GET {at}": {"endpoints": [{}]} for at in AT.values()}
    with node.running({**ABLE, **there}) as one:
        connect(f"elasticsearch://{one.address}/docs").prepare(MODEL)
    sent = [(asked, json.loads(body)) for asked, body in zip(one.asked, one.bodies, strict=True) if asked.startswith("PUT ")]
    assert sent == [(f"PUT {at}/_update", {"service_settings": {"api_key": KEY}}) for at in AT.values()]


REFUSALS = [
    (403, "current license is non-compliant for [inference]", "_license/start_trial"),
    (400, "no handler found for uri [/_inference] and method [PUT]", 'index.inference = "client"'),
    (400, f"Received an authentication error status code: invalid_api_key {KEY}", "ragstone keys create"),
    (400, "Could not complete inference endpoint creation: Connection refused", "ragstone serve"),
]


@pytest.mark.parametrize(("status", "reason", "hint"), REFUSALS)
def test_an_engine_that_makes_no_vectors_is_told_of_with_what_helps(status: int, reason: str, hint: str) -> None:
    error = refused({f"PUT {AT[QUERY]}": (status, {"error": {"reason": reason}})})
    assert f"makes no vectors by {EMBEDDINGS}: {reason.replace(KEY, '…')}" in error.message
    assert hint in error.hint


def test_dimensions_that_differ_are_told() -> None:
    assert "vectors of 3 dimensions; the model 000000000000 has 512" in refused({}, replace(MODEL, dimensions=512)).message


def test_an_engine_without_a_key_is_told_how_to_make_one() -> None:
    with node.running(ABLE) as one, pytest.raises(ConfigError, match=r"index\.embeddings_key is empty"):
        connect(f"elasticsearch://{one.address}/docs", embeddings_key="").prepare(MODEL)


def test_nothing_is_staged_for_an_engine_that_makes_no_vectors(settings: Settings, manuals: Path) -> None:
    kept = store.connect(settings.store_url)
    with node.running(WELL) as one:
        there = config.override(settings, "index", url=f"elasticsearch://{one.address}", inference=config.ENGINE, embeddings_key=KEY)
        with pytest.raises(IndexingError):
            project.build(there, kept, Silence())
    assert not list(kept.list("indexes/"))


FEW = CHUNKS[:5]


def loading(name: str, pipelines: list[str]) -> dict[str, Any]:
    """The answers of a cluster that takes every chunk."""
    taken = {"items": [{"create": {"_id": chunk.id, "status": 201}} for chunk in FEW]}
    there = ("PUT /{}", "PUT /{}/_settings", "POST /{}/_refresh", "PUT /{}/_mapping")
    filled = {f"POST /{name}/_bulk": taken, f"GET /{name}/_count": {"count": len(FEW)}}
    return {**ABLE, **{one.format(name): {} for one in there}, **filled, **{f"PUT /_ingest/pipeline/{one}": {} for one in pipelines}}


def test_chunks_without_a_vector_go_through_the_pipeline_and_the_others_bring_theirs(tmp_path: Path) -> None:
    own = endpoint.name(EMBEDDINGS, MODEL.digest, CHUNK)
    with node.running(loading("docs-d", [own, "vector-ingest"])) as one:
        place = connect(f"elasticsearch://{one.address}/docs", pipeline="vector-ingest")
        place.ingest(tmp_path, "d", FEW, lambda row: VECTORS[row] if row else None, MODEL, ignored)
    sent = dict(zip(one.asked, one.bodies, strict=True))
    (bulk,) = [body for asked, body in sent.items() if asked.endswith("_bulk")]
    lines = [json.loads(line) for line in bulk.splitlines()]
    through = [
        (action["create"].get("pipeline"), sorted({"vector", "passage"} & document.keys()))
        for action, document in zip(lines[::2], lines[1::2], strict=True)
    ]
    assert sorted(through, key=str) == sorted([(own, ["passage"]), *[(None, ["vector"])] * (len(FEW) - 1)], key=str)
    inference, tidy = json.loads(sent[f"PUT /_ingest/pipeline/{own}"])["processors"]
    assert inference == {"inference": {"model_id": own, "input_output": [{"input_field": "passage", "output_field": "vector"}]}}
    assert "passage" in tidy["remove"]["field"]
    assert json.loads(sent["PUT /_ingest/pipeline/vector-ingest"])["processors"] == [{"pipeline": {"name": own}}]


HIT = {"_id": CHUNKS[0].id, "_score": 0.9}
FOUND = {"timed_out": False, "_shards": {"failed": 0}, "hits": {"total": {"value": 1}, "hits": [HIT]}}


def test_a_question_goes_as_text_to_the_endpoint_that_the_index_was_made_with(tmp_path: Path) -> None:
    meta = {"chunks": 1, "format": FORMAT, "model": "ragstone-query-old"}
    there = {"GET /docs-d": {"docs-d": {"mappings": {"_meta": meta}}}, "POST /docs-d/_msearch": {"responses": [FOUND]}}
    with node.running(there) as one:
        address.write(tmp_path, f"elasticsearch://{one.address}/docs", "docs-d")
        with closing(connect(f"elasticsearch://{one.address}/docs").open(tmp_path, "d")) as index:
            assert index.encodes
            (found,) = index.search(indexes.Query("the", indexes.UNMADE, ("public",), 5))  # a word that only the vector knows
            assert index.search(indexes.Query(" \n", indexes.UNMADE, ("public",), 5)) == []
    searches = [json.loads(line) for line in one.bodies[-1].splitlines()[1::2]]
    assert [search["query"]["knn"]["query_vector_builder"] for search in searches] == [
        {"text_embedding": {"model_id": "ragstone-query-old", "model_text": "the"}}
    ]
    assert found.dense == pytest.approx(0.8)


def test_where_vectors_are_asked_for_decides_the_digest() -> None:
    asked = [connect("elasticsearch://h/docs", embeddings=f"http://{host}/v1/embeddings").identity for host in ("a", "b")]
    plain = elasticsearch.connect(config.Index(url="elasticsearch://h/docs")).identity
    assert len({str(identity) for identity in (plain, *asked)}) == 3


@pytest.mark.parametrize(
    "wrong",
    [{"embeddings": "127.0.0.1:8801"}, {"embeddings": "http://me:hunter2@h/v1/embeddings"}, {"pipeline": "a/b"}, {"pipeline": "*"}],
)
def test_an_address_or_a_name_that_can_not_be_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))) as caught:
        connect("elasticsearch://h", **wrong)
    assert "hunter2" not in str(caught.value)


def test_a_real_elasticsearch_node_without_the_module_is_told_of_before_any_work() -> None:
    place = connect(elastic_node.url("test-inference"))
    with pytest.raises(IndexingError, match=r"makes no vectors by .*: no handler found") as caught:
        place.prepare(MODEL)
    assert 'index.inference = "client"' in caught.value.hint
