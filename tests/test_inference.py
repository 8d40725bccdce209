"""Vectors that OpenSearch asks Ragstone for: the same as Ragstone's own, and what is wrong before any work.

Most of it needs a real node (`make engines`), which asks a real origin over HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import urllib3

from ragstone import config, indexing, inference, project, release, store
from ragstone import index as indexes
from ragstone.config import Settings
from ragstone.corpus import Chunk, snapshot
from ragstone.corpus.views import views
from ragstone.errors import ConfigError, IndexingError, RagstoneError
from ragstone.inference import CHUNK, QUERY, Model
from ragstone.retrieve import Calibration, Retriever, fuse
from ragstone.show import Silence
from tests import engines, node
from tests.origins import Origin, Site, running, site
from tests.speaker import speaking
from tests.test_cli import ragstone
from tests.test_dialect import PIPELINE, mapped

LONG = " ".join(
    f'Step {step}: turn the "governor" valve \\\\ by {step} degrees, {{wait}} <10 s> & note the °C/bar; then grease bearing {step * 7}.'
    for step in range(1, 40)
)
"""Several chunks of more than one window, with everything that JSON must carry."""

QUESTIONS = ["How long is the feed pump primed?", "bonnet torque", 'which "valve" \\ {cuts} the steam?', "grease bearing 49", "漢字", "\n"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    engines.url("needed")
    folder = tmp_path_factory.mktemp("origin")
    (folder / "docs").mkdir()
    (folder / "docs" / "governor.md").write_text(f"# Governor\n\n{LONG}\n")
    with speaking() as speaker, running(site(folder, speaker.url)) as made:
        yield made


@pytest.fixture(scope="module")
def client(origin: Origin) -> Settings:
    """Indexes in the node under a name of their own, with vectors of Ragstone's."""
    return config.override(origin.site.settings, "index", url=engines.url(f"test-{uuid4().hex}"))


@pytest.fixture(scope="module")
def engine(origin: Origin, client: Settings) -> Settings:
    return config.override(client, "index", inference=config.ENGINE, embeddings=f"{origin.url}/v1/embeddings", embeddings_key=origin.token)


def built(settings: Settings, at: Site) -> str:
    """The digest of the index of what the release in force is made of."""
    current = release.load(at.store, release.resolve(at.store, "production"))
    return indexing.index(settings, at.store, current.snapshot, current.model, Silence())


def opened(settings: Settings, at: Site, digest: str) -> indexes.Index:
    return indexes.open(store.fetch(at.store, f"indexes/{digest}"), digest, settings.index)


@pytest.fixture(scope="module")
def both(origin: Origin, client: Settings, engine: Settings) -> Iterator[tuple[indexes.Index, indexes.Index]]:
    """The same chunks twice: with vectors of Ragstone's, and with vectors that the engine asked for."""
    one, other = (opened(settings, origin.site, built(settings, origin.site)) for settings in (client, engine))
    with closing(one), closing(other):
        yield one, other


def chunks(at: Site) -> list[Chunk]:
    return list(snapshot.load(at.store, release.load(at.store, release.resolve(at.store, "production")).snapshot).chunks)


def embedding_model(at: Site) -> Model:
    return Model(release.load(at.store, release.resolve(at.store, "production")).model, 384)


# ---- the same


def test_vectors_that_the_engine_asks_for_are_ragstones_own(origin: Origin, both: tuple[indexes.Index, indexes.Index]) -> None:
    asked = chunks(origin.site)
    assert max(len(views(chunk)) for chunk in asked) > 3
    here, there = (index.encoded(asked) for index in both)
    assert here.keys() == there.keys() == {chunk.id for chunk in asked}
    for id, vector in here.items():
        np.testing.assert_allclose(there[id], vector, atol=1e-6)


PUBLIC = ("public",)
CALLS: list[dict[str, Any]] = [{"groups": PUBLIC}, {"groups": ("managers", *PUBLIC)}, {"groups": PUBLIC, "filter": {"type": "md"}}]


@pytest.mark.parametrize("question", QUESTIONS)
def test_both_ways_find_the_same_hits_in_the_same_order(origin: Origin, both: tuple[indexes.Index, indexes.Index], question: str) -> None:
    embedder = project.open_model(origin.site.store, embedding_model(origin.site).digest)
    ways = [Retriever(index, embedder, Calibration.default()) for index in both]
    for call in CALLS:
        here, there = (way.search(question, limit=50, **call) for way in ways)
        if not question.strip():
            assert there == []
            continue
        assert [hit.chunk.id for hit in there] == [hit.chunk.id for hit in here]
        for left, right in zip(here, there, strict=True):
            assert (right.dense, right.keyword, right.score) == pytest.approx((left.dense, left.keyword, left.score), abs=1e-5)


def test_the_vector_of_a_question_is_made_by_the_engine_alone(both: tuple[indexes.Index, indexes.Index]) -> None:
    asked = indexes.Query("How long is the feed pump primed?", indexes.UNMADE, ("public",), 5)
    here, there = both
    assert (here.encodes, there.encodes) == (False, True)
    assert there.search(asked)


def test_the_engine_fuses_lists_of_vectors_that_it_asked_for(
    origin: Origin, engine: Settings, both: tuple[indexes.Index, indexes.Index]
) -> None:
    asked = indexes.Query(QUESTIONS[2], indexes.UNMADE, PUBLIC, 50)  # one that has words in several chunks
    expected = {one.chunk: fused for one, fused in fuse(both[1].search(asked), 0.5)}
    fusing = config.override(engine, "index", url=f"{engine.index.url}?fusion=linear")
    with closing(opened(fusing, origin.site, built(fusing, origin.site))) as index:
        found = {one.chunk: fused for one, fused in fuse(index.search(asked), 0.5)}
    assert found == pytest.approx(expected, abs=1.1e-3)


# ---- a release


@pytest.mark.slow
def test_a_release_is_answered_through_the_engine_under_more_questions_than_threads(origin: Origin, engine: Settings) -> None:
    project.build(engine, origin.site.store, Silence())
    with running(replace(origin.site, settings=engine)) as serving, ThreadPoolExecutor(12) as pool:
        asked = [{"query": question, "top_k": 3} for question in QUESTIONS[:4] * 6]
        replies = list(pool.map(lambda body: serving.request("POST", "/v1/retrieve", body), asked))
        assert {reply.status for reply in replies} == {200}
        assert {reply.json["data"][0]["document"] for reply in replies[::4]} == {"pump.md"}


# ---- what the engine keeps


def ask(settings: Settings, method: str, path: str, body: object = None) -> Any:
    host = settings.index.url.replace("opensearch", "http").rpartition("/")[0]
    return urllib3.request(method, host + path, json=body).json()


def registered(engine: Settings, model: Model, kind: str) -> list[str]:
    wanted = {"term": {"name.keyword": inference.name(engine.index.embeddings, model.digest, kind)}}
    found = ask(engine, "POST", inference.SEARCH, {"query": wanted})
    return [hit["_id"] for hit in found["hits"]["hits"]]


def test_a_model_is_registered_once_and_gets_todays_key(origin: Origin, engine: Settings) -> None:
    place, model = indexes.connect(engine.index), embedding_model(origin.site)
    assert isinstance(place, indexes.Encoding)
    place.prepare(model)
    before = [registered(engine, model, kind) for kind in (QUERY, CHUNK)]
    assert [len(ids) for ids in before] == [1, 1]
    wrong = indexes.connect(replace(engine.index, embeddings_key="forged"))
    assert isinstance(wrong, indexes.Encoding)
    with pytest.raises(IndexingError, match="invalid_api_key"):
        wrong.prepare(model)
    place.prepare(model)
    assert [registered(engine, model, kind) for kind in (QUERY, CHUNK)] == before


def test_a_model_that_the_engine_lost_is_told_and_found_again_once_it_is_registered(origin: Origin, engine: Settings) -> None:
    digest, model = built(engine, origin.site), embedding_model(origin.site)
    (id,) = registered(engine, model, QUERY)
    ask(engine, "POST", f"/_plugins/_ml/models/{id}/_undeploy")
    ask(engine, "DELETE", f"/_plugins/_ml/models/{id}")
    with pytest.raises(IndexingError, match="has lost its model ragstone-query") as caught:
        opened(engine, origin.site, digest)
    assert caught.value.hint == "ragstone index"
    assert built(engine, origin.site) == digest
    with closing(opened(engine, origin.site, digest)) as index:
        assert index.search(indexes.Query("pump", indexes.UNMADE, PUBLIC, 5))


def test_the_key_is_neither_in_the_store_nor_shown_by_the_engine(origin: Origin, engine: Settings) -> None:
    built(engine, origin.site)
    secret = origin.token
    folder = Path(origin.site.settings.store_url.removeprefix("file://"))
    assert not [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    for kind in (QUERY, CHUNK):
        (id,) = registered(engine, embedding_model(origin.site), kind)
        assert secret not in str(ask(engine, "GET", f"/_plugins/_ml/models/{id}"))
    assert secret not in repr(engine)


def test_the_pipeline_can_have_another_name(origin: Origin, engine: Settings) -> None:
    named = config.override(engine, "index", pipeline=f"vector-ingest-{uuid4().hex}", url=f"{engine.index.url}-named")
    built(named, origin.site)
    own = inference.name(engine.index.embeddings, embedding_model(origin.site).digest, CHUNK)
    found = ask(named, "GET", f"/_ingest/pipeline/{named.index.pipeline}")[named.index.pipeline]
    assert found["processors"] == [{"pipeline": {"name": own}}]
    assert "text_embedding" in str(ask(named, "GET", f"/_ingest/pipeline/{own}"))


def test_the_seeds_json_is_typed_at_a_real_node(origin: Origin, engine: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command itself, as a process."""
    for name, value in [("URL", engine.index.url), ("EMBEDDINGS", engine.index.embeddings), ("EMBEDDINGS_KEY", origin.token)]:
        monkeypatch.setenv(f"RAGSTONE_INDEX_{name}", value)
    (tmp_path / "pipeline.json").write_text(PIPELINE)
    (tmp_path / "mapping.json").write_text(mapped({"dims": 384, "index_options": {"type": "hnsw", "m": 24}}))
    files = ["--mapping", str(tmp_path / "mapping.json"), "--pipeline", str(tmp_path / "pipeline.json")]
    done = ragstone(origin.site.settings.folder, "index", *files)
    assert origin.token not in done.stdout + done.stderr
    _, _, prefix = engine.index.url.rpartition("/")
    made = ask(engine, "GET", f"/{prefix}-{done.stdout.strip()[:32]}")
    field = next(iter(made.values()))["mappings"]["properties"]["vector"]
    assert (field["type"], field["dimension"], field["method"]["parameters"]["m"]) == ("knn_vector", 384, 24)
    assert "vector-ingest" in ask(engine, "GET", "/_ingest/pipeline/vector-ingest")


# ---- what is wrong before any work


def refused(settings: Settings, model: Model) -> RagstoneError:
    place = indexes.connect(settings.index)
    assert isinstance(place, indexes.Encoding)
    with pytest.raises(RagstoneError) as caught:
        place.prepare(model)
    assert settings.index.embeddings_key == "" or settings.index.embeddings_key not in str(caught.value)
    return caught.value


def test_an_endpoint_that_the_engine_does_not_trust_is_named_with_the_setting(origin: Origin, engine: Settings) -> None:
    untrusted = config.override(engine, "index", embeddings="http://localhost:8801/v1/embeddings")
    error = refused(untrusted, embedding_model(origin.site))
    assert "can't ask http://localhost:8801/v1/embeddings: Connector URL is not matching" in error.message
    assert '{"plugins.ml_commons.trusted_connector_endpoints_regex": ["^http://localhost:8801/.*$"]}' in error.hint


def test_an_address_in_a_private_network_is_named_with_the_setting(origin: Origin, engine: Settings) -> None:
    setting = "plugins.ml_commons.connector.private_ip_enabled"
    other = config.override(engine, "index", embeddings=f"{origin.url}/{uuid4().hex}")  # one that was asked before is not looked at again
    ask(engine, "PUT", "/_cluster/settings", {"persistent": {setting: False}})
    try:
        error = refused(other, embedding_model(origin.site))
    finally:
        ask(engine, "PUT", "/_cluster/settings", {"persistent": {setting: None}})
    assert "private ip" in error.message
    assert f'"{setting}": true' in error.hint


def test_dimensions_that_differ_are_told(origin: Origin, engine: Settings) -> None:
    error = refused(engine, replace(embedding_model(origin.site), dimensions=512))
    assert "vectors of 384 dimensions" in error.message
    assert "has 512" in error.message


def test_an_origin_that_nobody_runs_or_that_lacks_the_model_is_told(origin: Origin, engine: Settings) -> None:
    nobody = config.override(engine, "index", embeddings="http://127.0.0.1:9/v1/embeddings")
    assert "ragstone serve" in refused(nobody, embedding_model(origin.site)).hint
    assert "this project's store" in refused(engine, Model("0" * 64, 384)).hint


def test_a_plugin_that_is_missing_is_named_before_anything_is_staged_for_it(settings: Settings, manuals: Path) -> None:
    plugins = [{"component": "opensearch-knn"}, {"component": "opensearch-ml"}]
    kept = store.connect(settings.store_url)
    with node.running({**node.WELL, "GET /_cat/plugins": plugins}) as one:
        there = config.override(settings, "index", url=one.url, inference=config.ENGINE, embeddings_key="k")
        with pytest.raises(IndexingError, match="no neural-search plugin"):
            project.build(there, kept, Silence())
    assert not list(kept.list("indexes/"))


def test_an_engine_without_a_key_is_told_how_to_make_one() -> None:
    plugins = [{"component": name} for name in ("opensearch-knn", *inference.PLUGINS)]
    with node.running({**node.WELL, "GET /_cat/plugins": plugins}) as one:
        place = indexes.connect(config.Index(url=one.url, inference=config.ENGINE))
        assert isinstance(place, indexes.Encoding)
        with pytest.raises(ConfigError, match=r"index\.embeddings_key is empty") as caught:
            place.prepare(Model("0" * 64, 384))
    assert "ragstone keys create" in caught.value.hint


@pytest.mark.parametrize(
    ("url", "who", "words"),
    [
        ("local", "engine", "needs an engine"),
        ("local", "nobody", "neither client nor engine"),
        ("opensearch://h/?compression=4x", "engine", "needs engine=lucene and compression=1x"),
    ],
)
def test_inference_that_can_not_be_is_refused(url: str, who: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        indexes.connect(config.Index(url=url, inference=who))


@pytest.mark.parametrize(
    "wrong",
    [{"embeddings": "127.0.0.1:8801"}, {"embeddings": "http://me:hunter2@h/v1/embeddings"}, {"pipeline": "a/b"}, {"pipeline": "*"}],
)
def test_an_address_or_a_name_that_can_not_be_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))) as caught:
        indexes.connect(replace(config.Index(url="opensearch://h", inference=config.ENGINE), **wrong))
    assert "hunter2" not in str(caught.value)


def test_where_vectors_are_asked_for_decides_the_digest() -> None:
    plain = config.Index(url="opensearch://h/docs")
    asked = [replace(plain, inference=config.ENGINE, embeddings=f"http://{host}/v1/embeddings") for host in ("a", "b")]
    assert len({str(indexes.connect(index).identity) for index in (plain, *asked)}) == 3
