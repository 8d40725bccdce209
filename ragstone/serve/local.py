"""`local://smollm2`, `local:///path/model.gguf`: llama.cpp on this machine, in a child process that is restarted when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import sys
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path

import orjson

from ragstone import replica, telemetry, weights
from ragstone.completions import Completions, Endpoint, Patience
from ragstone.config import Settings
from ragstone.errors import GeneratorError
from ragstone.replica import Replica
from ragstone.serve import Say
from ragstone.wire import Message, Piece, Sampling

LOAD = 120.0
"""Seconds that a replica may take to load its model; SmolLM2 takes one."""
STEADY = 30.0
"""Seconds of life after which a death counts as the first one again, and the longest pause before a restart."""


def connect(settings: Settings, say: Say | None = None) -> LocalGenerator:
    """The generator of `local://<weights>`, not yet started. Nothing is downloaded until it starts or its version is read."""
    return LocalGenerator(settings, say)


class LocalGenerator:
    """One replica of llama.cpp, with slots that share its weights and take turns token by token."""

    def __init__(self, settings: Settings, say: Say | None = None) -> None:
        self._settings = settings.serve
        self._say = say
        self._source = settings.serve.url.removeprefix("local").removeprefix("://") or "smollm2"
        self.name = Path(self._source).stem
        total = settings.serve.timeout
        # a full slot reads its prompt for tens of seconds on a CPU before its first token
        self._completions = Completions(Patience(connect=5.0, read=total, total=total))
        self._child: Child | None = None
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @cached_property
    def weights(self) -> Path:
        """The GGUF file, got on first use."""
        return weights.pull(self._source, self._say)

    @cached_property
    def version(self) -> str:
        """SHA-256 of all that changes what is generated; threads don't, and the chat template is in the weights."""
        with self.weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        engine = f"xllamacpp {metadata.version('xllamacpp')}, {replica.REVISION}"
        parts = {"weights": digest, "engine": engine, "context": self._settings.context, "slots": self._settings.slots}
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def endpoint(self) -> Endpoint:
        """Where the replica listens now; another one after each restart. Raises `GeneratorError` while there is none."""
        if self._child is None:
            raise GeneratorError(f"no replica of {self.name} is up", retryable=True)
        return self._child.endpoint

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        for again in (True, False):
            await self._up()
            try:
                async with contextlib.aclosing(self._completions.stream(self.endpoint, messages, sampling)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except GeneratorError as error:
                if not (again and error.retryable):
                    raise  # a replica that dies before its first piece costs the next one's start, and no error

    async def start(self) -> None:
        """Load the model. Raises `GeneratorError` with llama.cpp's own words when it can't be loaded."""
        if self._keeper is not None:
            return
        await asyncio.to_thread(lambda: self.weights)
        await self._launch()
        self._keeper = asyncio.create_task(self._keep())

    async def healthy(self) -> bool:
        try:
            return await self._completions.status(self.endpoint, "/health") == 200
        except GeneratorError:
            return False

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        if self._child is not None:
            await self._child.stop()
        self._gone()
        await self._completions.close()

    async def _up(self) -> None:
        """Return when a replica is ready; while one is being restarted, that is a matter of seconds."""
        if self._keeper is None:
            raise GeneratorError(f"{self.name} was asked before it was started")
        try:
            async with asyncio.timeout(min(LOAD, self._settings.timeout)):
                await self._ready.wait()
        except TimeoutError as error:
            raise GeneratorError(f"the replica of {self.name} does not come back", retryable=True) from error

    async def _launch(self) -> None:
        serve = self._settings
        self._child = await Child.start(
            Replica(str(self.weights), self.name, serve.context, serve.slots, serve.threads, secrets.token_urlsafe(16)),
        )
        self._ready.set()

    async def _keep(self) -> None:
        """Start the replica again whenever it dies: at once the first time, later each time after that."""
        clock = asyncio.get_running_loop().time
        begun, deaths = clock(), 0
        while True:
            if self._child is not None:
                await self._child.process.wait()
            self._gone()
            deaths = 0 if clock() - begun > STEADY else deaths
            await asyncio.sleep(min(STEADY, 2.0**deaths - 1))
            begun, deaths = clock(), deaths + 1
            telemetry.restarts.inc()
            with contextlib.suppress(GeneratorError):  # the next round waits longer
                await self._launch()

    def _gone(self) -> None:
        self._child = None
        self._ready.clear()


class Child:
    """A running replica: its process, its address, and the last it said on its standard error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.endpoint = Endpoint("", "")
        self._words: deque[str] = deque(maxlen=8)
        self._reader = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, replica_: Replica) -> Child:
        """A replica whose model is loaded. Raises `GeneratorError`."""
        # By its file and with -P: no module in the current folder can take the place of one that it imports.
        # In a session of its own: Ctrl-C reaches us only, and we end it; if we can't, its standard input does.
        command = [sys.executable, "-P", replica.__file__]
        pipe = asyncio.subprocess.PIPE
        child = cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True))
        try:
            async with asyncio.timeout(LOAD):
                child.endpoint = await child._introduce(replica_)
        except BaseException as error:
            await child.stop()
            if isinstance(error, TimeoutError):
                raise GeneratorError(f"{replica_.name} was not loaded after {LOAD:.0f} s: {child.words}") from error
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

    async def _introduce(self, replica_: Replica) -> Endpoint:
        """Tell the child what to run and learn where it listens."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(ConnectionError):  # it died already; its last words say why
            self.process.stdin.write(replica_.line())
            await self.process.stdin.drain()
        line = await self.process.stdout.readline()
        if not line:
            status = await self.process.wait()
            await self._reader
            raise GeneratorError(f"{replica_.name} can't be loaded (exit status {status}): {self.words}", "ragstone models pull")
        return Endpoint(f"{orjson.loads(line)['address']}/v1", replica_.name, replica_.key, "local")

    async def _listen(self) -> None:
        """Read all that the child says, lest it waits for a full pipe to empty; keep the end."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self._words.append(line.decode(errors="replace").strip()[:300])
