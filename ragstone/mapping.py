"""What an index of Ragstone's is in a search engine: its mapping, its settings, its documents, as requests and lines. It sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragstone import facets, inference, keywords
from ragstone.analyser import Analyser
from ragstone.cluster import Request, packed
from ragstone.corpus import Chunk
from ragstone.corpus.views import passage
from ragstone.keywords import PAIRS, WORDS

FORMAT = 2
"""Counts up with every change of the mapping or of how words are analysed; part of an index's digest."""

MOST = 10_000
"""Chunks of one list at most: the engines' own bound."""

NONE = "_"
"""What stands for no word: BM25 counts only documents that have the field, and the local index counts all. Nobody can ask for it."""

EXAMPLE = Chunk("CHUNK_ID", "DOCUMENT", "TITLE", ("HEADING",), 0, 4, "TEXT", ("GROUP",), {"FIELD": "VALUE"})

Vector = NDArray[np.float32]


def creation(name: str, digest: str, vector: Mapping[str, Any], own: Mapping[str, Any], shards: int) -> Request:
    """An index that is not loaded yet, with the engine's mapping of a vector and its own settings."""
    words = {"type": "text", "analyzer": "whitespace", "index_options": "freqs"}
    properties = {
        "vector": vector,
        WORDS: words,
        PAIRS: words,
        "facets": {"type": "keyword", "doc_values": False},
        "chunk": {"type": "object", "enabled": False},
    }
    settings = {
        **own,
        "number_of_shards": shards,
        "number_of_replicas": 0,
        "refresh_interval": "-1",
        "max_result_window": 2 * MOST,
        "similarity.default": {"type": "BM25", "k1": 1.2, "b": 0.75},
    }
    mappings = {"dynamic": "strict", "_meta": {"digest": digest}, "properties": properties}
    return Request("PUT", f"/{name}", {"settings": {"index": settings}, "mappings": mappings}, "the index, unless it is there")


def finding(name: str) -> Request:
    """Is it there, and whole?"""
    return Request("GET", f"/{name}", why="the index: when it is there and whole, this is the last request")


def opening(name: str) -> Request:
    """The index takes documents."""
    return Request("PUT", f"/{name}/_settings", {"index": {"blocks.write": None}}, "it takes documents")


def counting(name: str) -> list[Request]:
    """How many documents it holds."""
    return [
        Request("POST", f"/{name}/_refresh", why="what was sent can be found"),
        Request("GET", f"/{name}/_count", why="all of it is there"),
    ]


def closing(name: str, meta: Mapping[str, Any], replicas: str) -> list[Request]:
    """The index is whole and takes no more. `replicas` is a number, or the least and the most of as many as there are nodes for."""
    copies = {"auto_expand_replicas": replicas} if "-" in replicas else {"number_of_replicas": int(replicas)}
    shut = {"blocks.write": True, "refresh_interval": None, **copies}
    return [
        Request("PUT", f"/{name}/_settings", {"index": shut}, "it takes no more"),
        Request("PUT", f"/{name}/_mapping", {"_meta": meta}, "it is whole"),
    ]


def meta(digest: str, chunks: int, shards: int, model: str) -> dict[str, Any]:
    """What a whole index says of itself; with the name of the engine's `model` for questions, if it has one."""
    return {"digest": digest, "format": FORMAT, "chunks": chunks, "shards": shards, **({"model": model} if model else {})}


def example(name: str, pipeline: str, dimensions: int) -> Request:
    """The bulk request of one chunk, in capitals what is each chunk's own."""
    vector = None if pipeline else np.zeros(2, np.float32)
    why = f"the chunks, many at a time; in capitals what is each one's own, and a vector has {dimensions} numbers"
    return Request("POST", f"/{name}/_bulk", b"".join(lines([EXAMPLE], lambda row: vector, pipeline)), why)


def lines(chunks: Sequence[Chunk], vectors: Callable[[int], Vector | None], pipeline: str = "") -> Iterator[bytes]:
    """Two lines of a bulk request for each chunk, in the order of their ids.

    `vectors` gives that of a row; a chunk without one goes through the pipeline. Neither chunks nor vectors are held whole.
    """
    reader = Analyser()
    for row in sorted(range(len(chunks)), key=lambda row: chunks[row].id):
        chunk, vector = chunks[row], vectors(row)
        stems = reader.analyze(chunk.context)
        document = {
            **({inference.PASSAGE: passage(chunk)} if vector is None else {"vector": floats(vector)}),
            WORDS: " ".join(stems) or NONE,
            PAIRS: " ".join(keywords.pairs(stems)) or NONE,
            "facets": facets.of(chunk),
            "chunk": asdict(chunk),
        }
        action = {"_id": chunk.id} | ({"pipeline": pipeline} if vector is None else {})
        yield packed({"create": action}) + b"\n" + packed(document) + b"\n"


def floats(vector: Vector) -> Vector:
    """As it is sent."""
    return np.ascontiguousarray(vector, np.float32)
