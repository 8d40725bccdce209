from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone import cache
from ragstone.cache import OVERHEAD, Cache, Entry

VECTORS = json.loads((Path(__file__).parent / "vectors" / "cache.json").read_text(encoding="utf-8"))


def entry(size: int = 0, release: str = "r-a") -> Entry:
    return Entry(b"x" * size, '"e"', release, 0.0, 0.0)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_an_entry_is_served_asked_for_or_passed_by_as_every_edge_does(case: dict[str, Any]) -> None:
    kept = cache.since(Entry(b"", **case["entry"]) if case["entry"] else None, case.get("purged", 0.0))
    asked = cache.asked(case["cache-control"])
    assert cache.decide(kept, asked, case["release"], case["ttl"], case["now"]) == case["decision"]
    assert cache.may_stand_in(kept, asked, case["release"]) == case["stand_in"]


def test_the_least_recently_used_goes_first() -> None:
    kept = Cache(3 * OVERHEAD)
    for key in ("a", "b", "c"):
        kept.put(key, entry(), "r-a")
    kept.get("a")
    kept.put("d", entry(), "r-a")
    assert [key for key in "abcd" if kept.get(key)] == ["a", "c", "d"]


def test_an_entry_larger_than_the_cache_is_not_kept_and_takes_nothing_with_it() -> None:
    kept = Cache(2 * OVERHEAD)
    kept.put("a", entry(), "r-a")
    kept.put("huge", entry(3 * OVERHEAD), "r-a")
    assert kept.get("huge") is None
    assert kept.get("a")


def test_an_answer_of_an_earlier_release_that_comes_late_does_not_displace_a_newer_one() -> None:
    kept = Cache(1 << 20)
    kept.put("a", entry(release="r-b"), release="r-b")
    kept.put("a", entry(release="r-a"), release="r-b")
    found = kept.get("a")
    assert found
    assert found.release == "r-b"
    kept.put("a", entry(release="r-a"), release="r-a")
    found = kept.get("a")
    assert found
    assert found.release == "r-a"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 4000))))
def test_the_size_is_always_the_sum_of_what_is_kept_and_never_over_the_limit(puts: list[tuple[str, int]]) -> None:
    kept = Cache(8000)
    for key, size in puts:
        kept.put(key, entry(size), "r-a")
        sizes = [len(found.body) + OVERHEAD for name in "abcdef" if (found := kept.get(name))]
        assert kept.size == sum(sizes) <= 8000
        assert len(kept) == len(sizes)
