"""The edge under test, for `test_edge*.py`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.bench import EDGES, Bench, running


@pytest.fixture(scope="module", params=EDGES)
def command(request: pytest.FixtureRequest) -> list[str]:
    return EDGES[request.param]


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
