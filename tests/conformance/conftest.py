"""The edge under test, for `test_edge*.py`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import workerd
from tests.conformance.bench import EDGES, Bench, Edge, running


@pytest.fixture(scope="module", params=EDGES)
def edge(request: pytest.FixtureRequest) -> Edge:
    if request.param == "cloudflare":
        workerd.packages()
    return EDGES[request.param]


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
    shared.origin.confirms, shared.origin.pointer = True, None
    shared.promote("r-a")
    return shared
