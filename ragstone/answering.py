"""The answers of a release in a plain program: no server, no task; its generators are started by the first question that needs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from ragstone import serve
from ragstone.config import Settings
from ragstone.rag import Answer, Grounds, Options, Rag, local
from ragstone.release import Release
from ragstone.retrieve import Search
from ragstone.serve import Sampling
from ragstone.store import Store

Parts = Callable[[Grounds, Options], Iterator[str | Answer]]
"""The text of an answer piece by piece, then the answer. Raises `GeneratorError`."""


def options(settings: Settings) -> Options:
    """What the settings say of an answer."""
    return Options(sampling=Sampling(max_tokens=settings.serve.max_tokens, temperature=settings.serve.temperature))


@contextmanager
def opened(settings: Settings, store: Store, release: Release, retriever: Search) -> Iterator[tuple[Rag, Parts]]:
    """The orchestrator of a release, and its answers."""
    generators = {service: serve.connect(serve.deployed(store, service, settings)) for service in release.generator}
    rag = local.connect(release, retriever, generators, settings.serve.context // settings.serve.slots)
    waiting = list(generators.values())

    async def step(parts: AsyncIterator[str | Answer]) -> str | Answer | None:
        return await anext(parts, None)

    with asyncio.Runner() as runner:

        def parts(grounds: Grounds, options: Options) -> Iterator[str | Answer]:
            while grounds.evidence and waiting:
                runner.run(waiting[0].start())
                waiting.pop(0)
            pieces = rag.answer(grounds, options)
            while (part := runner.run(step(pieces))) is not None:
                yield part

        try:
            yield rag, parts
        finally:
            for generator in generators.values():
                runner.run(generator.close())
