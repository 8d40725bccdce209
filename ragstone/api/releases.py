"""The releases that are open: the channel's, followed as it is promoted, and the last few that were asked for by name.

A request holds the release that it began with, whatever is promoted meanwhile; a release is closed after its last request. Parts that
two releases share (a model, an index, a generator) are loaded once.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from ragstone import access, serve, service, shares, telemetry
from ragstone import index as indexes
from ragstone import release as records
from ragstone import store as stores
from ragstone.access import Verifier
from ragstone.config import Settings
from ragstone.connect import scheme
from ragstone.embedder import Embedder
from ragstone.embeddings import Embeddings, Here
from ragstone.errors import ConfigError, RagstoneError, ReleaseError, RequestError
from ragstone.index import Index
from ragstone.rag import Rag, search
from ragstone.rag import local as rag
from ragstone.release import Record, Release
from ragstone.retrieve import Calibration, Retriever, Search
from ragstone.serve import EMBEDDING, Generator
from ragstone.store import Store

PERIOD = 1.0
"""Seconds between two looks at the channel, each of them two requests to a bucket."""
NEAR = 0.05
"""The same where the store is a folder, which costs next to nothing to look at."""
SHARE = 10
"""How many times as long as a look takes the pause after it is at least: a channel of many records is listed at every look."""
WARM = 300.0
"""Seconds for which the release before the one in force stays open: to go back to it loads nothing."""
KEYS = 3.0
"""Seconds between two readings of signing keys and revocations."""
LONGEST = 30.0
"""Seconds at most until a release that did not open is tried again."""
OTHERS = 2
"""Releases kept open that are not in force on the channel, and models that were asked for by digest."""
NAMES = 2.0
"""Seconds for which another channel's release is remembered."""

log = logging.getLogger("ragstone.api")
T = TypeVar("T")
DIGEST = re.compile("[0-9a-f]{64}")


class NotReady(RagstoneError):
    """No release is in force yet, or it is still being opened."""

    status = 503
    code = "not_ready"


@dataclass(frozen=True)
class Opened:
    """A release with its parts loaded: ready to answer."""

    id: str
    release: Release
    rag: Rag
    retriever: Search
    embedder: Embedder
    embeddings: Embeddings
    """What encodes for those who ask `/v1/embeddings`."""
    settings: Settings
    """As deployed: those of this machine, under what the service version was registered with."""


@dataclass
class Lease:
    """An opened release, how many requests hold it, and the parts to give back when it is closed."""

    opened: Opened
    parts: list[str]
    users: int = 0
    retired: bool = False


class Parts:
    """What releases are made of, each loaded once: given back by the last that holds it, it is closed."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Any, int]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def take(self, key: str, load: Callable[[], Awaitable[T]]) -> T:
        """The part of this key, loaded if nobody holds it."""
        async with self._locks.setdefault(key, asyncio.Lock()):
            part, holders = self._held[key] if key in self._held else (await load(), 0)
            self._held[key] = (part, holders + 1)
            return cast(T, part)

    def held(self, prefix: str) -> dict[str, Any]:
        """The parts that are loaded, of the keys that begin so, by what follows."""
        return {key.removeprefix(prefix): part for key, (part, _) in self._held.items() if key.startswith(prefix)}

    async def give_back(self, key: str) -> None:
        async with self._locks.setdefault(key, asyncio.Lock()):
            part, holders = self._held.pop(key)
            if holders > 1:
                self._held[key] = (part, holders - 1)
                return
            if hasattr(part, "close"):
                closing = part.close()
                if asyncio.iscoroutine(closing):
                    await closing


@dataclass
class Pointer:
    """What `GET /v1/release` tells the edges, beside the release."""

    keys: dict[str, str] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()
    purged: float = 0.0


class Releases:
    """Follows one channel of a store. All methods run on one event loop."""

    def __init__(self, store: Store, settings: Settings, verifier: Verifier) -> None:
        self.store = store
        self.settings = settings
        self.verifier = verifier
        self.channel = settings.project.channel
        self.record: Record | None = None
        """The record that is in force here: its release is open."""
        self.reason = f"channel {self.channel} has no release yet"
        """Why there is none, or why the newest one is not in force here."""
        self._logged = ""
        self.pointer = Pointer()
        self._current: Lease | None = None
        self._before: tuple[float, Lease] | None = None
        """The release that was in force before, and until when it stays open."""
        self._period = NEAR if scheme(store.url) == "file" else PERIOD
        self._others: OrderedDict[str, Lease] = OrderedDict()
        self._models: OrderedDict[str, None] = OrderedDict()
        """Models that were asked for by their digest."""
        self._opening = asyncio.Lock()
        self._parts = Parts()
        self._names: dict[str, tuple[float, str]] = {}
        self._failed: tuple[int, float, float] = (0, 0.0, PERIOD)
        """The number of the record that did not open, when to try it again, and the pause after that."""
        self._keys_read = float("-inf")
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def generators(self) -> dict[str, Generator]:
        """What generates here now, by service version: for the release in force, its canaries, and those that were asked for by name."""
        return self._parts.held("services/")

    async def follow(self) -> None:
        """Keep up with the channel and the keys, until cancelled. What goes wrong is logged and tried again; the open release stays."""
        while True:
            began = time.monotonic()
            try:
                await self.step()
            except RagstoneError as error:
                self._fault(error.code, str(error))
            except Exception as error:
                self._fault(type(error).__name__, traceback.format_exc())
            await asyncio.sleep(max(self._period, min(PERIOD, SHARE * (time.monotonic() - began))))

    async def step(self) -> None:
        """Look once: read the keys if it is time, and put the channel's newest release in force if it is another."""
        if self._before and time.monotonic() > self._before[0]:
            self._let_go()
        if time.monotonic() - self._keys_read > KEYS:
            await self._read_keys()
        record = await asyncio.to_thread(records.current, self.store, self.channel)
        if record is None or (self.record and record.number == self.record.number):
            return
        number, again, pause = self._failed
        if record.number == number and time.monotonic() < again:
            return
        try:
            await self._put_in_force(record)
        except BaseException:
            pause = min(LONGEST, 2 * pause) if record.number == number else PERIOD
            self._failed = (record.number, time.monotonic() + pause, pause)
            raise

    @asynccontextmanager
    async def use(self, name: str, opening: str | None = None) -> AsyncIterator[Opened]:
        """The release that `name`, a channel or an id, stands for, held until the block is left. Of a channel, a conversation
        that opens so may be a canary's.

        Raises `NotReady` before the first release, `RequestError` (model_not_found) for a name that the store does not know.
        """
        lease = await self._lease(self._shared_out(name, opening))
        lease.users += 1
        try:
            yield lease.opened
        finally:
            lease.users -= 1
            self._close_if_done(lease)

    @asynccontextmanager
    async def model(self, digest: str) -> AsyncIterator[tuple[Embedder, Embeddings]]:
        """An embedding model by its digest, held until the block is left and, like other releases, kept a while. It needs no release.

        Raises `RequestError` (model_not_found) for one that the store does not have.
        """
        key = f"models/{digest}"
        if not DIGEST.fullmatch(digest) or not await asyncio.to_thread(stores.published, self.store, key):
            raise unknown(key)
        load = partial(asyncio.to_thread, _model, self.store, digest)
        embedder = await self._parts.take(key, load)
        try:
            await self._keep(key, load)
            yield embedder, Here(embedder)
        finally:
            await self._parts.give_back(key)

    async def close(self) -> None:
        """Close all releases. No request may be under way."""
        while self._models:
            await self._parts.give_back(self._models.popitem()[0])
        self._let_go()
        for lease in [*self._others.values(), *([self._current] if self._current else [])]:
            self._retire(lease)
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)

    async def _keep(self, key: str, load: Callable[[], Awaitable[Embedder]]) -> None:
        """Hold a model beyond the request that asked for it."""
        if key not in self._models:
            self._models[key] = None
            await self._parts.take(key, load)
        self._models.move_to_end(key)
        if len(self._models) > OTHERS:
            await self._parts.give_back(self._models.popitem(last=False)[0])

    async def _put_in_force(self, record: Record) -> None:
        began = time.monotonic()
        if self._current is None or record.release != self._current.opened.id:
            async with self._opening:
                lease = self._warm(record.release) or self._others.pop(record.release, None) or await self._open(record.release)
            if self._current:
                self._before = (time.monotonic() + WARM, self._current)
            self._current = lease
        for id in record.canary:  # open before the first conversation is its own
            async with self._opening:
                if id not in self._others:
                    self._others[id] = await self._open(id)
        self.record, self.reason, self._logged = record, "", ""
        telemetry.released(self.channel, record.release, record.number)
        log.info("release %s is in force on %s, opened in %.1f s", record.release, self.channel, time.monotonic() - began)

    def _warm(self, id: str) -> Lease | None:
        """The release before, if it is this one; else it is let go first, so that no more than two are open at a swap."""
        if self._before and self._before[1].opened.id == id:
            lease, self._before = self._before[1], None
            return lease
        self._let_go()
        return None

    def _close_idle(self) -> None:
        """Close what is neither in force nor a canary."""
        self._let_go()
        for id in self._others.keys() - (self.record.canary.keys() if self.record else set()):
            self._retire(self._others.pop(id))

    def _let_go(self) -> None:
        if self._before:
            self._retire(self._before[1])
        self._before = None

    def _shared_out(self, name: str, opening: str | None) -> str:
        if self.record is None or opening is None or name != self.channel:
            return name
        return shares.release(self.record.release, self.record.canary, name, opening)

    async def _lease(self, name: str) -> Lease:
        if self._current is None:
            raise NotReady(f"not ready: {self.reason}", "ragstone up")
        id = await self._resolve(name)
        if id == self._current.opened.id:
            return self._current
        async with self._opening:
            if id not in self._others:
                self._others[id] = await self._open(id)
                if len(self._others) > OTHERS + len(self.record.canary if self.record else ()):
                    self._retire(self._others.popitem(last=False)[1])
            self._others.move_to_end(id)
            return self._others[id]

    async def _resolve(self, name: str) -> str:
        if self._current and name in (self.channel, self._current.opened.id):
            return self._current.opened.id
        read, id = self._names.get(name, (float("-inf"), ""))
        if time.monotonic() - read < NAMES:
            return id
        try:
            id = await asyncio.to_thread(records.resolve, self.store, name)
        except RagstoneError as error:
            if not isinstance(error, ReleaseError) and name.isprintable() and ".." not in name:
                raise
            raise unknown(name) from None
        if len(self._names) >= OTHERS * 10:
            self._names.clear()
        self._names[name] = (time.monotonic(), id)
        return id

    async def _read_keys(self) -> None:
        keys = await asyncio.to_thread(access.published, self.store)
        revoked = await asyncio.to_thread(access.revoked, self.store)
        self.verifier.trust(keys, revoked)
        purged = await asyncio.to_thread(records.purged, self.store, self.channel)
        if purged != self.pointer.purged:  # what was forgotten is in the releases before, and must not be asked of them by name
            self._close_idle()
        self.pointer = Pointer(keys, revoked, purged)
        self._keys_read = time.monotonic()

    async def _open(self, id: str) -> Lease:
        """The release with all its parts; what was loaded is given back when a part fails."""
        release = await asyncio.to_thread(records.load, self.store, id)
        taken: list[str] = []

        async def take(key: str, load: Callable[[], Awaitable[T]]) -> T:
            part = await self._parts.take(key, load)
            taken.append(key)
            return part

        try:
            embedder = await take(f"models/{release.model}", lambda: asyncio.to_thread(_model, self.store, release.model))
            embeddings = await take(f"vectors/{release.model}", partial(_embeddings, self.store, self.settings, embedder))
            index = await take(f"indexes/{release.index}", lambda: asyncio.to_thread(_index, self.store, self.settings, release.index))
            deployed = await asyncio.to_thread(_deployed, self.store, self.settings, release)
            starts = {name: partial(_generator, name, told) for name, told in deployed.items()}
            generators = {name: await take(f"services/{name}", start) for name, start in starts.items()}
        except BaseException:
            for key in taken:
                await self._parts.give_back(key)
            raise
        settings = next(iter(deployed.values()))
        opened = await asyncio.to_thread(_assembled, id, release, index, embedder, embeddings, generators, settings)
        return Lease(opened, taken)

    def _retire(self, lease: Lease) -> None:
        lease.retired = True
        self._close_if_done(lease)

    def _close_if_done(self, lease: Lease) -> None:
        if lease.retired and not lease.users:
            task = asyncio.create_task(self._close(lease))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, lease: Lease) -> None:
        parts, lease.parts = lease.parts, []
        for key in parts:
            try:
                await self._parts.give_back(key)
            except Exception:
                log.exception("%s could not be closed", key)
        if parts:
            log.info("release %s is closed", lease.opened.id)

    def _fault(self, kind: str, reason: str) -> None:
        """Log what went wrong, once; those outside learn its kind, for the rest may name paths and hosts."""
        told = f"{self.channel}: {kind.replace('_', ' ')}; the log of the origin has the reason"
        if reason != self._logged:
            log.error("channel %s: %s", self.channel, reason)
        self._logged, self.reason = reason, told


def unknown(name: str) -> RequestError:
    """The error for a `model` that is neither a channel nor a release."""
    message = f"the model {name[:80]!r} does not exist; GET /v1/models lists channels and releases"
    return RequestError(message, "model", status=404, code="model_not_found")


def _assembled(
    id: str,
    release: Release,
    index: Index,
    embedder: Embedder,
    embeddings: Embeddings,
    generators: dict[str, Generator],
    settings: Settings,
) -> Opened:
    retriever = search(release, Retriever.of(index, embedder, Calibration(release.calibration), release.weights))
    room = settings.serve.context // max(1, settings.serve.slots)
    return Opened(id, release, rag.connect(release, retriever, generators, room), retriever, embedder, embeddings, settings)


def _deployed(store: Store, settings: Settings, release: Release) -> dict[str, Settings]:
    """For each service version of the release, the settings it runs with here."""
    return {name: serve.deployed(store, name, settings) for name in release.generator}


def _model(store: Store, digest: str) -> Embedder:
    return Embedder(stores.fetch(store, f"models/{digest}"), digest)


async def _embeddings(store: Store, settings: Settings, embedder: Embedder) -> Embeddings:
    """In this process, or by the replicas of `serve.embeddings`, which are of the release's own model."""
    if not settings.serve.embeddings:
        return Here(embedder)
    version = await asyncio.to_thread(service.find, store, settings.serve.embeddings)
    if await asyncio.to_thread(serve.kind, store, version) != EMBEDDING:
        raise ConfigError(f"serve.embeddings = {version} is no embedding service", 'deploy a service.json with "kind": "embedding"')
    told = await asyncio.to_thread(serve.deployed, store, version, settings)
    encoding = await asyncio.to_thread(service.vectors, told, embedder.folder, embedder.digest)
    with telemetry.serving(version):
        await encoding.start()
    return encoding


def _index(store: Store, settings: Settings, digest: str) -> Index:
    return indexes.open(stores.fetch(store, f"indexes/{digest}"), digest, settings.index)


async def _generator(version: str, settings: Settings) -> Generator:
    generator = await asyncio.to_thread(serve.connect, settings)
    try:
        with telemetry.serving(version):
            await generator.start()
        await asyncio.to_thread(lambda: generator.version)
    except BaseException:
        await generator.close()
        raise
    return generator
