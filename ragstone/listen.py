"""An ASGI app on a port: uvicorn, told when it is ready and stopped without cutting an answer short."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from ragstone.errors import ConfigError


def listen(app: Any, host: str, port: int, *, drain: float, started: Callable[[str], None] | None = None) -> None:
    """Serve `app` until SIGTERM or SIGINT, then finish what is under way for up to `drain` seconds.

    Port 0 takes a free one; `started` is called with the URL once connections are accepted. Raises `ConfigError` when the address
    can't be bound.
    """
    bound = _bind(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
    options = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=int(drain),
    )
    with contextlib.suppress(KeyboardInterrupt):
        _Server(options, url, started).run(sockets=[bound])


class _Server(uvicorn.Server):
    """Tells when it accepts connections."""

    def __init__(self, options: uvicorn.Config, url: str, tell: Callable[[str], None] | None) -> None:
        super().__init__(options)
        self._url, self._tell = url, tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._tell:
            self._tell(self._url)


def _bind(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(f"can't listen on {host}:{port}: {error.strerror}", "choose another port; 0 takes a free one") from error
    return bound
