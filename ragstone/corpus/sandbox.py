"""A child process that parses files nobody vouches for: a crash, a hang or a memory bomb costs that one file, with its reason.

The child gets bytes on a pipe, no environment and a limit on memory; it sees no path of the store. Plain text is parsed here: our own code
reads it, in one pass.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import ragstone
from ragstone.corpus import Heading, page
from ragstone.corpus.parse import ENGINES, UNPACKED, Parsed, kind, parse
from ragstone.errors import ParseError

MEMORY = 2 << 30
"""Bytes of data the child may hold (Linux; elsewhere the system's own limits stand)."""

CALM = {"RAYON_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""One file at a time needs no thread pools, and their stacks would count against the limit on memory."""


class Sandbox:
    """Parses one file after another in a child, which is started at the first one and again after each death.

    >>> with Sandbox(seconds=10) as sandbox:
    ...     sandbox.parse(b"# Pump\\n\\nOpen the valve.", "pump.md").title
    'Pump'
    """

    def __init__(self, seconds: float, memory: int = MEMORY, unpacked: int = UNPACKED) -> None:
        self.seconds = seconds
        self.memory = memory
        self.unpacked = unpacked
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def parse(self, data: bytes, path: str) -> Parsed:
        """As `parse.parse`. Raises `ParseError`, also when the parser died or took longer than `seconds`."""
        return parse(data, path) if kind(path) not in ENGINES else _parsed(self._answer(data, {"path": path}))

    def draw(self, data: bytes, start: int) -> bytes:
        """As `page.draw`. Raises `ParseError` likewise."""
        return base64.b64decode(str(_checked(self._answer(data, {"start": start}))["png"]))

    def _answer(self, data: bytes, request: dict[str, object]) -> dict[str, object]:
        """What the child makes of the bytes. Raises `ParseError` when it died or took too long."""
        child = self._child = self._child or self._start()
        clock = threading.Timer(self.seconds, child.kill)
        began = time.monotonic()
        clock.start()
        try:
            answer = _ask(child, data, request)
        except BaseException:
            self._stop()  # an answer that nobody took would be the next file's
            raise
        finally:
            clock.cancel()
        late = time.monotonic() - began >= self.seconds
        code = self._stop() if late or not answer else 0
        if answer:
            told: dict[str, object] = json.loads(answer)
            return told
        if late:
            raise ParseError(f"took longer than {self.seconds:g} s to parse", "raise corpus.max_seconds in ragstone.toml")
        raise ParseError(f"its parser died ({_why(code)})")

    def _start(self) -> subprocess.Popen[bytes]:
        """A child that finds this package where we did, and nothing else of ours: no environment, no working folder."""
        here = str(Path(ragstone.__file__).parents[1])
        program = f"import sys; sys.path.append({here!r}); from ragstone.corpus.sandbox import serve; serve()"
        limits = [str(self.memory), str(self.unpacked), str(self.seconds)]
        return subprocess.Popen(
            [sys.executable, "-I", "-c", program, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=CALM,
            cwd="/",
        )

    def _stop(self) -> int:
        """End the child; its exit code (a negative one is the signal that ended it)."""
        child, self._child = self._child, None
        if child is None:
            return 0
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):
                pipe.close() if pipe else None
        try:
            return child.wait(timeout=1)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


def serve() -> None:
    """The child's side: a header line and the bytes in, a line of JSON out, until the pipe ends."""
    memory, unpacked, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    _limit(memory)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a parser prints is no answer
    while header := sys.stdin.buffer.readline():
        request = json.loads(header)
        signal.alarm(int(seconds) + 5)  # should the parent be gone, nobody else ends a hang
        answers.write(_answer(sys.stdin.buffer, request, unpacked) + b"\n")
        answers.flush()
        signal.alarm(0)


def _answer(source: BinaryIO, request: dict[str, Any], unpacked: int) -> bytes:
    data = source.read(request["size"])
    try:
        if "start" in request:
            return json.dumps({"png": base64.b64encode(page.draw(data, request["start"])).decode()}).encode()
        return json.dumps(asdict(parse(data, request["path"], unpacked))).encode()
    except ParseError as error:
        return json.dumps({"error": error.message, "hint": error.hint}).encode()
    except MemoryError:
        return json.dumps({"error": "needs more memory than a parser may have", "hint": ""}).encode()
    except Exception as error:  # a parser's own bug is a reason, too
        return json.dumps({"error": f"its parser failed: {type(error).__name__}: {error}", "hint": ""}).encode()


def _limit(memory: int) -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _ask(child: subprocess.Popen[bytes], data: bytes, request: dict[str, object]) -> bytes:
    """The child's answer; empty when it died."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps({"size": len(data), **request}).encode() + b"\n")
        child.stdin.write(data)
        child.stdin.flush()
        answer = child.stdout.readline()
    except (BrokenPipeError, ConnectionResetError):
        return b""
    return answer if answer.endswith(b"\n") else b""


def _parsed(answer: dict[str, object]) -> Parsed:
    return unpack(_checked(answer))


def _checked(answer: dict[str, object]) -> dict[str, object]:
    if "error" in answer:
        raise ParseError(str(answer["error"]), str(answer["hint"]))
    return answer


def unpack(parts: dict[str, object]) -> Parsed:
    """The value again, from `asdict` by way of JSON."""
    found = parts["headings"]
    facts = parts["metadata"]
    assert isinstance(found, list)
    assert isinstance(facts, dict)
    return Parsed(str(parts["text"]), str(parts["title"]), tuple(Heading(**heading) for heading in found), facts)


def _why(code: int) -> str:
    """An exit code in words.

    >>> _why(-11), _why(1)
    ('SIGSEGV', 'exit code 1')
    """
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
