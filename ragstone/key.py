"""The name of an object in a store, and what a listing says of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ragstone.errors import StoreError


@dataclass(frozen=True)
class Stat:
    """One object: its key, its size in bytes, and when it was written, in Unix seconds, where the store says so."""

    key: str
    size: int
    at: float = field(default=0.0, compare=False)


def checked(key: str) -> str:
    """The key itself. Raises `StoreError` for what is none.

    >>> checked("models/1f/model.onnx")
    'models/1f/model.onnx'
    """
    pure = PurePosixPath(key)
    if key in ("", ".") or str(pure) != key or pure.is_absolute() or ".." in pure.parts or "\0" in key:
        raise StoreError(f"{key!r} is not a key: a relative path without '..', '.' and empty parts is")
    return key
