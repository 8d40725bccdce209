from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import aiohttp
import pytest

from ragstone import config, edge, listen
from ragstone.errors import ConfigError
from ragstone.listen import Certificate
from tests import certificate as authority
from tests.conformance.bench import EDGES, LOCAL, asked, post, question, running, until

APP = """
import sys
from ragstone.listen import listen

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shut down", flush=True)
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})

listen(app, sys.argv[1], 0, drain=5, started=lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize(("host", "stop"), [("127.0.0.1", signal.SIGTERM), ("::1", signal.SIGINT)])
def test_the_bound_url_is_told_once_it_answers_and_a_signal_ends_it_in_order(host: str, stop: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", APP, host], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        with urllib.request.urlopen(process.stdout.readline().strip(), timeout=30) as answer:
            assert answer.read() == b"here"
        process.send_signal(stop)
        assert process.communicate(timeout=30)[0] == "shut down\n"
    finally:
        process.kill()


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_cant_be_had_is_named(host: str) -> None:
    with listen.bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"{host}:{port}"):
            listen.listen(None, host, port, drain=0)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return authority.made(tmp_path, "edge")


def test_an_edge_with_a_certificate_speaks_https_and_nothing_else(certificate: Certificate, tmp_path: Path) -> None:
    files = {"edge_certificate": "edge.pem", "edge_certificate_key": "edge.key"}
    with running(EDGES["local"].command, tmp_path, **files) as bench:
        url = bench.url.replace("127.0.0.1", "localhost")
        assert url.startswith("https://")
        trusting = ssl.create_default_context(cafile=certificate.chain)
        with urllib.request.urlopen(f"{url}/healthz", timeout=30, context=trusting) as answer:
            assert answer.status == 200
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{url}/healthz".replace("https", "http"), timeout=30)


def test_a_certificate_that_cant_be_used_is_named(certificate: Certificate) -> None:
    with pytest.raises(ConfigError, match=r"none\.pem"):
        Certificate(certificate.chain.with_name("none.pem"), certificate.key).check()
    with pytest.raises(ConfigError, match="no certificate with its key"):
        Certificate(certificate.key, certificate.chain).check()


def test_only_those_who_share_a_port_get_it_together() -> None:
    with listen.bind("127.0.0.1", 0, shared=True) as first:
        first.listen()
        port = first.getsockname()[1]
        listen.bind("127.0.0.1", port, shared=True).close()
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            listen.bind("127.0.0.1", port)


def test_an_edge_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    settings = config.override(config.load(tmp_path, {}), "edge", url="akamai")
    with pytest.raises(ConfigError, match="no edge connector for 'akamai': there is cloudflare, local"):
        edge.run(settings)


def test_the_edge_and_its_floors_load_no_store_connector() -> None:
    script = "import sys, json, ragstone.edge.local; print(json.dumps(sorted(m for m in sys.modules if m.startswith('ragstone.'))))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    loaded = json.loads(done.stdout)
    assert not [name for name in loaded if name.startswith(("ragstone.store.", "ragstone.retrieve", "ragstone.index", "ragstone.rag"))]


HURRIED = [sys.executable, "-c", f"from ragstone import atonce; atonce.PATIENCE = 3; {LOCAL}"]
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 9\r\n\r\n"


def test_who_does_not_send_a_whole_request_is_hung_up_on_and_who_waits_for_an_answer_is_not(tmp_path: Path) -> None:
    with running(HURRIED, tmp_path) as bench:
        body = question(test={"hold": "head"})
        host, port = bench.url.removeprefix("http://").split(":")

        async def scene() -> int:
            async with aiohttp.ClientSession() as session:
                waiting = asyncio.create_task(post(session, bench, body))
                await asyncio.to_thread(until, lambda: asked(bench, body) == 1)
                head = HEAD.format(token=bench.token).encode()
                slow = {part: socket.create_connection((host, int(port)), timeout=60) for part in (b"", head[:20], head, head + b"{")}
                for part, connection in slow.items():
                    connection.sendall(part)
                for connection in slow.values():
                    assert await asyncio.to_thread(connection.recv, 1000) == b""
                    connection.close()
                bench.origin.go()
                return (await waiting).status

        assert asyncio.run(scene()) == 200
