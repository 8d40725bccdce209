"""What a person sees of long work: lines, and bars with the time left. The pipeline speaks to `Show`; the terminal is one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Protocol, TypeVar

T = TypeVar("T")

Done = Callable[[int], None]
"""Called with how much is done in all."""


class Advance(Protocol):
    """Called with how many units were done in all so far, and with how many there are once that is known.

    `note` is what else is to be said of them; `left` the seconds to the end, where they are known better than by the pace of the bar;
    `figures` what was measured there, by name.
    """

    def __call__(
        self, done: int, total: int | None = None, note: str = "", left: float | None = None, figures: Mapping[str, float] | None = None
    ) -> None: ...


class Show(Protocol):
    """Where progress goes."""

    def say(self, text: str) -> None:
        """One line."""

    def failed(self, path: str, reason: str) -> None:
        """A file that is left out, and why."""

    def bar(self, label: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """A bar over `total` units while the work inside runs."""


def paced(advance: Advance) -> Callable[[int, int], None]:
    """Reports bytes to a bar, with how fast they were done."""
    began = time.monotonic()

    def report(done: int, total: int) -> None:
        advance(done, total, f"{done / 1e6 / max(time.monotonic() - began, 0.001):.1f} MB/s")

    return report


def left_out(path: str, reason: str) -> str:
    """The line about a file that is left out."""
    return f"  skipped {path}: {reason}"


def ignored(done: int) -> None:
    """Progress that nobody looks at."""


def counted(values: Iterable[T], progress: Done) -> Iterator[T]:
    """The values as they are taken, with how many that were."""
    for done, value in enumerate(values, 1):
        yield value
        progress(done)


class Silence:
    """Shows nothing: for tests and for programs that call the pipeline."""

    def say(self, text: str) -> None:
        pass

    def failed(self, path: str, reason: str) -> None:
        self.say(left_out(path, reason))

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda done, total=None, note="", left=None, figures=None: None


class Terminal:
    """Bars on standard error that vanish when done, lines that stay; plain lines where there is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def failed(self, path: str, reason: str) -> None:
        self.say(left_out(path, reason))

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[Advance]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
        from rich.text import Text

        class Left(ProgressColumn):
            """The time left: as it was told, else by the pace."""

            pace = TimeRemainingColumn()

            def render(self, task: Task) -> Text:
                left = task.fields["left"]
                return self.pace.render(task) if left is None else Text(str(timedelta(seconds=round(left))), "progress.remaining")

        note = TextColumn("{task.fields[note]}", markup=False)
        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), Left(), note)
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(label, total=total, note="", left=None)

            def advance(
                done: int, total: int | None = None, note: str = "", left: float | None = None, figures: Mapping[str, float] | None = None
            ) -> None:
                progress.update(task, completed=done, total=total, note=note, left=left)

            yield advance
