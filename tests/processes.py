"""The processes of a test. One may end while it is looked at: it is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import psutil

T = TypeVar("T")


def below(look: Callable[[psutil.Process], T]) -> Iterator[tuple[psutil.Process, T]]:
    """All processes that this one started, or that those did, with what the look at each found."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie is none either
            yield process, look(process)


def listening(process: psutil.Process) -> list[str]:
    """The addresses that it listens at."""
    return [at.laddr.ip for at in process.net_connections("inet") if at.status == psutil.CONN_LISTEN]
