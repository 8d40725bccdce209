"""Vectors for whoever asks `/v1/embeddings`: in this process, or by replicas of their own that scale with the load."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import orjson

from ragstone.batch import Batches
from ragstone.completions import Completions, Endpoint, Patience
from ragstone.config import Serve
from ragstone.embedder import Embedder, Vectors
from ragstone.embedding import MOST, Embedding, encoded
from ragstone.errors import GeneratorError
from ragstone.replicas import LOAD, Replicas
from ragstone.scale import Bounds

PATH = "/vectors"


class Embeddings(Protocol):
    """What encodes for others."""

    async def start(self) -> None:
        """Be ready to encode. Raises `GeneratorError`."""

    async def encode(self, kind: str, texts: Sequence[str]) -> Vectors:
        """One unit vector a text. A chunk must be one (`views.of_passage`). Raises `GeneratorError` when no replica answers."""

    async def close(self) -> None:
        """Stop what this process started."""


class Here:
    """The model in this process: requests that come while it encodes are encoded together, next."""

    def __init__(self, embedder: Embedder) -> None:
        self._batches = Batches[str, "Vectors"](lambda kind, texts: encoded(embedder, kind, texts), MOST)

    async def start(self) -> None:
        pass

    async def encode(self, kind: str, texts: Sequence[str]) -> Vectors:
        return await self._batches.ask(kind, texts)

    async def close(self) -> None:
        pass


class Scaled:
    """Replicas of the model, each a process, as many as the load needs; a question goes to the one with the fewest under way."""

    def __init__(self, folder: Path, digest: str, serve: Serve) -> None:
        kind = Embedding(str(folder), f"models/{digest[:12]}", serve.threads)
        bounds = Bounds(serve.replicas, max(serve.replicas, serve.replicas_most), serve.target_cpu, down=serve.scale_down)
        self._replicas = Replicas(kind, bounds, serve.threads or os.cpu_count() or 1)
        self._client = Completions(Patience(connect=5.0, read=serve.timeout, total=serve.timeout))

    async def start(self) -> None:
        """Load the model for as many as there are to be at least. Raises `GeneratorError`."""
        await self._replicas.start()

    async def encode(self, kind: str, texts: Sequence[str]) -> Vectors:
        for again in (True, False):
            try:
                async with self._replicas.lend(LOAD) as endpoint:
                    return await asked(self._client, endpoint, kind, texts)
            except GeneratorError as error:
                if not (again and error.retryable):
                    raise  # a replica that died costs the next one's start, and no error
        raise AssertionError("unreachable")

    async def close(self) -> None:
        await self._replicas.close()
        await self._client.close()


async def asked(client: Completions, endpoint: Endpoint, kind: str, texts: Sequence[str]) -> Vectors:
    """The vectors that a replica's own path gives. Raises `GeneratorError`."""
    answer = await client.post(endpoint, PATH, orjson.dumps({"kind": kind, "texts": list(texts)}))
    return np.frombuffer(answer, "<f4").reshape(len(texts), -1).astype(np.float32)
