"""A real Redis or Valkey server on loopback, never the machine's own. A test without one is skipped."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ragstone.listen import Certificate


@dataclass
class Server:
    """A server that may be stopped and started again, with nothing kept between."""

    program: str
    folder: Path
    port: int
    password: str = ""
    certificate: Certificate | None = None
    """With one it speaks TLS alone."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL, with more patience than an edge has: on a busy machine each that gave up would go by itself."""
        secret = f":{self.password}@" if self.password else ""
        scheme, host = ("rediss", "localhost") if self.certificate else ("redis", "127.0.0.1")
        return f"{scheme}://{secret}{host}:{self.port}/0?socket_timeout=30&socket_connect_timeout=30&timeout=30"

    def start(self) -> None:
        options = [*self._listens(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        secret = ["--requirepass", self.password] if self.password else []
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([self.program, *options, *secret], stdout=log, stderr=log)
        until = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < until, (self.folder / "redis.log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _listens(self) -> list[str]:
        if self.certificate is None:
            return ["--port", str(self.port)]
        files = ["--tls-cert-file", str(self.certificate.chain), "--tls-key-file", str(self.certificate.key)]
        return ["--port", "0", "--tls-port", str(self.port), *files, "--tls-auth-clients", "no"]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                if self.certificate:
                    return True
                connection.sendall(b"PING\r\n")
                return bool(connection.recv(100))
        except OSError:
            return False


@contextmanager
def running(folder: Path, password: str = "", certificate: Certificate | None = None) -> Iterator[Server]:
    """A server that answers while the block runs. Skips the test, with the reason, when none is installed."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("NO REDIS: neither redis-server nor valkey-server is installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = Server(program, folder, port, password, certificate)
    try:
        server.start()
        yield server
    finally:
        server.stop()
