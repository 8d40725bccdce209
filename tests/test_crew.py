"""Several edge processes on one port, with a real Redis between them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ragstone import config, edge
from ragstone.errors import ConfigError
from tests import valkey
from tests.conformance.bench import EDGES, Bench, drained, question, running, until


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with valkey.running(tmp_path) as server, running(replace(EDGES["local"], redis=server.url).command, tmp_path, edge_workers=2) as bench:
        until(lambda: len(listening(bench)) == 2)
        yield bench


def listening(bench: Bench) -> set[int]:
    """The processes that take connections on the edge's port."""
    found = set()
    for child in psutil.Process(bench.process.pid).children():
        with_sockets = child.net_connections("tcp") if child.status() != psutil.STATUS_ZOMBIE else []
        if any(one.status == psutil.CONN_LISTEN for one in with_sockets):
            found.add(child.pid)
    return found


def test_processes_on_one_port_share_a_limit_and_one_that_dies_is_replaced(bench: Bench) -> None:
    token = bench.key(rpm=1)
    statuses = [bench.chat({"stream": "no form"}, token).status for _ in range(8)]  # each over a connection of its own
    assert statuses == [400, *[429] * 7]
    before = listening(bench)
    os.kill(min(before), 9)
    until(lambda: len(listening(bench)) == 2 and listening(bench) != before)
    assert bench.chat(question()).status == 200


def test_processes_that_are_told_to_end_finish_the_answers_under_way(bench: Bench) -> None:
    assert drained(bench, lambda: listening(bench)).text == "Restart the pump [1]."
    assert bench.process.wait(30) == 0


def test_processes_that_would_each_count_limits_by_themselves_are_refused(tmp_path: Path) -> None:
    settings = config.override(config.load(tmp_path, {}), "edge", workers=2)
    with pytest.raises(ConfigError, match=r"edge\.workers = 2 without edge\.redis"):
        edge.run(settings)


def test_a_process_that_ends_before_it_serves_ends_the_others(tmp_path: Path) -> None:
    given = {"workers": 2, "redis": "redis://127.0.0.1:9", "port": 0, "certificate": "there-is-none.pem"}
    with pytest.raises(ConfigError, match="ended with status 1 before it served"):
        edge.run(config.override(config.load(tmp_path, {}), "edge", **given))
