"""An ASGI app on a port: uvicorn, told when it is ready and stopped without cutting an answer short."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from ragstone import atonce
from ragstone.errors import ConfigError


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate, with those that lead to its authority, and of its key, in PEM."""

    chain: Path
    key: Path

    def check(self) -> None:
        """Raises `ConfigError` when the files are not there, or do not belong together."""
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.chain, self.key)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{self.chain} with {self.key} is no certificate with its key in PEM: {error}") from error


def listen(
    app: Any,
    host: str,
    port: int,
    *,
    drain: float,
    started: Callable[[str], None] | None = None,
    shared: bool = False,
    certificate: Certificate | None = None,
) -> None:
    """Serve `app` until SIGTERM or SIGINT, then finish what is under way for up to `drain` seconds.

    Port 0 takes a free one; `started` is called with the URL once connections are accepted. A `shared` port is open to other processes
    that share it too. Raises `ConfigError` when the address can't be bound, or the certificate not be used.
    """
    if certificate:
        certificate.check()
    bound = bind(host, port, shared=shared)
    url = address(host, bound.getsockname()[1], certificate is not None)
    options = uvicorn.Config(
        app,
        http=atonce.Connection if hasattr(app, "at_once") else "httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(drain),
        ssl_certfile=certificate.chain if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
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


def address(host: str, port: int, tls: bool = False) -> str:
    """The URL of a server there.

    >>> address("::1", 8800), address("127.0.0.1", 443, tls=True)
    ('http://[::1]:8800', 'https://127.0.0.1:443')
    """
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket there, not yet listening. Where all are `shared`, the kernel deals connections out to those that listen.

    Raises `ConfigError` when the address can't be had.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(f"can't listen on {host}:{port}: {error.strerror}", "choose another port; 0 takes a free one") from error
    return bound
