"""Generators: messages in, text out piece by piece. A generator knows nothing of retrieval."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from ragstone.config import Settings
from ragstone.connect import connector
from ragstone.wire import Message, Piece, Sampling, Usage

__all__ = ["Generator", "Message", "Piece", "Sampling", "Usage", "connect"]


class Generator(Protocol):
    """A deployed generator. `tests/conformance/test_serve.py` is the contract."""

    version: str
    """What generates, by digest: the same weights, engine settings and template give the same version."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """The answer, piece by piece. Raises `GeneratorError` (retryable only before the first piece).

        Closing it stops the generation: `async with contextlib.aclosing(generator.stream(...)) as pieces`.
        """

    async def start(self) -> None:
        """Be ready to answer: returns when the first token could be served. Raises `GeneratorError`."""

    async def healthy(self) -> bool:
        """Whether it can answer now."""

    async def close(self) -> None:
        """Stop what this process started."""


def connect(settings: Settings) -> Generator:
    """The generator behind `serve.url`, not yet started."""
    generator: Generator = connector("serve", settings.serve.url).connect(settings)
    return generator
