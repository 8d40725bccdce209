"""Shadow traffic: a second version of a generator gets copies of real questions, and what it says reaches nobody.

How it did is kept, to be compared: times, what its answers rest on, how alike they are; nothing that was asked or answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from ragstone import serve, service, telemetry
from ragstone.config import Settings
from ragstone.errors import RagstoneError
from ragstone.rag import Answer, Grounds, Options
from ragstone.rag import local as rag
from ragstone.release import Release
from ragstone.retrieve import Search
from ragstone.serve import Generator
from ragstone.store import Store

PLACE = "shadows/"
"""Where pairs are kept in the store, by the shadow's name."""

log = logging.getLogger(__name__)


class Held(Protocol):
    """A release that stays open meanwhile."""

    @property
    def release(self) -> Release: ...

    @property
    def retriever(self) -> Search: ...


@dataclass(frozen=True)
class Said:
    """How one version answered: seconds to its first sentence and to the end, and what the answer rests on."""

    service: str
    first: float
    total: float
    basis: str
    tokens: int


@dataclass(frozen=True)
class Pair:
    """One question, answered by the version in force and by the shadow."""

    release: str
    at: float
    answer: Said
    shadow: Said | None = None
    """None when it failed."""
    fault: str = ""
    """The code of its error."""
    same: bool = False
    """Whether the texts are equal."""
    alike: float = 0.0
    """The cosine of the texts, by the release's embedding model."""


@dataclass(frozen=True)
class Copy:
    """What the shadow is asked, with the answer that the caller got."""

    grounds: Grounds
    options: Options
    answer: Answer
    said: Said


class Shadow:
    """The version of `serve.shadow`, for one event loop. One copy at a time: what comes meanwhile is left out, so that it takes no more."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self.service = settings.serve.shadow
        self._generator: Generator | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = False

    def open(self) -> None:
        """Start the version, beside what is served. One that can't be started is logged, and gets nothing."""
        if self.service:
            self._do(self._start())

    def follow(self, hold: Callable[[], AbstractAsyncContextManager[Held]], copy: Copy) -> None:
        """Give the shadow the question too, if it is chosen. Returns at once; `hold` keeps the release open."""
        chosen = random.uniform(0, 100) < self._settings.serve.shadow_share
        if self._generator is not None and copy.grounds.evidence and chosen and not self._busy:
            self._busy = True
            self._do(self._ask(self._generator, hold, copy))

    async def close(self) -> None:
        """Leave what is under way, and stop the version."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._generator is not None:
            await self._generator.close()

    def _do(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> None:
        generator = None
        try:
            self.service = await asyncio.to_thread(service.find, self._store, self.service)
            settings = await asyncio.to_thread(serve.deployed, self._store, self.service, self._settings)
            generator = await asyncio.to_thread(serve.connect, settings)
            with telemetry.serving(self.service):
                await generator.start()
            self._generator = generator
            log.info("%s gets copies of %g %% of the questions", self.service, self._settings.serve.shadow_share)
        except RagstoneError as error:
            log.error("serve.shadow = %s can't be started: %s", self.service, error)
            if generator is not None:
                await generator.close()

    async def _ask(self, generator: Generator, hold: Callable[[], AbstractAsyncContextManager[Held]], copy: Copy) -> None:
        try:
            async with hold() as held:
                await self._answer(generator, held, copy)
        except Exception:
            log.exception("%s could not be compared", self.service)
        finally:
            self._busy = False

    async def _answer(self, generator: Generator, held: Held, copy: Copy) -> None:
        told = self._settings.serve
        answering = rag.connect(held.release, held.retriever, {self.service: generator}, told.context // max(1, told.slots))
        pair = Pair(copy.grounds.release, time.time(), copy.said)
        watch = Watch(self.service)
        try:
            async with aclosing(answering.answer(replace(copy.grounds, service=self.service), copy.options)) as parts:
                async for part in parts:
                    watch.heard()
                    if isinstance(part, Answer):
                        said = watch.said(part)
                        alike = await asyncio.to_thread(_alike, held.retriever, copy.answer.text, part.text)
                        pair = replace(pair, shadow=said, same=part.text == copy.answer.text, alike=alike)
        except RagstoneError as error:
            pair = replace(pair, fault=error.code)
        await asyncio.to_thread(keep, self._store, self.service, pair)


class Watch:
    """Measures an answer while it is made."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._began, self._first = time.perf_counter(), 0.0

    def heard(self) -> None:
        """A part of it came."""
        self._first = self._first or time.perf_counter() - self._began

    def said(self, answer: Answer) -> Said:
        """It came to its end."""
        total = time.perf_counter() - self._began
        return Said(self._service, round(self._first, 4), round(total, 4), answer.basis, answer.usage.completion_tokens)


def keep(store: Store, service: str, pair: Pair) -> None:
    """Add a pair to what is known of the shadow."""
    store.create(f"{PLACE}{service}/{pair.at:.3f}-{secrets.token_hex(4)}.json", json.dumps(asdict(pair)).encode())


def kept(store: Store, service: str) -> list[Pair]:
    """All pairs of a shadow, oldest first."""
    found = [json.loads(store.get(stat.key)) for stat in store.list(f"{PLACE}{service}/")]
    return [Pair(**{**one, "answer": Said(**one["answer"]), "shadow": Said(**one["shadow"]) if one["shadow"] else None}) for one in found]


def _alike(retriever: Search, one: str, other: str) -> float:
    first, second = retriever.embedder.documents([one, other])
    return round(float(first @ second), 4)
