"""Facets: what of a chunk a search can be narrowed by, its groups and its metadata, as one list of words. Every index filters by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache

from ragstone.corpus import Chunk

Wanted = tuple[tuple[str, ...], ...]
"""Kinds of facets; a chunk may be found if it has one of each kind."""


def of(chunk: Chunk) -> list[str]:
    """The facets of a chunk, sorted."""
    return list(_facets(chunk.groups, tuple(chunk.metadata.items())))


@lru_cache(maxsize=64)  # chunks of a document have the same, and come together
def _facets(groups: tuple[str, ...], metadata: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    named = (_facet("group", group) for group in groups)
    return tuple(sorted({*named, *(_facet(f"metadata.{key}", value) for key, value in metadata)}))


def wanted(groups: Iterable[str], filter: Mapping[str, str]) -> Wanted:
    """What a chunk must have: one of the groups, and each value of the filter."""
    any_group = tuple(sorted(_facet("group", group) for group in set(groups)))
    return (any_group, *((_facet(f"metadata.{key}", value),) for key, value in sorted(filter.items())))


@lru_cache(maxsize=4096)  # most chunks have the groups and the type of others
def _facet(field: str, value: str) -> str:
    """No two pairs share it. A metadata value can be long; what is compared then is its digest."""
    facet = json.dumps([field, value], ensure_ascii=False)
    return facet if len(facet) <= 200 else hashlib.sha256(facet.encode()).hexdigest()
