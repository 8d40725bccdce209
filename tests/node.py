"""A search engine's node on loopback that answers what each test chooses: for faults that a real one has seldom."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WELL: dict[str, Any] = {
    "GET /": {"version": {"distribution": "opensearch", "number": "3.6.0"}},
    "GET /_cat/plugins": [{"name": "n1", "component": "opensearch-knn"}],
    "GET /_cluster/health": {"status": "green"},
    "GET /_cluster/settings": {"persistent": {}, "transient": {}},
}
"""What a cluster says in which an index can be built."""


class Node:
    """`answers` by method and path without the query; a list of (status, JSON) is one answer after the other, the last one for good."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.credentials: list[str | None] = []
        self.address = ""
        self._turn = threading.Lock()

    @property
    def url(self) -> str:
        return f"opensearch://{self.address}/docs"

    def answer(self, request: str, body: bytes, credentials: str | None) -> tuple[int, Any]:
        """Status and JSON."""
        with self._turn:
            self.asked.append(request)
            self.bodies.append(body)
            self.credentials.append(credentials)
            planned = self.answers.get(request, (404, {"error": f"no {request}"}))
            if isinstance(planned, list) and planned and isinstance(planned[0], tuple):
                planned = planned.pop(0) if len(planned) > 1 else planned[0]
            return planned if isinstance(planned, tuple) else (200, planned)


@contextmanager
def running(answers: dict[str, Any]) -> Iterator[Node]:
    """A node on a free port, in threads of its own."""
    node = Node(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, answer = node.answer(f"{self.command} {self.path.partition('?')[0]}", body, self.headers.get("authorization"))
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    node.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield node
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
