"""What a person sees of long work: lines, and bars with the time left. The pipeline speaks to `Show`; the terminal is one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called with how many units were done in all so far, and with how many there are once that is known."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


class Show(Protocol):
    """Where progress goes."""

    def say(self, text: str) -> None:
        """One line."""

    def bar(self, label: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """A bar over `total` units while the work inside runs."""


class Silence:
    """Shows nothing: for tests and for programs that call the pipeline."""

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda done, total=None: None


class Terminal:
    """Bars on standard error that vanish when done, lines that stay; plain lines where there is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[Advance]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(label, total=total)
            yield lambda done, total=None: progress.update(task, completed=done, total=total)
