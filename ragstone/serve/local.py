"""`local://smollm2`, `local:///path/model.gguf`: llama.cpp on this machine, in as many child processes as the load needs.

`local:///path/folder` is a Hugging Face folder, which transformers runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from pathlib import Path

from ragstone import programs, weights
from ragstone.completions import Completions, Endpoint, Patience
from ragstone.config import Serve, Settings
from ragstone.errors import ConfigError, GeneratorError
from ragstone.load import Load
from ragstone.programs import Program
from ragstone.replicas import LOAD, Replicas
from ragstone.scale import Bounds
from ragstone.serve import Say
from ragstone.wire import Message, Piece, Sampling


def connect(settings: Settings, say: Say | None = None) -> LocalGenerator:
    """The generator of `local://<weights>`, not yet started. Nothing is downloaded until it starts or its version is read."""
    return LocalGenerator(settings, say)


class LocalGenerator:
    """Replicas of llama.cpp, or of transformers, each with slots that share its weights and take turns token by token."""

    def __init__(self, settings: Settings, say: Say | None = None) -> None:
        self._settings = settings.serve
        self._bounds = _bounds(settings.serve)
        self._say = say
        self._source = settings.serve.url.removeprefix("local").removeprefix("://") or "smollm2"
        self.name = Path(self._source).stem
        total = settings.serve.timeout
        # a full slot reads its prompt for tens of seconds on a CPU before its first token
        self._completions = Completions(Patience(connect=5.0, read=total, total=total))
        self._replicas: Replicas | None = None

    @cached_property
    def weights(self) -> Path:
        """The GGUF file or the folder, got on first use."""
        return weights.pull(self._source, self._say)

    @cached_property
    def _program(self) -> Program:
        return programs.choose(self.weights, self.name, self._settings)

    @cached_property
    def version(self) -> str:
        """SHA-256 of all that changes what is generated."""
        return self._program.version

    @property
    def endpoint(self) -> Endpoint:
        """Where a replica listens now; another one after each restart. Raises `GeneratorError` while there is none."""
        if self._replicas is None or not self._replicas.ready:
            raise GeneratorError(f"no replica of {self.name} is up", retryable=True)
        return self._replicas.ready[0].endpoint

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        if self._replicas is None:
            raise GeneratorError(f"{self.name} was asked before it was started")
        for again in (True, False):
            try:
                async with (
                    self._replicas.lend(min(LOAD, self._settings.timeout)) as endpoint,
                    contextlib.aclosing(self._completions.stream(endpoint, messages, sampling)) as pieces,
                ):
                    async for piece in pieces:
                        yield piece
                return
            except GeneratorError as error:
                if not (again and error.retryable):
                    raise  # a replica that dies before its first piece costs the next one's start, and no error

    async def start(self) -> None:
        """Load the model. Raises `GeneratorError` with the program's own words when it can't be loaded."""
        if self._replicas is not None:
            return
        serve = self._settings
        program = await asyncio.to_thread(lambda: self._program)
        replicas = Replicas(program, self._bounds, serve.threads or os.cpu_count() or 1)
        await replicas.start()
        self._replicas = replicas

    async def healthy(self) -> bool:
        try:
            return await self._completions.status(self.endpoint, "/health") == 200
        except GeneratorError:
            return False

    def load(self) -> list[Load]:
        """How busy each replica is."""
        return self._replicas.load(self._settings.slots) if self._replicas else []

    async def close(self) -> None:
        if self._replicas is not None:
            await self._replicas.close()
        self._replicas = None
        await self._completions.close()


def _bounds(serve: Serve) -> Bounds:
    """How many replicas there may be; `replicas_most` left at its default means no more than `replicas`. Raises `ConfigError`."""
    most = max(serve.replicas_most, serve.replicas) if serve.replicas_most == Serve.replicas_most else serve.replicas_most
    if not 1 <= serve.replicas <= most:
        told = f"serve.replicas = {serve.replicas} and serve.replicas_most = {most}"
        raise ConfigError(f"{told}: the first must be 1 or more, and no more than the second")
    return Bounds(serve.replicas, most, serve.target_cpu, down=serve.scale_down)
