"""An orchestrator over the manuals: real retrieval, and a generator that says what the test tells it, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragstone import application, config, project, release, serve
from ragstone.access import Principal
from ragstone.rag import LOCAL, Answer, Grounds, Options, Rag, local
from ragstone.serve import Message, Sampling
from ragstone.show import Silence
from tests.origins import Site, site
from tests.speaker import Speaker, speaking

PRIMED = "How long is the feed pump primed?"
FOREIGN = "Who won the football world cup?"


@dataclass(frozen=True)
class Bench:
    """`ask` in one word what takes three: prepare, answer, and put the pieces together."""

    rag: Rag
    speaker: Speaker
    site: Site
    runner: asyncio.Runner

    def prepare(self, question: str | Sequence[Message], groups: tuple[str, ...] = ("public",), **options: Any) -> Grounds:
        turns = [Message("user", question)] if isinstance(question, str) else question
        return self.rag.prepare(turns, Principal("k-1", "acme", groups, 1, 1, 0), Options(**options))

    def answer(self, grounds: Grounds, sampling: Sampling | None = None) -> tuple[list[str], Answer]:
        async def collect() -> list[str | Answer]:
            async with aclosing(self.rag.answer(grounds, Options(sampling=sampling or Sampling()))) as parts:
                return [part async for part in parts]

        *pieces, last = self.runner.run(collect())
        assert isinstance(last, Answer)
        return [piece for piece in pieces if isinstance(piece, str)], last

    def ask(self, question: str, says: str = "", sampling: Sampling | None = None, **options: Any) -> Answer:
        self.speaker.text = says
        return self.answer(self.prepare(question, **options), sampling)[1]


@contextmanager
def bench(folder: Path, url: str = LOCAL) -> Iterator[Bench]:
    """The orchestrator over the manuals, whose passages are found by what `rag.url` names."""
    with speaking() as speaker, asyncio.Runner() as runner:
        at = site(folder, speaker.url)
        record = application.create(config.override(at.settings, "rag", url=url), at.store, Silence())
        made = release.load(at.store, record.release)
        generators = {name: serve.connect(serve.deployed(at.store, name, at.settings)) for name in made.generator}
        rag = local.connect(made, project.open_retriever(at.settings, at.store, made), generators)
        yield Bench(rag, speaker, at, runner)
        for generator in generators.values():
            runner.run(generator.close())
