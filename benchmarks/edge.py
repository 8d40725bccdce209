"""What the Python edge costs over loopback: a cache hit at concurrency 1, and how many origin requests equal concurrent misses make.

    python -m benchmarks.edge

The edge is a process of its own; the client is a plain socket, so that what is measured is the edge. On a busy machine CPU
time per hit is the figure to compare, not the latency.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.record import record
from tests.conformance.bench import EDGES, Bench, asked, post, question, running

HITS = 5000
WARM = 500
CONCURRENT = 100
ROUNDS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running(EDGES["local"].command, Path(folder)) as bench:
        figures = {**hits(bench, streamed=False), **hits(bench, streamed=True), **misses(bench), "memory, MiB": memory(bench)}
    record("edge", figures)
    print("\n| edge, over loopback | |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value} |")
    missed = figures["cache hit, JSON: p50, ms"] > 1 or figures["origin requests for 100 equal concurrent misses"] != 1
    sys.exit("the goal is missed: a hit of 1 ms at most, and one origin request" if missed else 0)


def hits(bench: Bench, *, streamed: bool) -> dict[str, Any]:
    """Latency and CPU time of one hit after the other, over one connection."""
    body = {**question(test={"say": " ".join(["Bleed the pump [1]."] * 12)}), "stream": streamed}
    bench.chat(body)
    with socket.create_connection(address(bench)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = raw(bench, body)
        for _ in range(WARM):
            exchange(connection, request)
        before = cpu(bench)
        took = sorted(exchange(connection, request) for _ in range(HITS))
        spent = cpu(bench) - before
    form = "stream" if streamed else "JSON"
    return {
        f"cache hit, {form}: p50, ms": round(statistics.median(took) * 1000, 3),
        f"cache hit, {form}: p99, ms": round(took[int(HITS * 0.99)] * 1000, 3),
        f"cache hit, {form}: CPU, µs": round(spent / HITS * 1e6),
    }


def misses(bench: Bench) -> dict[str, Any]:
    """Equal questions at once, half of them streams, while the origin holds its answer: the most requests it saw in any round."""

    async def scene() -> int:
        body = question(test={"hold": "stream"})
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            waiting = [asyncio.create_task(post(session, bench, {**body, "stream": number % 2 == 0})) for number in range(CONCURRENT)]
            while bench.health["requests"] <= CONCURRENT:
                await asyncio.sleep(0.01)
            bench.origin.go()
            answers = await asyncio.gather(*waiting)
        assert {answer.text for answer in answers} == {"Restart the pump [1]."}
        return asked(bench, body)

    return {f"origin requests for {CONCURRENT} equal concurrent misses": max(asyncio.run(scene()) for _ in range(ROUNDS))}


def raw(bench: Bench, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: edge\r\nauthorization: Bearer {bench.token}\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def exchange(connection: socket.socket, request: bytes) -> float:
    """Seconds from the request's first byte to the answer's last."""
    began = time.perf_counter()
    connection.sendall(request)
    answer = connection.recv(65536)
    head, _, rest = answer.partition(b"\r\n\r\n")
    left = int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) - len(rest)
    while left > 0:
        left -= len(connection.recv(65536))
    took = time.perf_counter() - began
    assert head.startswith(b"HTTP/1.1 200")
    assert b"x-ragstone-cache: hit" in head
    return took


def address(bench: Bench) -> tuple[str, int]:
    host, port = bench.url.removeprefix("http://").split(":")
    return host, int(port)


def cpu(bench: Bench) -> float:
    """Seconds of processor time that the edge has spent."""
    fields = Path(f"/proc/{bench.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(bench: Bench) -> int:
    status = Path(f"/proc/{bench.process.pid}/status").read_text()
    return round(int(status.split("VmRSS:")[1].split()[0]) / 1024)


if __name__ == "__main__":
    main()
