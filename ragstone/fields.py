"""A JSON object from outside, whose fields are read with their type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from ragstone.errors import RequestError


def read(body: bytes) -> Fields:
    """The fields of a JSON object. Raises `RequestError` when it is none."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error.msg} at byte {error.pos}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    return Fields(value)


class Fields:
    """A JSON object whose fields are read with their type; a wrong one is a `RequestError` that names it."""

    def __init__(self, values: Mapping[str, Any], within: str = "") -> None:
        self.values = values
        self._within = within

    def name(self, key: str) -> str:
        return f"{self._within}{key}"

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "text")
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return bool(value)

    def number(self, key: str, low: float, high: float) -> float | None:
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.wrong(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, key: str, low: int, high: int) -> int | None:
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"a whole number from {low} to {high}")
        return value

    def object(self, key: str) -> Fields:
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(value or {}, f"{self.name(key)}.")

    def only(self, *known: str) -> None:
        for key in self.values:
            if key not in known:
                raise RequestError(f"{self.name(key)} is not known; there are {', '.join(known)}", self.name(key))

    def wrong(self, key: str, expected: str) -> RequestError:
        seen = orjson.dumps(self.values[key]).decode()[:60] if key in self.values else "missing"
        return RequestError(f"{self.name(key)} must be {expected}; it is {seen}", self.name(key))
