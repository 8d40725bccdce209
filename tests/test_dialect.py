"""Elasticsearch's JSON, and that of the seed to the letter, as Ragstone's settings; and that what is told beforehand is what is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ragstone import config, dialect, indexing, inference, project, store
from ragstone.corpus import snapshot
from ragstone.errors import ConfigError, IndexingError
from ragstone.show import Silence
from tests import node
from tests.test_cli import ragstone

PIPELINE = 'PUT /_ingest/pipeline/vector-ingest {"processors": [{"inference": {"model_id": "custom-emb"}}]}'
"""The seed's own, to the letter."""

INDEX = config.Index(url="opensearch://127.0.0.1:9200/docs?m=8&ef_search=64")


def mapped(field: dict[str, Any], **others: Any) -> str:
    return json.dumps({"mappings": {"properties": {"embedding": {"type": "dense_vector", **field}, **others}}})


def test_the_seeds_pipeline_lets_the_engine_make_vectors_under_its_name() -> None:
    made = dialect.translate(INDEX, "", PIPELINE)
    assert (made.index.inference, made.index.pipeline, made.index.url) == ("engine", "vector-ingest", INDEX.url)
    told = " ".join(made.notes)
    for reason in ("the neural query", "OpenSearch's is text_embedding", "'custom-emb' stands for the model in force"):
        assert reason in told


def test_the_same_pipeline_means_the_same_at_elasticsearch_where_a_mapping_is_said_by_the_url() -> None:
    there = config.Index(url="elasticsearch://127.0.0.1:9200/docs")
    made = dialect.translate(there, "", PIPELINE)
    assert (made.index.inference, made.index.pipeline) == ("engine", "vector-ingest")
    assert "query_vector_builder" in " ".join(made.notes)
    assert "OpenSearch" not in " ".join(made.notes)
    with pytest.raises(ConfigError, match=r"m, ef_construction in index\.url"):
        dialect.translate(there, mapped({}), "")


def test_a_mapping_decides_the_graph_and_keeps_what_it_does_not_say() -> None:
    field = {"dims": 384, "index": True, "similarity": "cosine", "index_options": {"type": "int8_hnsw", "m": 24, "ef_construction": 200}}
    made = dialect.translate(INDEX, mapped(field, title={"type": "text"}), "")
    assert made.index.url == "opensearch://127.0.0.1:9200/docs?m=24&ef_search=64&ef_construction=200&compression=4x"
    assert (made.dimensions, made.index.inference) == (384, "client")
    told = " ".join(made.notes)
    for reason in ("knn_vector", "'embedding' is called vector", "title is not made", "compression_level 4x"):
        assert reason in told


def test_a_mapping_that_says_little_changes_nothing() -> None:
    assert dialect.translate(INDEX, mapped({}), "").index == INDEX
    assert dialect.translate(INDEX, "", "") == dialect.Translation(INDEX, None, ())


def test_another_similarity_is_taken_with_the_reason() -> None:
    assert "vectors have length 1" in " ".join(dialect.translate(INDEX, mapped({"similarity": "l2_norm"}), "").notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not JSON", "neither a JSON object nor a request"),
        ('{"mappings": ', "is not JSON"),
        ("{}", "0 fields of the type dense_vector"),
        ('{"properties": {"a": {"type": "dense_vector"}, "b": {"type": "dense_vector"}}}', "2 fields"),
        (mapped({"dims": "many"}), "dims = 'many' is not a whole number"),
        (mapped({"index": False}), "only indexed vectors of float"),
        (mapped({"element_type": "bit"}), "only indexed vectors of float"),
        (mapped({"similarity": "jaccard"}), "'jaccard' is none of cosine"),
        (mapped({"index_options": {"type": "bbq_disk"}}), "'bbq_disk' has no like"),
        (mapped({"index_options": {"rescore_vector": {"oversample": 3}}}), "'rescore_vector' can't be translated"),
        (mapped({"synthetic": 1}), "'synthetic' can't be translated"),
    ],
)
def test_a_mapping_that_can_not_be_meant_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dialect.translate(INDEX, text, "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"processors": []}', "must have one processor"),
        ('{"processors": [{"set": {"field": "a"}}]}', "must have one processor"),
        ('{"processors": [{"inference": {}}]}', "inference has no model_id"),
        ('{"processors": [{"inference": {"model_id": "m"}}], "on_failure": []}', "'on_failure' can't be translated"),
    ],
)
def test_a_pipeline_that_can_not_be_meant_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dialect.translate(INDEX, "", text)


def test_dims_that_are_not_the_models_are_an_error_before_any_work() -> None:
    made = dialect.translate(INDEX, mapped({"dims": 768}), "")
    with pytest.raises(IndexingError, match="dims 768; the model in force has 384"):
        made.check(384)
    dialect.translate(INDEX, mapped({}), "").check(384)


# ---- what is told


def test_the_seeds_json_is_explained_and_nothing_is_sent(tmp_path: Path, manuals: Path) -> None:
    (tmp_path / "mapping.json").write_text(mapped({"dims": 384}))
    (tmp_path / "pipeline.json").write_text(PIPELINE)
    files = ["--mapping", "mapping.json", "--pipeline", "pipeline.json"]
    with node.running({}) as one:
        (tmp_path / "ragstone.toml").write_text(f'[index]\nurl = "{one.url}"\n')
        ragstone(tmp_path, "stage", "docs")
        told = ragstone(tmp_path, "index", *files, "--explain").stdout
        assert one.asked == []
    assert f"PUT http://{one.address}/_ingest/pipeline/vector-ingest\n" in told
    for said in ('"type":"knn_vector"', '"text_embedding":{"model_id":"MODEL_ID_OF_CHUNK"', '"neural":{"vector":', 'inference = "engine"'):
        assert said in told


def answers(name: str, chunks: int) -> dict[str, Any]:
    """A cluster that knows nothing yet and does all that is asked."""
    vector = {"inference_results": [{"output": [{"data": [0.0] * 384}]}]}
    found = [{"hits": {"hits": [{"_id": id} for id in ids]}} for ids in ([], [], ["MODEL_ID_OF_CHUNK"])]
    return {
        **node.WELL,
        "GET /_cat/plugins": [{"component": plugin} for plugin in ("opensearch-knn", *inference.PLUGINS)],
        f"POST {inference.SEARCH}": [(200, answer) for answer in found],
        f"POST {inference.REGISTER}": [(200, {"model_id": id}) for id in ("MODEL_ID_OF_QUERY", "MODEL_ID_OF_CHUNK")],
        **{f"POST /_plugins/_ml/models/MODEL_ID_OF_{kind}/_predict": vector for kind in ("QUERY", "CHUNK")},
        f"POST /{name}/_bulk": {"items": [{"create": {"_id": "x", "status": 201}}] * chunks},
        f"POST /{name}/_refresh": {},
        f"GET /{name}/_count": {"count": chunks},
    }


@pytest.mark.parametrize("who", [config.CLIENT, config.ENGINE])
def test_what_is_sent_is_what_explain_says(who: str, settings: config.Settings, manuals: Path) -> None:
    kept = store.connect(settings.store_url)
    project.stage(settings, kept, Silence())
    made, model = project.snapshot(settings, kept, Silence()), project.incumbent(settings, kept, Silence())
    with node.running({}) as one:
        there = config.override(settings, "index", url=one.url, inference=who, embeddings_key="THE_KEY", pipeline="vector-ingest")
        told = [step.splitlines()[1:] for step in indexing.explain(there, kept, made, model)]
        name = next(line.rpartition("/")[2] for line, *_ in told if line.startswith("GET") and "/docs-" in line)
        one.answers |= answers(name, len(snapshot.load(kept, made).chunks))
        one.answers |= {f"PUT {line.partition(one.address)[2]}": {} for line, *_ in told if line.startswith("PUT")}
        indexing.index(there, kept, made, model, Silence())
    explained = {(line.replace(f"http://{one.address}", "").partition("?")[0], *body) for line, *body in told}
    sent = {(asked, *([body.decode()] if body else [])) for asked, body in zip(one.asked, one.bodies, strict=True) if "_bulk" not in asked}
    assert sent <= explained
    left = {line for line, *_ in explained - sent}
    again = {f"{method} /_plugins/_ml/models/MODEL_ID_OF_{kind}{end}" for kind in ("QUERY", "CHUNK") for method, end in
             (("PUT", ""), ("POST", "/_undeploy"))}  # fmt: skip
    assert left == {f"POST /{name}/_bulk", f"POST /{name}/_msearch"} | (again if who == config.ENGINE else set())
