from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ragstone import accesslog, config, edge
from ragstone.accesslog import AccessLog, follow
from ragstone.errors import ConfigError
from tests.conformance.bench import EDGES, asked, question, running, until


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_request_is_one_line_that_says_who_and_how_and_never_what(tmp_path: Path) -> None:
    log = tmp_path / ".ragstone/logs/access.jsonl"
    with running(EDGES["local"].command, tmp_path) as bench:
        body = question()
        for _ in range(2):
            bench.chat(body, x_request_id="req-7")
        bench.chat(body, "no-key-at-all")
        until(lambda: len(lines(log)) == 3)
        miss, hit, refused = lines(log)
        assert asked(bench, body) == 1
        assert set(miss) == {"at", "id", "method", "path", "status", "key", "tenant", "cache", "release", "tokens", "ms"}
        assert [miss[name] for name in ("id", "method", "path", "status")] == ["req-7", "POST", "/v1/chat/completions", 200]
        assert [miss[name] for name in ("tenant", "cache", "release", "tokens")] == ["acme", "miss", "r-a", 25]
        assert miss["key"].startswith("k-")
        assert (hit["cache"], hit["tokens"]) == ("hit", 0)
        assert (refused["status"], "key" in refused, "tenant" in refused) == (401, False, False)
        text = log.read_text()
        assert bench.token not in text
        assert "no-key-at-all" not in text
        assert "pump" not in text, "of the question"


def test_probes_are_logged_only_when_they_are_refused(tmp_path: Path) -> None:
    log = tmp_path / ".ragstone/logs/access.jsonl"
    with running(EDGES["local"].command, tmp_path, edge_origin="http://127.0.0.1:9") as bench:
        for path in ("/healthz", "/metrics", "/readyz"):
            bench.request("GET", path, token="")
        until(lambda: len(lines(log)) == 1)
        assert (lines(log)[0]["path"], lines(log)[0]["status"]) == ("/readyz", 503)


def test_a_full_file_is_put_aside_once_by_whoever_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesslog, "MOST", 200)
    monkeypatch.setattr(accesslog, "EACH", 1)
    path = tmp_path / "access.jsonl"
    one, two = AccessLog(path), AccessLog(path)
    for number in range(9):
        one.add({"from": "one", "n": number})
        two.add({"from": "two", "n": number})
    kept = lines(path.with_name("access.jsonl.1")) + lines(path)
    assert [(line["from"], line["n"]) for line in kept[-4:]] == [("one", 7), ("two", 7), ("one", 8), ("two", 8)]
    assert path.stat().st_size < 400
    one.close()
    two.close()


def test_a_follower_sees_the_last_lines_then_each_that_comes_also_in_a_file_that_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    log = AccessLog(path)
    for number in range(12):
        log.add({"n": number})
    told = follow(path, wait=0)
    assert [json.loads(next(told))["n"] for _ in range(10)] == list(range(2, 12))
    log.add({"n": 12})
    assert json.loads(next(told))["n"] == 12
    path.rename(tmp_path / "access.jsonl.1")
    log.close()
    log = AccessLog(path)
    log.add({"n": 13})
    assert json.loads(next(told))["n"] == 13
    log.close()


def test_an_edge_that_logs_nowhere_has_nothing_to_follow(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"edge\.log is empty"):
        edge.tail(config.override(config.load(tmp_path, {}), "edge", log=""))


def test_a_log_that_can_not_be_written_is_named_before_anything_is_served(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder is needed")
    with pytest.raises(ConfigError, match=r"logs/access\.jsonl can't be written"):
        accesslog.check(tmp_path / "logs" / "access.jsonl")
