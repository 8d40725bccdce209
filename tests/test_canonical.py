from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone import canonical
from ragstone.errors import RequestError

VECTORS = json.loads((Path(__file__).parent / "vectors" / "keys.json").read_text(encoding="utf-8"))

finite = st.integers(-canonical.EXACT, canonical.EXACT) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | finite | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def raw(case: dict[str, Any]) -> bytes:
    """A refused case's bytes: as text, in base64, or a part repeated."""
    if "repeat" in case:
        start, part, times = case["repeat"]
        return str(start + part * times).encode()
    return base64.b64decode(case["base64"]) if "base64" in case else str(case["body"]).encode("utf-8")


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_a_body_has_the_key_that_every_edge_gives_it(case: dict[str, Any]) -> None:
    assert hashlib.sha256(case["canonical"].encode()).hexdigest() == case["key"]
    assert canonical.key(canonical.parse(case["body"].encode()), case["tenant"], case["groups"]) == case["key"]


def test_bodies_share_a_key_only_where_they_mean_the_same() -> None:
    by_key: dict[str, set[str]] = {}
    for case in VECTORS["cases"]:
        by_key.setdefault(case["key"], set()).add(case["canonical"])
    assert all(len(texts) == 1 for texts in by_key.values())
    assert len(by_key) == 26


@pytest.mark.parametrize("case", VECTORS["unkept"], ids=lambda case: case["name"])
def test_a_number_that_shares_its_double_makes_no_key(case: dict[str, Any]) -> None:
    assert canonical.key(canonical.parse(case["body"].encode()), "acme", ["public"]) is None


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_a_body_that_two_readers_could_take_differently_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        canonical.key(canonical.parse(raw(case)), "acme", ["public"])
    assert caught.value.status == 400
    assert len(caught.value.message) < 200


@given(values)
def test_the_canonical_text_means_what_the_value_means(value: object) -> None:
    text = canonical.text(value)
    assert json.loads(text, parse_int=float) == value
    assert canonical.text(json.loads(text)) == text


@given(st.dictionaries(texts, values, max_size=5), st.randoms())
def test_the_order_of_fields_makes_no_difference(body: dict[str, Any], random: Any) -> None:
    names = list(body)
    random.shuffle(names)
    assert canonical.text({name: body[name] for name in names}) == canonical.text(body)
