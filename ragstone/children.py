"""Processes that this one started: they end when it ends, however it ends, and are started again when they die."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

SET_PARENT_DEATH_SIGNAL = 1  # prctl(2): PR_SET_PDEATHSIG
STEADY = 30.0
"""Seconds after which a process that dies is restarted at once again."""


def spawn(
    arguments: Sequence[str],
    log: Path | None,
    *,
    background: bool = False,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    quiet: bool = False,
    detached: bool = False,
) -> subprocess.Popen[bytes]:
    """`python -m ragstone <arguments>`, its output appended to `log` (None: to ours), with `environment` over ours.

    A `quiet` one only reports errors. On Linux it gets SIGTERM when this process dies, unless it is `detached`, and `background` work runs
    on what the other processes leave of the CPU.
    """
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") if log is not None else nullcontext() as output:
        return subprocess.Popen(
            [sys.executable, "-m", "ragstone", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else output,
            stderr=output,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=detached,
            preexec_fn=_prepared(background, bound=not detached),
        )


def stop(process: subprocess.Popen[bytes], patience: float = 10.0) -> int:
    """The exit status of the process after SIGTERM, or SIGKILL where that was not enough within `patience` seconds."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@dataclass
class Interrupt:
    """Whether the work was told to end: code in between, such as a C module that is being imported, may have swallowed the exception."""

    told: bool = False

    def heed(self) -> None:
        """Raises `KeyboardInterrupt` when it was."""
        if self.told:
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """SIGTERM is a `KeyboardInterrupt` inside: it ends the work as Ctrl-C does, in order. So is an error that became of one on its way."""
    interrupt = Interrupt()

    def handle(signal_number: int, frame: FrameType | None) -> None:
        interrupt.told = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield interrupt
    except Exception:
        interrupt.heed()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class Kept:
    """A process that is to run all the time: `tend` starts it again when it is found dead, later each time it dies young."""

    arguments: Sequence[str]
    log: Path | None
    folder: Path
    environment: Mapping[str, str] | None = field(default=None, repr=False)
    quiet: bool = False
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def tend(self) -> int | None:
        """Start it if it isn't running. Returns the exit status with which it was found dead, else None."""
        if self.process is None:
            self._start()
            return None
        status = self.process.poll()
        if status is None:
            return None
        age = self.clock() - self.started
        self.deaths = 0 if age > STEADY else self.deaths
        if age < min(2.0**self.deaths - 1, STEADY):
            return None  # it died young: wait before the next try
        self.deaths += 1
        self._start()
        return status

    def stop(self, patience: float = 10.0) -> None:
        """As `children.stop`."""
        if self.process is not None:
            stop(self.process, patience)

    def _start(self) -> None:
        self.started = self.clock()
        self.process = spawn(self.arguments, self.log, folder=self.folder, environment=self.environment, quiet=self.quiet)


def bound() -> Callable[[], None]:
    """What a child of any program runs before it, so that on Linux it gets SIGTERM when this process dies."""
    return _prepared(background=False, bound=True)


def _prepared(background: bool, bound: bool) -> Callable[[], None]:
    """What the child runs before its program: follow the parent into death, step back in the queue for the CPU."""
    parent = os.getpid()

    def prepare() -> None:
        if bound and sys.platform == "linux":
            ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if bound and os.getppid() != parent:
            os._exit(1)  # the parent died between fork and prctl
        if background:
            os.nice(10)
            if sys.platform == "linux":
                os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops us in order

    return prepare
