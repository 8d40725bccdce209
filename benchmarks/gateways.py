"""Caches of answers over HTTP, each before an origin of the tests that a measurement steers: both edges, LiteLLM, Portkey and nginx.

The peers lie in one folder: `venv/bin/litellm` (pip install 'litellm[proxy]'), `nginx/usr/sbin/nginx`, and
`portkey/node_modules/@portkey-ai/gateway` (npm install, with `"overrides": {"@hono/node-server": "1.14.1"}` in its package.json: with a
newer one it answers every stream by a 500, https://github.com/Portkey-AI/gateway/issues/1389).
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, IncompleteRead
from pathlib import Path
from typing import Any

from aiohttp import web

import ragstone
from ragstone.listen import bind
from ragstone.wire import Head, Usage, completion
from tests.conformance.bench import EDGES, Response, running, until
from tests.conformance.origin import Origin, Seen

READY = 400
"""Seconds that a peer may take to start."""


class Upstream(Origin):
    """The tests' origin for those who do not always ask for a stream."""

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        test = body.get("test", {})
        if body.get("stream") or "status" in test:
            return await super()._chat(request)
        self.seen.append(Seen(request.path, dict(request.headers), body))
        if test.get("hold"):
            await self._gate.wait()
        return self._whole(test)

    async def _other(self, request: web.Request) -> web.Response:
        if request.path != "/v1/embeddings":
            return await super()._other(request)
        self.seen.append(Seen(request.path, dict(request.headers), await request.json()))
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        return web.json_response({"object": "list", "data": [vector], "model": "production", "usage": usage})

    def _whole(self, test: Mapping[str, Any]) -> web.Response:
        """The answer as JSON."""
        told = {"release": self.release, "citations": [{"number": 1, "chunk": "c1", "document": "pump.md"}]}
        head, said = Head("chatcmpl-1", 1_700_000_000, "production"), test.get("say", "Restart the pump [1].")
        whole = completion(head, said, "stop", Usage(20, 5), told)
        headers = {"x-ragstone-release": self.release, "x-secret": "of the origin", **test.get("headers", {})}
        return web.Response(body=whole, content_type="application/json", headers=headers)


@dataclass(frozen=True)
class Target:
    """What stands before an origin: its address, and two callers who must not get each other's answers."""

    name: str
    url: str
    origin: Origin
    callers: tuple[Mapping[str, str], Mapping[str, str]]
    process: int
    """Its id."""
    health: Callable[[], Any] | None = None
    """What an edge of ours says of itself."""

    @property
    def release(self) -> str | None:
        """The release that an edge of ours has seen; None of a peer, which knows none."""
        return str(self.health()["release"]) if self.health else None

    def chat(self, body: object, caller: int = 0, **headers: str) -> Response:
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=60)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request("POST", "/v1/chat/completions", data, {"content-type": "application/json", **self.callers[caller], **named})
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            try:
                return Response(answer.status, told, answer.read())
            except IncompleteRead as broken:
                return Response(answer.status, told, broken.partial)
        finally:
            connection.close()

    def asked(self, body: Mapping[str, Any]) -> int:
        return len(self.origin.asked(body["messages"][-1]["content"]))

    def twice(self, body: dict[str, Any], other: object = None, **headers: str) -> int:
        """How often the origin is asked for a question and then for it again, or for another with the same words."""
        self.chat(body, 0, **headers)
        self.chat(body if other is None else other, 0, **headers)
        return self.asked(body)


@contextmanager
def edge(name: str, folder: Path, origin: Origin | None = None, **settings: object) -> Iterator[Target]:
    """Before an origin of its own, or before this one, which is running; with `RAGSTONE_EDGE_*` settings."""
    folder.mkdir()
    with running(EDGES[name].command, folder, **({"edge_origin": origin.url} if origin else {}), **settings) as bench:
        if origin:
            origin.keys, bench = bench.origin.keys, replace(bench, origin=origin)
        until(lambda: bool(bench.health["release"]) and bench.request("GET", "/v1/models").status == 200)
        tokens = (bench.token, bench.key(tenant="globex"))
        callers = tuple({"authorization": f"Bearer {token}"} for token in tokens)
        ours = f"Ragstone {ragstone.__version__}, {name}"
        yield Target(ours, bench.url, bench.origin, (callers[0], callers[1]), bench.process.pid, lambda: bench.health)


@contextmanager
def litellm(peers: Path, folder: Path, origin: Origin | None = None) -> Iterator[Target]:
    folder.mkdir()
    program = peers / "venv" / "bin" / "litellm"
    version = output([peers / "venv" / "bin" / "python", "-c", "from importlib.metadata import version; print(version('litellm'))"])
    origin, key = origin or Upstream().start(), "sk-" + secrets.token_hex(24)
    model = {"model": "openai/production", "api_base": f"{origin.url}/v1", "api_key": "sk-upstream", "max_retries": 0}
    config = {
        "model_list": [{"model_name": "production", "litellm_params": model}],
        "litellm_settings": {"cache": True, "cache_params": {"type": "local", "ttl": 3600}, "num_retries": 0},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": key},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config))
    port = free()
    command = [program, "--config", folder / "litellm.yaml", "--host", "127.0.0.1", "--port", port, "--num_workers", 1]
    caller = {"authorization": f"Bearer {key}"}
    with serving(command, folder, port, "/health/liveliness") as process:
        yield Target(f"LiteLLM {version}", f"http://127.0.0.1:{port}", origin, (caller, {**caller, "x-tenant": "globex"}), process)
    origin.close()


@contextmanager
def portkey(peers: Path, folder: Path) -> Iterator[Target]:
    folder.mkdir()
    package = peers / "portkey" / "node_modules" / "@portkey-ai" / "gateway"
    version, origin, port = json.loads((package / "package.json").read_text())["version"], Upstream().start(), free()
    asked = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{origin.url}/v1"}
    asked |= {"x-portkey-config": json.dumps({"cache": {"mode": "simple", "max_age": 3600}})}
    callers = tuple({**asked, "authorization": f"Bearer sk-{name}"} for name in ("acme", "globex"))
    with serving(["node", package / "build" / "start-server.js", f"--port={port}", "--headless"], folder, port, "/") as process:
        yield Target(f"Portkey {version}", f"http://127.0.0.1:{port}", origin, (callers[0], callers[1]), process)
    origin.close()


NGINX = """
daemon off; user {user}; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_cache_path {folder}/cache keys_zone=answers:10m;
  map $http_cache_control $past {{ default 0; ~*no-store 1; }}
  server {{
    listen 127.0.0.1:{port}; client_max_body_size 1m; client_body_buffer_size 1m; client_body_in_single_buffer on;
    location / {{
      proxy_pass {origin}; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache answers; proxy_cache_methods POST; proxy_cache_valid 200 1h; proxy_cache_lock on;
      proxy_cache_key "$request_uri $http_authorization $request_body"; proxy_cache_bypass $past; proxy_no_cache $past;
    }}
  }}
}}
"""


@contextmanager
def nginx(peers: Path, folder: Path) -> Iterator[Target]:
    folder.mkdir()
    program = peers / "nginx" / "usr" / "sbin" / "nginx"
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    origin, port = Upstream().start(), free()
    (folder / "nginx.conf").write_text(NGINX.format(user=getpass.getuser(), folder=folder, port=port, origin=origin.url))
    callers = tuple({"authorization": f"Bearer {name}"} for name in ("acme", "globex"))
    with serving([program, "-p", folder, "-c", folder / "nginx.conf"], folder, port, "/") as process:
        yield Target(f"nginx {said.rpartition('/')[2].strip()}", f"http://127.0.0.1:{port}", origin, (callers[0], callers[1]), process)
    origin.close()


QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
"""LiteLLM asks GitHub for prices at its start otherwise."""
PEERS = {"venv": litellm, "portkey": portkey, "nginx": nginx}


@contextmanager
def serving(command: list[Any], folder: Path, port: int, path: str) -> Iterator[int]:
    """A peer that answers while the block runs, and its process."""
    with (folder / "peer.log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], cwd=folder, stdout=log, stderr=log, env={**os.environ, **QUIET})
        try:
            until = time.monotonic() + READY
            while not answers(port, path):
                if process.poll() is not None or time.monotonic() > until:
                    sys.exit(f"{command[0]} did not start:\n{(folder / 'peer.log').read_text()[-2000:]}")
                time.sleep(0.5)
            yield process.pid
        finally:
            process.terminate()
            process.wait(60)


def answers(port: int, path: str) -> bool:
    with contextlib.suppress(OSError, HTTPException), contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status > 0
    return False


def free() -> int:
    with bind("127.0.0.1", 0) as found:
        port: int = found.getsockname()[1]
    return port


def output(command: list[Any]) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout.strip()
