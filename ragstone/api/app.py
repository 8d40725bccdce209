"""The origin as an ASGI app: routes, errors as OpenAI's JSON, an access log of one JSON line a request, and the life of its releases."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import ragstone
from ragstone import telemetry, wire
from ragstone.access import Verifier
from ragstone.api import admin, caller, channels, chat, console, documents, live, models, runs
from ragstone.api.call import Origin, veiled
from ragstone.api.releases import Releases
from ragstone.config import Settings
from ragstone.errors import RagstoneError, RequestError, Unauthorized
from ragstone.listen import listen
from ragstone.reuse import Reuse
from ragstone.runs import Runs
from ragstone.shadow import Shadow
from ragstone.slow import Slowest
from ragstone.store import Store
from ragstone.wire import RELEASE

THREADS = 8
"""Retrievals at the same time, at most, and as many encodings: twice the cores, for they also wait for files."""
ID = re.compile(r"[\w.:-]{1,64}")

access_log = logging.getLogger("ragstone.access")
POLLED = frozenset({"/v1/release", "/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by edges, probes and Prometheus: logged only when refused."""
log = logging.getLogger("ragstone.api")

ROUTES = [
    Route("/v1/chat/completions", chat.complete, methods=["POST"]),
    Route("/v1/embeddings", admin.embeddings, methods=["POST"]),
    Route("/v1/retrieve", admin.retrieve, methods=["POST"]),
    Route("/v1/documents", documents.document, methods=["POST"]),
    Route("/v1/documents/page", documents.page, methods=["POST"]),
    Route("/v1/feedback", caller.give_feedback, methods=["POST"]),
    Route("/v1/key", caller.key),
    Route("/v1/models", admin.models),
    Route("/v1/models/{name}", admin.model),
    Route("/v1/release", admin.release),
    Route("/admin/canary", channels.canary, methods=["POST"]),
    Route("/admin/diff", channels.difference, methods=["POST"]),
    Route("/admin/documents", documents.listing, methods=["POST"]),
    Route("/admin/exam", runs.listing),
    Route("/admin/exam", runs.examine, methods=["POST"]),
    Route("/admin/exam/live", runs.follow),
    Route("/admin/exam/stop", runs.stop, methods=["POST"]),
    Route("/admin/forget", runs.listing),
    Route("/admin/forget", runs.forget, methods=["POST"]),
    Route("/admin/forget/live", runs.follow),
    Route("/admin/live", live.follow),
    Route("/admin/models", models.listing),
    Route("/admin/promote", channels.promote, methods=["POST"]),
    Route("/admin/releases", channels.listing),
    Route("/admin/releases", channels.save, methods=["POST"]),
    Route("/admin/rollback", channels.rollback, methods=["POST"]),
    Route("/admin/scores", channels.scores, methods=["POST"]),
    Route("/admin/serving", live.now),
    Route("/admin/sync", runs.listing),
    Route("/admin/sync", runs.sync, methods=["POST"]),
    Route("/admin/sync/live", runs.follow),
    Route("/admin/sync/stop", runs.stop, methods=["POST"]),
    Route("/admin/terms", models.terms, methods=["POST"]),
    Route("/admin/training", runs.listing),
    Route("/admin/training", runs.train, methods=["POST"]),
    Route("/admin/training/live", runs.follow),
    Route("/admin/training/stop", runs.stop, methods=["POST"]),
    Route("/console", console.page),
    Route("/console/{name}", console.script),
    Route("/healthz", admin.healthz),
    Route("/readyz", admin.readyz),
    Route("/metrics", admin.metrics),
]


def create(store: Store, settings: Settings) -> Starlette:
    """The origin over a store. Its lifespan follows the channel; until the first release is open, `/v1` answers 503."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        verifier = Verifier()
        releases = Releases(store, settings, verifier)
        threads, encoders = (anyio.CapacityLimiter(min(THREADS, 2 * (os.cpu_count() or 1))) for _ in range(2))
        shadow, reuse = Shadow(store, settings), Reuse(settings.api.reuse_mb << 20)
        own, slowest = Runs(settings.work_folder, settings.folder), Slowest(settings.telemetry.questions)
        app.state.origin = Origin(store, settings, verifier, releases, threads, encoders, shadow, reuse, own, slowest)
        shadow.open()
        following = asyncio.create_task(releases.follow())
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            await shadow.close()
            await releases.close()

    handlers: dict[Any, Any] = {RagstoneError: _refused, HTTPException: _unrouted}
    return Starlette(routes=ROUTES, lifespan=lifespan, middleware=[Middleware(Front)], exception_handlers=handlers)


def serve(store: Store, settings: Settings, started: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way. `started` is called with the bound URL; port 0 takes a free one."""
    telemetry.configure(settings.telemetry.otlp, ragstone.__version__)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.getLogger("ragstone").handlers = [handler]
    logging.getLogger("ragstone").setLevel(logging.INFO)
    listen(create(store, settings), settings.api.host, settings.api.port, drain=settings.serve.timeout, started=started)


async def _refused(request: Request, error: RagstoneError) -> Response:
    request.state.error = error.code
    error = veiled(error, request.state.id)
    headers = wire.error_headers(error) | ({"www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else {})
    return Response(wire.error_body(error), error.status, headers)


async def _unrouted(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path[:200]} is not served here" if error.status_code in (404, 405) else error.detail
    refused = await _refused(request, RequestError(message, status=error.status_code, code="not_found"))
    refused.headers.update(error.headers or {})
    return refused


class Front:
    """Around every request: its id, its line in the access log, its count, and an answer when something unforeseen fails."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = _Call(scope, send)
        try:
            await self.app(scope, receive, call.send)
        except Exception:
            log.exception("internal error, request %s", call.id)
            if not call.status:
                await call.fail()
        finally:
            call.end()


class _Call:
    """One request while it lasts."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        self.id = given if ID.fullmatch(given) else secrets.token_hex(8)
        self.status = 0
        self._release = ""
        self._scope, self._send = scope, send
        scope.setdefault("state", {})["id"] = self.id
        self._began = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._release = dict(message["headers"]).get(RELEASE.encode(), b"").decode()
            message = {**message, "headers": [*message["headers"], (b"x-request-id", self.id.encode())]}
        await self._send(message)

    async def fail(self) -> None:
        body = wire.error_body(RagstoneError(f"internal error; the log of the origin has it under {self.id}"))
        await self.send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"application/json")]})
        await self.send({"type": "http.response.body", "body": body})

    def end(self) -> None:
        route = getattr(self._scope.get("route"), "path", "other")
        telemetry.requests.labels("origin", route, str(self.status)).inc()
        if route in POLLED and self.status < 400:
            return
        state = self._scope.get("state", {})
        principal = state.get("principal")
        line = {
            "id": self.id,
            "method": self._scope["method"],
            "path": self._scope["path"][:200],
            "status": self.status,
            "ms": round((time.perf_counter() - self._began) * 1000, 1),
            "release": self._release or None,
            "key": principal.key if principal else None,
            "tenant": principal.tenant if principal else None,
            "error": state.get("error"),
        }
        access_log.info("request", extra={"fields": {name: value for name, value in line.items() if value is not None}})


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"), "level": record.levelname.lower(), "log": record.name}
        line |= {"service": service} if (service := telemetry.service()) else {}
        line |= {"message": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
