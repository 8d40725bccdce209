"""The edge under test, for `test_edge*.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests import valkey, workerd
from tests.conformance.bench import EDGES, Bench, Edge, running


@pytest.fixture(scope="module", params=[*EDGES, "shared"])
def edge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    if request.param == "shared":
        with valkey.running(tmp_path_factory.mktemp("redis")) as redis:
            yield replace(EDGES["local"], redis=redis.url)
        return
    if request.param == "cloudflare":
        workerd.packages()
    yield EDGES[request.param]


@pytest.fixture(scope="module")
def command(edge: Edge) -> list[str]:
    return edge.command


@pytest.fixture(scope="module")
def shared(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running(command, tmp_path_factory.mktemp("edge")) as bench:
        yield bench


@pytest.fixture
def bench(shared: Bench) -> Bench:
    """The shared edge, with its origin in release r-a again."""
    shared.origin.confirms, shared.origin.pointer, shared.origin.canary = True, None, {}
    shared.origin.forgotten = set()
    shared.promote("r-a")
    return shared
