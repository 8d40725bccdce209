"""Generators: messages in, text out piece by piece. A generator knows nothing of retrieval."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ragstone.config import Settings
from ragstone.connect import connector


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens; every field is part of an answer's identity."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Piece:
    """Some text, or the end: the last piece, and only it, carries `finish` (`stop` or `length`) and the usage."""

    text: str = ""
    finish: str | None = None
    usage: Usage | None = None


class Generator(Protocol):
    """A deployed generator. `tests/conformance/test_serve.py` is the contract."""

    version: str
    """What generates, by digest: the same weights, engine settings and template give the same version."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Piece]:
        """The answer, piece by piece. Raises `GeneratorError` (retryable only before the first piece); closing the iterator stops the generation."""

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
