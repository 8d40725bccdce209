"""Embedding as a service: replicas of a release's model give the vectors that this process gives, and are deployed like any service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest

from ragstone import embedder, release, service, store
from ragstone.config import Serve, Settings, override
from ragstone.embedder import Embedder
from ragstone.embeddings import Here, Scaled
from ragstone.errors import ConfigError, GeneratorError, ReleaseError
from tests.origins import Origin, Site, running, site
from tests.speaker import speaking
from tests.test_api import PRIMED
from tests.test_service import written
from tests.tiny import tiny

TEXTS = ["Prime the feed pump.", "Tighten the bonnet crosswise.", "ten drops a minute"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("model"))


def started(model: Path, case: Callable[[Scaled], Coroutine[Any, Any, None]], **serve: Any) -> None:
    async def run() -> None:
        scaled = Scaled(model, embedder.digest(model), Serve(threads=1, **serve))
        await scaled.start()
        try:
            await case(scaled)
        finally:
            await scaled.close()

    asyncio.run(run())


def test_replicas_give_the_vectors_of_this_process_to_the_bit_and_share_the_requests(model: Path) -> None:
    here = Embedder(model, threads=1)

    async def case(scaled: Scaled) -> None:
        asked = [scaled.encode(kind, TEXTS[: at + 1]) for at in range(3) for kind in ("query", "document")]
        found = await asyncio.gather(*asked)
        for at in range(3):
            np.testing.assert_array_equal(found[2 * at], here.queries(TEXTS[: at + 1]))
            np.testing.assert_array_equal(found[2 * at + 1], await Here(here).encode("document", TEXTS[: at + 1]))
        chunk = '["Pump\\n", "Prime it."]'
        np.testing.assert_array_equal(await scaled.encode("chunk", [chunk]), await Here(here).encode("chunk", [chunk]))

    started(model, case, replicas=2)


def test_a_replica_that_is_killed_costs_no_error_and_only_we_can_ask_one(model: Path) -> None:
    async def case(scaled: Scaled) -> None:
        expected = await scaled.encode("query", TEXTS)
        (place,) = scaled._replicas.ready
        async with aiohttp.request("POST", f"{place.endpoint.url}/vectors", json={"kind": "query", "texts": TEXTS}) as response:
            assert response.status == 401
        psutil.Process(place.pid).kill()
        np.testing.assert_array_equal(await scaled.encode("query", TEXTS), expected)

    started(model, case)


def test_a_folder_that_is_no_model_is_an_error_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"can't be loaded .*card\.json"):
        asyncio.run(Scaled(tmp_path, "0" * 64, Serve(threads=1)).start())


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with an embedding service, which its origin uses."""
    with speaking() as speaker:
        at = site(tmp_path_factory.mktemp("embed"), speaker.url)
        told = {"name": "embed", "kind": "embedding", "threads": 1, "replicas": {"min": 2, "max": 3}}
        service.deploy(at.settings, at.store, service.read(written(at.settings.folder, told), "v1", at.settings), print)
        yield replace(at, settings=override(at.settings, "serve", embeddings="embed/v1"))


def vectors(origin: Origin) -> tuple[str, Any]:
    reply = origin.request("POST", "/v1/embeddings", {"model": "production", "input": TEXTS, "dimensions": 64})
    assert reply.status == 200, reply.data
    return reply.headers["x-ragstone-release"], [one["embedding"] for one in reply.json["data"]]


def test_the_origin_answers_embeddings_by_the_deployed_replicas_as_it_does_by_itself(deployed: Site) -> None:
    with running(replace(deployed, settings=override(deployed.settings, "serve", embeddings=""))) as origin:
        expected = vectors(origin)
    with running(deployed) as origin:
        processes = [child for child in psutil.Process().children() if any("embedding.py" in one for one in child.cmdline())]
        assert len(processes) == 2
        assert vectors(origin) == expected
        assert origin.chat(PRIMED).status == 200
        wrong = origin.request("POST", "/v1/embeddings", {"model": "production", "input": ["x"], "ragstone": {"input_type": "chunk"}})
        assert wrong.status == 400
    assert psutil.wait_procs(processes, timeout=30)[1] == []


def test_an_embedding_service_answers_no_questions_and_has_the_releases_model(deployed: Site, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="embed/v1 answers no questions"):
        service.share(deployed.store, "production", {"v1": 100})
    found = service.read(written(tmp_path, {"name": "embed", "kind": "embedding"}), "v2", deployed.settings)
    assert "local replicas of the release's embedding model" in service.explain(found)
    with pytest.raises(ConfigError, match="embed/v2 is an embedding service: those run on this machine and on Ray"):
        service.deploy(deployed.settings, deployed.store, found, print, "kserve")
    assert release.load(deployed.store, release.resolve(deployed.store, "production")).generator.keys() != {"embed/v1"}


@pytest.mark.parametrize(
    ("told", "message"),
    [({"kind": "reranker"}, "kind 'reranker' is none"), ({"kind": "embedding", "model": "hub://a/b"}, "the model of the release in force")],
)
def test_what_can_not_be_encoded_is_an_error(settings: Settings, tmp_path: Path, told: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        service.read(written(tmp_path, told), "v1", settings)


def test_before_the_first_release_there_is_nothing_to_encode_with(settings: Settings, tmp_path: Path) -> None:
    found = service.read(written(tmp_path, {"kind": "embedding"}), "v1", settings)
    with pytest.raises(ReleaseError, match="has no release"):
        service.deploy(settings, store.connect(settings.store_url), found, print)
