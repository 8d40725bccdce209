"""A rerank endpoint on loopback whose judgement and faults each test chooses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Judge = Callable[[str, Sequence[str]], Sequence[float]]
"""A score for each document, for a question."""


class Reranker:
    """What it was asked, and what it is to answer: `faults` first, one a request, then the judge's scores, best first."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.faults: list[tuple[int, dict[str, str], bytes]] = []
        self.port = 0
        self._turn = threading.Lock()

    @property
    def url(self) -> str:
        return f"rerank+http://127.0.0.1:{self.port}/v1/rerank?model=judge"

    def answer(self, path: str, key: str | None, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; one request at a time, so that a test knows which one a fault hits."""
        with self._turn:
            asked = json.loads(body)
            self.asked.append(asked)
            self.keys.append(key)
            if path != "/v1/rerank":
                return 404, {}, b"{}"
            if self.faults:
                return self.faults.pop(0)
            scores = self.judge(asked["query"], asked["documents"])
            results = [{"index": at, "relevance_score": score} for at, score in enumerate(scores)]
            results.sort(key=lambda one: -one["relevance_score"])
            return 200, {}, json.dumps({"id": "r-1", "results": results}).encode()


@contextmanager
def reranking(judge: Judge) -> Iterator[Reranker]:
    """A reranker on a free port, in threads of its own."""
    reranker = Reranker(judge)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, headers, answer = reranker.answer(self.path, self.headers["authorization"], body)
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(answer)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    reranker.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield reranker
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
