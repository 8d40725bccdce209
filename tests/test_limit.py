from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone import limit
from ragstone.limit import Allowance, Limit, Limits
from tests.sequences import VECTORS, steps


@pytest.mark.parametrize("origin", [0.0, 1_700_000_000.0], ids=["from zero", "from the epoch"])
@pytest.mark.parametrize("sequence", VECTORS["sequences"], ids=lambda sequence: sequence["name"])
def test_a_key_is_admitted_and_told_what_every_edge_tells_it(sequence: dict[str, Any], origin: float) -> None:
    allowance = Allowance(sequence["rpm"], sequence["tpm"])
    for step in steps(sequence):
        wait = allowance.take(step.kind, step.cost, origin + step.at, step.owed)
        assert wait == pytest.approx(step.wait, abs=2e-6)
        told = {name.decode(): value.decode() for name, value in limit.headers(*allowance.standings(origin + step.at))}
        assert all(told[name] == value for name, value in step.headers.items()) or origin
        assert told["x-ratelimit-limit-requests"] == str(sequence["rpm"])


@pytest.mark.parametrize("case", VECTORS["estimates"], ids=lambda case: json.dumps(case["body"]))
def test_the_tokens_of_an_answer_are_estimated_from_its_body(case: dict[str, Any]) -> None:
    assert limit.estimate(case["body"], case["size"], case["default"]) == case["tokens"]


@pytest.mark.parametrize("case", VECTORS["durations"], ids=lambda case: case["text"])
def test_a_duration_is_written_as_openai_writes_it(case: dict[str, Any]) -> None:
    assert limit.duration(case["seconds"]) == case["text"]


@given(st.integers(1, 50), st.lists(st.floats(0, 5), max_size=200))
def test_no_minute_sees_more_than_twice_the_limit_and_no_long_run_more_than_its_rate(most: int, gaps: list[float]) -> None:
    bucket, now, admitted = Limit(most), 0.0, list[float]()
    for gap in gaps:
        now += gap
        if not bucket.wait(1, now):
            bucket.take(1, now)
            admitted.append(now)
    for start in admitted:
        assert sum(start <= one < start + 60 for one in admitted) <= 2 * most
    assert len(admitted) <= most + now * most / 60 + 1e-3


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(0, 1e9))
def test_waiting_exactly_as_told_is_enough(most: int, cost: int, now: float) -> None:
    bucket = Limit(most)
    bucket.take(most, now)
    wait = bucket.wait(cost, now)
    assert wait > 0
    assert bucket.wait(cost, now + wait) == pytest.approx(0, abs=1e-6)


def test_a_clock_that_steps_back_refuses_nothing_that_it_admitted() -> None:
    bucket = Limit(2)
    bucket.take(1, 100.0)
    assert bucket.wait(1, 40.0) == 0


def test_keys_at_rest_are_forgotten_before_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "KEPT", 3)
    limits = Limits()
    busy = limits.of("busy", 1, 1, now=0.0)
    busy.take("requests", 1, 0.0)
    for number in range(10):
        limits.of(f"k-{number}", 1, 1, now=1.0)
    assert limits.of("busy", 1, 1, now=1.0) is busy
    assert len(limits._allowances) <= 4


def test_the_keys_with_least_left_are_told_first_with_their_tenants() -> None:
    limits = Limits()
    limits.of("calm", 60, 1000, 0.0, "acme")
    limits.of("busy", 60, 1000, 0.0, "globex").take("tokens", 900, 0.0)
    told = limits.told(0.0)
    assert [(one["key"], one["tenant"], one["tokens"]["remaining"]) for one in told] == [("busy", "globex", 100), ("calm", "acme", 1000)]
    assert [one["key"] for one in limits.told(0.0, most=1)] == ["busy"]
