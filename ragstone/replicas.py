"""Replicas of one model on this machine: as many as the load needs, each started again when it dies, none left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Protocol

import orjson

from ragstone import telemetry
from ragstone.completions import Endpoint
from ragstone.errors import GeneratorError
from ragstone.load import Load, Meter
from ragstone.scale import Bounds, Scaler

LOAD = 120.0
"""Seconds that a replica may take to load its model; SmolLM2 takes one."""
STEADY = 30.0
"""Seconds of life after which a death counts as the first one again, and the longest pause before a restart."""
SAMPLE = 1.0
"""Seconds between two looks at the replicas' use of the CPU."""

log = logging.getLogger(__name__)


class Kind(Protocol):
    """What a replica runs: a program that reads a line, and says where it listens once its model is loaded."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def program(self) -> str: ...

    def keyed(self, key: str) -> Kind:
        """The same, that asks for this key."""

    def line(self) -> bytes:
        """The line that the program reads."""


class Replicas:
    """Between `bounds.least` and `bounds.most` of them; a request goes to the one that has the fewest under way."""

    def __init__(self, kind: Kind, bounds: Bounds, cores: int) -> None:
        self._kind, self._bounds, self._cores = kind, bounds, cores
        self._places: list[Place] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._meter = Meter()

    @property
    def ready(self) -> list[Place]:
        """Those that take requests now."""
        return [place for place in self._places if place.up]

    async def start(self) -> None:
        """Load the model for as many as there are to be at least. Raises `GeneratorError`, with llama.cpp's own words."""
        opening = [asyncio.create_task(self._place().open()) for _ in range(self._bounds.least)]
        try:
            await asyncio.gather(*opening)
        except BaseException:
            for task in opening:  # those that do start would be left behind
                task.cancel()
            await asyncio.wait(opening)
            await self.close()
            raise
        if self._bounds.most > self._bounds.least:
            self._do(self._scale())

    @contextlib.asynccontextmanager
    async def lend(self, patience: float) -> AsyncIterator[Endpoint]:
        """Where to ask; within it, the replica counts as busier by one. Waits `patience` seconds while none is up."""
        place = await self._free(patience)
        place.taken += 1
        try:
            yield place.endpoint
        finally:
            place.taken -= 1
            self._tell()

    async def close(self) -> None:
        """Stop all of them, at once."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        places, self._places = self._places, []
        await asyncio.gather(*(place.close() for place in places))
        self._tell()

    def _place(self) -> Place:
        place = Place(self._kind, self._tell)
        self._places.append(place)
        return place

    async def _free(self, patience: float) -> Place:
        try:
            async with asyncio.timeout(patience):
                while not self.ready:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise GeneratorError(f"the replica of {self._kind.name} does not come back", retryable=True) from error
        return min(self.ready, key=lambda place: place.taken)

    def _tell(self) -> None:
        telemetry.replicas.labels(self._kind.name).set(len(self.ready))
        self._changed.set()

    def _do(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _scale(self) -> None:
        """Look at the load again and again; while a replica starts or ends, what will be is not known yet."""
        scaler, clock = Scaler(self._bounds), asyncio.get_running_loop().time
        used, looked = self.used(), clock()
        while True:
            await asyncio.sleep(SAMPLE)
            before, since = used, looked
            used, looked = self.used(), clock()
            if not before or used.keys() != before.keys() or len(used) < len(self._places):
                continue
            busy = sum(used[pid] - before[pid] for pid in used) / (looked - since)
            count = len(used)
            self._resize(scaler.advise(looked, count, 100 * busy / (count * self._cores)))

    def used(self) -> Mapping[int, float]:
        """The CPU seconds that each replica has used, by its process."""
        import psutil

        found = {}
        for place in self.ready:
            with contextlib.suppress(psutil.Error):  # it died just now
                times = psutil.Process(place.pid).cpu_times()
                found[place.pid] = times.user + times.system
        return found

    def load(self, slots: int) -> list[Load]:
        """How busy each is that takes requests; more of them than `slots` wait."""
        shares, found = self._meter.shares(self.used), []
        for place in self.ready:
            share = shares.get(place.pid)
            cpu = None if share is None else 100 * share / self._cores
            found.append(Load(f"process {place.pid}", cpu, min(place.taken, slots), max(0, place.taken - slots)))
        return found

    def _resize(self, count: int) -> None:
        for _ in range(count - len(self._places)):
            log.info("%s: replica %d starts", self._kind.name, len(self._places) + 1)
            self._do(self._grow(self._place()))
        for place in sorted(self.ready, key=lambda place: place.taken)[: len(self._places) - count]:
            log.info("%s: of %d replicas one ends", self._kind.name, len(self._places))
            place.leaving = True
            self._do(self._shrink(place))

    async def _grow(self, place: Place) -> None:
        try:
            await place.open()
        except GeneratorError as error:
            log.warning("another replica can't be started: %s", error)
            await asyncio.sleep(STEADY)  # its place stays taken: the next try comes after that
            self._places.remove(place)

    async def _shrink(self, place: Place) -> None:
        """End a replica when its last answer is given."""
        while place.taken:
            self._changed.clear()
            await self._changed.wait()
        self._places.remove(place)
        await place.close()
        self._tell()


class Place:
    """Where one replica runs, and the next one after its death."""

    def __init__(self, kind: Kind, changed: Callable[[], None]) -> None:
        self.taken = 0
        """Requests under way."""
        self.leaving = False
        self._kind, self._changed = kind, changed
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        return self._child is not None and self._child.process.returncode is None and not self.leaving

    @property
    def endpoint(self) -> Endpoint:
        assert self._child is not None
        return self._child.endpoint

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.process.pid

    async def open(self) -> None:
        """Load the model. Raises `GeneratorError`."""
        await self._launch()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._child is not None:
            await self._child.stop()
            self._child = None

    async def _launch(self) -> None:
        self._child = await Child.start(self._kind.keyed(secrets.token_urlsafe(16)))
        log.info("%s: a replica is up, process %d", self._kind.name, self.pid)
        self._changed()

    async def _keep(self) -> None:
        """Start the replica again whenever it dies: at once the first time, later each time after that."""
        clock = asyncio.get_running_loop().time
        begun, deaths = clock(), 0
        while True:
            if self._child is not None:
                status = await self._child.process.wait()
                log.warning("%s: a replica ended with status %d: %s", self._kind.name, status, self._child.words)
            self._child = None
            self._changed()
            deaths = 0 if clock() - begun > STEADY else deaths
            await asyncio.sleep(min(STEADY, 2.0**deaths - 1))
            begun, deaths = clock(), deaths + 1
            telemetry.restarts.inc()
            with contextlib.suppress(GeneratorError):  # the next round waits longer
                await self._launch()


class Child:
    """A running replica: its process, its address, and the last it said on its standard error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.endpoint = Endpoint("", "")
        self._words: deque[str] = deque(maxlen=8)
        self._reader = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, replica: Kind) -> Child:
        """A replica whose model is loaded. Raises `GeneratorError`."""
        # By its file and with -P: no module in the current folder can take the place of one that it imports.
        # In a session of its own: Ctrl-C reaches us only, and we end it; if we can't, its standard input does.
        command = [sys.executable, "-P", replica.program]
        pipe = asyncio.subprocess.PIPE
        child = cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True))
        try:
            async with asyncio.timeout(LOAD):
                child.endpoint = await child._introduce(replica)
        except BaseException as error:
            await child.stop()
            if isinstance(error, TimeoutError):
                raise GeneratorError(f"{replica.name} was not loaded after {LOAD:.0f} s: {child.words}") from error
            raise
        return child

    @property
    def words(self) -> str:
        return " / ".join(self._words) or "it said nothing"

    async def stop(self) -> None:
        """End the process, at once: it holds nothing that needs an orderly end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._reader

    async def _introduce(self, replica: Kind) -> Endpoint:
        """Tell the child what to run and learn where it listens."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(ConnectionError):  # it died already; its last words say why
            self.process.stdin.write(replica.line())
            await self.process.stdin.drain()
        line = await self.process.stdout.readline()
        if not line:
            status = await self.process.wait()
            await self._reader
            raise GeneratorError(f"{replica.name} can't be loaded (exit status {status}): {self.words}", "ragstone models pull")
        return Endpoint(f"{orjson.loads(line)['address']}/v1", replica.name, replica.key, "local")

    async def _listen(self) -> None:
        """Read all that the child says, lest it waits for a full pipe to empty; keep the end."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self._words.append(line.decode(errors="replace").strip()[:300])
            log.info("a replica says: %s", self._words[-1])
