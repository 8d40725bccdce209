"""Long commands as others see them: which one is under way, how far it is, how the last ones ended.

A run is a process of its own. Its state is a file in the project's work folder, so that whoever starts again still knows it. Of each kind
one runs at a time: it holds a lock, which the system takes back when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from subprocess import Popen
from typing import IO, Any, Literal

from ragstone.children import Interrupt, interruptible, spawn
from ragstone.errors import Conflict, RagstoneError
from ragstone.lock import NAME as LOCK
from ragstone.lock import is_held
from ragstone.show import Advance, Show

State = Literal["running", "done", "failed", "stopped", "killed"]
KEPT = 20
"""Runs of a kind that are remembered."""
POINTS = 400
"""Figures of a run that are kept: of more every second one goes, and only every second one is taken from then on."""
EVERY = 0.5
"""Seconds between two writes, at least."""
FAILURES = 100
"""Files that could not be read, of a run, that are kept."""


@dataclass(frozen=True)
class Run:
    """One run as it is kept. Times are Unix seconds."""

    id: str
    kind: str
    """The command's name: `train`, `eval`, `forget`, `build`."""
    pid: int
    host: str
    began: float
    seen: float
    """When it last told something."""
    state: State = "running"
    stage: str = ""
    """What it does now: the name of its bar."""
    done: int = 0
    total: int | None = None
    left: float | None = None
    """Seconds to the end of this stage, where they are known."""
    note: str = ""
    """What it is at: while `parse` reads files, the path of the one whose turn it is."""
    failures: tuple[Mapping[str, str], ...] = ()
    """Files that were left out so far, each with `path` and `reason`."""
    curve: tuple[Mapping[str, float], ...] = ()
    """What was measured at which `step`: of training `loss`, and `held_out` where it was looked at."""
    error: str = ""
    result: Any = None
    """What came of it, as JSON's values."""


class Report:
    """The state of a run, written as it changes. It is a `Show` that also shows everything to another one, and ends the work when told."""

    def __init__(self, folder: Path, run: Run, show: Show, interrupt: Interrupt) -> None:
        self._folder, self._run, self._show, self._interrupt = folder, run, show, interrupt
        self._written = 0.0
        self._stride = 1
        self._lock = threading.RLock()
        self._later: threading.Timer | None = None
        self._tell(now=True)

    def say(self, text: str) -> None:
        self._show.say(text)

    def failed(self, path: str, reason: str) -> None:
        self._show.failed(path, reason)
        self._tell(failures=(*self._run.failures, {"path": path, "reason": reason})[:FAILURES])

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[Advance]:
        self._interrupt.heed()
        self._tell(stage=label, done=0, total=total, left=None, note="", now=True)
        with self._show.bar(label, total) as advance:

            def both(
                done: int, total: int | None = None, note: str = "", left: float | None = None, figures: Mapping[str, float] | None = None
            ) -> None:
                self._interrupt.heed()
                advance(done, total, note, left)
                if figures:
                    self._measured(done, figures)
                self._tell(done=done, left=left, note=note, total=self._run.total if total is None else total)

            yield both

    def end(self, state: State, error: str = "", result: object = None) -> None:
        """The last word."""
        self._tell(state=state, error=error, result=result, left=None, note="", now=True)

    def _measured(self, step: int, figures: Mapping[str, float]) -> None:
        if step % self._stride == 0:
            curve = (*self._run.curve, {"step": step, **figures})
            if len(curve) > POINTS:
                self._stride, curve = 2 * self._stride, curve[::2]
            self._run = replace(self._run, curve=curve)

    def _tell(self, now: bool = False, **changed: Any) -> None:
        """Write at once, or once `EVERY` has passed: what was told last is always written, also before a long pause."""
        with self._lock:
            self._run = replace(self._run, seen=time.time(), **changed)
            if now or self._run.seen - self._written > EVERY:
                self._put()
            elif self._later is None:
                self._later = threading.Timer(EVERY, self._put)
                self._later.daemon = True
                self._later.start()

    def _put(self) -> None:
        with self._lock:
            if self._later:
                self._later.cancel()
            self._later, self._written = None, time.time()
            _write(self._folder / f"{self._run.id}.json", self._run)


class Ended:
    """What a command puts its result into."""

    result: object = None


@contextmanager
def kept(work: Path, kind: str, show: Show) -> Iterator[tuple[Show, Ended]]:
    """While the block runs, this process is the run of its kind: it waits for one that is under way. SIGTERM ends the block like Ctrl-C."""
    folder = work / "runs" / kind
    with interruptible() as interrupt, _locked(folder, show):
        _sweep(folder)
        now = time.time()
        run = Run(_id(now, os.getpid()), kind, os.getpid(), socket.gethostname(), now, now)
        report, ended = Report(folder, run, show, interrupt), Ended()
        try:
            yield report, ended
        except BaseException as error:
            if interrupt.told or isinstance(error, KeyboardInterrupt):
                report.end("stopped")
            else:
                report.end("failed", error.message if isinstance(error, RagstoneError) else f"{type(error).__name__}: {error}")
            raise
        report.end("done", result=ended.result)


class Runs:
    """The runs of a project, and those processes of them that this one started."""

    def __init__(self, work: Path, folder: Path) -> None:
        self._root, self._project = work / "runs", folder
        self._started: dict[str, Popen[bytes]] = {}

    def all(self, kind: str) -> list[Run]:
        """The runs of a kind, the newest first: one that ended before it could write, too."""
        folder = self._root / kind
        found = [run for path in sorted(folder.glob("*.json"), reverse=True) if (run := _read(path))]
        if found and found[0].state == "running" and not is_held(folder):
            found[0] = _read(folder / f"{found[0].id}.json") or found[0]  # it may just have ended, and its last word is written before that
            found[0] = _killed(found[0])
        found[1:] = map(_killed, found[1:])
        return [*self._unwritten(kind, found), *found]

    def start(self, kind: str, arguments: Sequence[str]) -> Run:
        """Begin `ragstone <kind> <arguments>`; it outlives this process. Raises `Conflict` while one of its kind is under way."""
        running = next((run for run in self.all(kind) if run.state == "running"), None)
        if running or is_held(self._root / kind):
            raise Conflict(f"`ragstone {kind}` is under way already" + (f", process {running.pid}" if running else ""))
        log = self._log(kind)
        log.unlink(missing_ok=True)
        self._started[kind] = spawn([kind, *arguments], log, folder=self._project, background=kind == "train", detached=True)
        return self.all(kind)[0]

    def stop(self, kind: str) -> Run | None:
        """End the one under way with SIGTERM; None when none is. Raises `Conflict` when it runs on another machine."""
        running = next((run for run in self.all(kind) if run.state == "running"), None)
        if running and running.host != socket.gethostname():
            raise Conflict(f"`ragstone {kind}` runs on {running.host}: stop it there")
        if running:
            with suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGTERM)
        return running

    def _unwritten(self, kind: str, found: Sequence[Run]) -> list[Run]:
        """The process that was started here, as long as it has no state of its own."""
        process = self._started.get(kind)
        if process is None:
            return []
        status = process.poll()
        began = next((run for run in found if run.pid == process.pid), None)
        if began or status == 0:
            return []
        at = self._log(kind).stat().st_mtime
        run = Run(_id(at, process.pid), kind, process.pid, socket.gethostname(), at, time.time(), stage="start")
        return [run if status is None else replace(run, state="failed", error=_why(self._log(kind)))]

    def _log(self, kind: str) -> Path:
        return self._root / kind / "log"


def end_detached(work: Path) -> None:
    """Stop what origins of this project started and left running on this machine: each leads a session of its own."""
    for folder in (work / "runs").glob("*"):
        for run in Runs(work, work).all(folder.name):
            if run.state == "running" and run.host == socket.gethostname():
                with suppress(ProcessLookupError):
                    if os.getsid(run.pid) == run.pid:
                        os.kill(run.pid, signal.SIGTERM)


@contextmanager
def _locked(folder: Path, show: Show) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        if not _taken(lock):
            show.say(f"`ragstone {folder.name}` is under way already; waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _killed(run: Run) -> Run:
    """As it is to be told of, when it does not run."""
    return replace(run, state="killed") if run.state == "running" else run


def _id(began: float, pid: int) -> str:
    """In the order of time."""
    return f"{int(began * 1e6):018d}-{pid}"


def _write(path: Path, run: Run) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(run)), encoding="utf-8")
    fresh.replace(path)


def _read(path: Path) -> Run | None:
    """None for a file that is gone by now, or of another version."""
    try:
        told = json.loads(path.read_bytes())
        return Run(**{**told, "curve": tuple(told["curve"]), "failures": tuple(told.get("failures", ()))})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _sweep(folder: Path) -> None:
    for path in sorted(folder.glob("*.json"))[: -(KEPT - 1)]:
        path.unlink(missing_ok=True)


def _why(log: Path) -> str:
    """What the command said last: its own error where it named one, or what was wrong with its arguments."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if re.search(r"\w", line)]
    named = [line for line in lines if line.startswith("ragstone: ")]
    boxed = " ".join(line.strip("│ ") for line in lines if line.startswith("│"))
    return (named or [boxed] * bool(boxed) or lines or ["it printed nothing"])[-1]
