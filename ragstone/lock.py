"""Whether another process is at work in a folder: it holds the folder's lock, which the system takes back however the process ends."""

from __future__ import annotations

import fcntl
from pathlib import Path

NAME = "lock"


def is_held(folder: Path) -> bool:
    """Whether somebody holds the folder's lock; looking at it takes it from nobody. No lock is held by none."""
    try:
        with (folder / NAME).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
