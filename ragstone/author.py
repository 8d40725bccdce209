"""Who writes questions for passages: a generator. It is not asked twice for the same passage; what it says is judged elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from functools import cached_property

from ragstone import serve
from ragstone.config import Settings, override
from ragstone.corpus import Chunk
from ragstone.corpus.written import PROMPT
from ragstone.errors import GeneratorError, TrainError
from ragstone.kept import Kept, digest
from ragstone.serve import Message, Sampling, Say

AT_ONCE = 4
"""Questions under way at a time; a local replica takes them in turns."""
IN_A_ROW = 4
"""Failures after each other that are no accident any more: the generator is gone."""
SAMPLING = Sampling(max_tokens=60)
KEY = "set RAGSTONE_TRAIN_QUESTIONS_KEY"
AGAIN = "what it wrote is kept: type the same command when it answers again, or leave train.questions empty"


class Author:
    """The generator that `train.questions` names, under the other settings of `serve`. Its key is never that of `serve.url`."""

    def __init__(self, settings: Settings, say: Say) -> None:
        told = settings.train
        self.name, self.most = told.questions, told.questions_most
        self._generator = serve.connect(override(settings, "serve", url=told.questions, api_key=told.questions_key), say)

    @cached_property
    def identity(self) -> str:
        """The digest of who writes, how it is asked, and how often: part of a trained model's lineage."""
        return digest(self._generator.version, PROMPT, self.most)

    def write(self, passages: Sequence[Chunk], kept: Kept, progress: Callable[[int], None]) -> dict[str, str]:
        """What it says to each passage, by the chunk's id; nothing where it failed. Raises `TrainError` when it fails on and on."""
        keys = {chunk.id: digest(self._generator.version, PROMPT, chunk.context) for chunk in passages}
        said = kept.answers({keys[chunk.id]: chunk.context for chunk in passages}, self._ask, progress)
        return {id: said[key] for id, key in keys.items() if key in said}

    def _ask(self, passages: Sequence[str]) -> Iterator[str | None]:
        failures = 0
        with asyncio.Runner() as runner:
            try:
                runner.run(self._generator.start())
                for start in range(0, len(passages), AT_ONCE):
                    for said in runner.run(self._some(passages[start : start + AT_ONCE])):
                        failures = failures + 1 if isinstance(said, GeneratorError) else 0
                        if isinstance(said, GeneratorError) and failures == IN_A_ROW:
                            raise said
                        yield None if isinstance(said, GeneratorError) else said
            except GeneratorError as error:
                raise TrainError(f"no questions are written: {error.message}", KEY if "API_KEY" in error.hint else AGAIN) from error
            finally:
                runner.run(self._generator.close())

    async def _some(self, passages: Sequence[str]) -> list[str | GeneratorError]:
        return await asyncio.gather(*map(self._one, passages))

    async def _one(self, passage: str) -> str | GeneratorError:
        asked = [Message("user", PROMPT.format(passage=passage))]
        try:
            async with aclosing(self._generator.stream(asked, SAMPLING)) as pieces:
                return "".join([piece.text async for piece in pieces])
        except GeneratorError as error:
            return error
