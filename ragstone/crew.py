"""Several edge processes on one port: the kernel shares connections out, one that dies is started again, all are drained at the end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ragstone import config
from ragstone.children import Kept, interruptible
from ragstone.config import Settings
from ragstone.errors import ConfigError
from ragstone.listen import address, bind

LOOK = 0.2
"""Seconds between two looks at the processes."""


def run(settings: Settings, started: Callable[[str], None] | None = None) -> None:
    """Keep `edge.workers` edges running until SIGTERM or SIGINT, then let each finish what is under way.

    `started` is called with the URL once the first accepts connections. Raises `ConfigError` when the address can't be bound, when a
    process ends before that, and without `edge.redis`: each would count a key's limits by itself, and a client that stays on one
    connection sees one process, so that no part of a limit would be right for it.
    """
    edge = settings.edge
    if not edge.redis:
        raise ConfigError(f"edge.workers = {edge.workers} without edge.redis: each process would count limits by itself", "set edge.redis")
    with bind(edge.host, edge.port, shared=True) as held:  # bound and never listened on: it keeps the port while processes come and go
        port: int = held.getsockname()[1]
        alike = replace(settings, edge=replace(edge, port=port, workers=1, share_port=True))
        crew = [Kept(["edge"], None, settings.folder, config.environment(alike, "edge"), quiet=True) for _ in range(edge.workers)]
        with interruptible():
            try:
                _begin(crew, edge.host, port)
                if started:
                    started(address(edge.host, port, bool(edge.certificate)))
                while True:
                    _tend(crew)
            except KeyboardInterrupt:
                pass
            finally:
                _drain(crew, edge.timeout)


def _begin(crew: Sequence[Kept], host: str, port: int) -> None:
    """Until one accepts connections. Raises `ConfigError` when one ends instead; what it printed says why."""
    while not _accepts(host, port):
        for one in crew:
            status = one.tend()
            if status is not None:
                raise ConfigError(f"an edge process ended with status {status} before it served", "see what it printed above")
        time.sleep(LOOK)


def _tend(crew: Sequence[Kept]) -> None:
    for one in crew:
        one.tend()
    time.sleep(LOOK)


def _drain(crew: Sequence[Kept], patience: float) -> None:
    """All are told before any is waited for."""
    for one in crew:
        if one.process is not None:
            one.process.terminate()
    for one in crew:
        one.stop(patience + 5)


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
