"""A request body as one text for all its spellings, and the cache key made of it. `tests/vectors/keys.json` is the contract of both edges.

The text is RFC 8785 (JSON Canonicalization Scheme): keys sorted by UTF-16, no spaces, numbers as ECMAScript prints a double, so that
`1`, `1.0` and `1e0` are one. It is stricter in what it takes: a key that is there twice, a number that is no double, and half a
surrogate pair are refused, since two readers could take them for different things.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

import orjson

from ragstone.errors import RequestError

FORM = frozenset({"stream", "stream_options", "user"})
"""The fields that change an answer's form or its bookkeeping, never the answer. Every other field counts, known or not."""
DEEPEST = 64
"""Levels of nesting, at most; the same in every language, unlike their stacks."""
EXACT = 2**53 - 1
"""A larger whole number may share its double with its neighbour."""


def parse(data: bytes) -> dict[str, Any]:
    """The body as an object. Raises `RequestError` (400) on anything that is not exactly one JSON object in UTF-8."""
    try:
        body = _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {_reason(error)}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise RequestError("the body is not a JSON object", code="invalid_json")
    return body


def text(value: object) -> str:
    """The canonical text of a JSON value.

    >>> text({"b": 1.0, "a": [True, None, 1e-7]})
    '{"a":[true,null,1e-7],"b":1}'
    """
    return _text(value, [], 1)


def key(body: dict[str, Any], tenant: str, groups: Iterable[str]) -> str | None:
    """The cache key: the SHA-256, in hex, of the body and its audience. None when a number is too large to be told from its neighbour.

    Raises `RequestError` (400) on a body that has no canonical text.
    """
    inexact: list[float] = []
    counted = {name: value for name, value in body.items() if name not in FORM}
    whole = _text({"body": counted, "groups": _sorted(set(groups)), "tenant": tenant}, inexact, 0)
    try:
        data = whole.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError("the body holds half a surrogate pair: not Unicode text", code="invalid_json") from None
    return None if inexact else hashlib.sha256(data).hexdigest()


def as_stream(body: dict[str, Any]) -> bytes:
    """The body for the origin, which is always asked for a stream: one entry serves both forms."""
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        return orjson.dumps(asked)
    except TypeError:  # a whole number of more than 64 bits
        return json.dumps(asked).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:40]!r} is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def _reason(error: Exception) -> str:
    """What is wrong and where, without quoting the body."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:100]


def _text(value: object, inexact: list[float], depth: int) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if value is None or value is True or value is False:
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value, inexact)
    if depth > DEEPEST:
        raise RequestError(f"the body is nested deeper than {DEEPEST} levels", code="invalid_json")
    if isinstance(value, dict):
        return "{" + ",".join([f"{encode_basestring(name)}:{_text(value[name], inexact, depth + 1)}" for name in _sorted(value)]) + "}"
    if isinstance(value, list):
        return "[" + ",".join([_text(item, inexact, depth + 1) for item in value]) + "]"
    raise TypeError(f"{type(value).__name__} is not JSON")


def _sorted(names: Iterable[str]) -> list[str]:
    """By UTF-16 code units, which is also the order of ASCII."""
    if all(map(str.isascii, names)):
        return sorted(names)
    return sorted(names, key=lambda name: name.encode("utf-16-be", "surrogatepass"))


def _number(value: float, inexact: list[float]) -> str:
    """As ECMAScript's `Number.prototype.toString`; Python has the same shortest digits, and another exponent."""
    if isinstance(value, int) and -EXACT <= value <= EXACT:
        return str(value)
    try:
        double = float(value)
    except OverflowError:
        double = math.inf
    if not math.isfinite(double):
        raise RequestError("the body holds a number that no double holds", code="invalid_json")
    if abs(double) > EXACT:
        inexact.append(double)
    shortest = Decimal(repr(double))
    if double.is_integer() and abs(double) < 1e21:
        return str(int(shortest))
    if abs(double) >= 1e-6 and abs(double) < 1e21:
        return f"{shortest:f}"
    digits, _, exponent = repr(double).partition("e")
    return f"{digits}e{int(exponent):+d}"
