"""A proxy on loopback before a service over HTTP. It fails calls as it is told: does not pass one on, keeps the answer, breaks it off.

Conditional writes pass one at a time, so that the service behind keeps what S3 promises: versitygw 1.7.0 looks whether the key is free,
then renames into place, and of eight writers at once two had won.
"""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

REFUSED, BUSY, LOST, HALF = WAYS = "refused", "busy", "lost", "half"
"""The connection ends before the call is passed on; 503; the answer is not passed back; half of its body is."""


@dataclass
class Proxy:
    """What the proxy does: `fails` says how the n-th call fails, or nothing; `calls` are those that came."""

    address: str
    fails: Callable[[int, str], str] = lambda number, call: ""
    calls: list[str] = field(default_factory=list)
    endpoint: str = ""
    numbers: Iterator[int] = field(default_factory=itertools.count)
    turn: threading.Lock = field(default_factory=threading.Lock)

    def handler(proxy) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                call = f"{self.command} {self.path}"
                proxy.calls.append(call)
                fails = proxy.fails(next(proxy.numbers), call)
                if fails == REFUSED:
                    self.close_connection = True
                    return
                if fails == BUSY:
                    self.send_response(503)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                with proxy.turn if "if-none-match" in self.headers else nullcontext():
                    status, headers, content = self.passed_on(body)
                self.close_connection = fails in (LOST, HALF)
                if fails == LOST:
                    return
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                with suppress(OSError):  # who asked is gone, killed perhaps
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2] if fails == HALF else content)

            def passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                """The service's answer. The call keeps its Host, which is signed."""
                connection = http.client.HTTPConnection(proxy.address, timeout=20)
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body or None)
                with connection.getresponse() as answer:
                    content = answer.read()
                connection.close()
                return answer.status, [pair for pair in answer.getheaders() if pair[0].lower() != "transfer-encoding"], content

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler


@contextmanager
def before(endpoint: str, fails: Callable[[int, str], str] = Proxy.fails) -> Iterator[Proxy]:
    """The proxy before `endpoint` while the block runs."""
    proxy = Proxy(urlsplit(endpoint).netloc, fails)
    server = ThreadingHTTPServer(("127.0.0.1", 0), proxy.handler())
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def before_half(endpoint: str) -> AbstractContextManager[Proxy]:
    """Every second call fails, each time in another way."""
    return before(endpoint, lambda number, call: WAYS[number // 2 % 4] if number % 2 else "")
