from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ragstone import shares

VECTORS = json.loads((Path(__file__).parent / "vectors" / "shares.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_a_conversation_is_answered_by_the_release_that_every_edge_says(case: dict[str, Any]) -> None:
    assert shares.release(case["in_force"], case["canary"], case["body"].get("model"), shares.opening(case["body"])) == case["release"]


def test_a_canary_gets_its_share_and_no_generator_of_it_is_favoured() -> None:
    openings = [f"question {number}" for number in range(2000)]
    canaries = [one for one in openings if shares.release("r-a", {"r-b": 10}, "production", one) == "r-b"]
    assert 140 <= len(canaries) <= 260
    first = sum(shares.pick({"a/1": 50, "b/1": 50}, one) == "a/1" for one in canaries)
    assert 0.3 <= first / len(canaries) <= 0.7
