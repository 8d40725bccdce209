"""A real origin over a small real corpus: staged, indexed with MiniLM and released by the pipeline itself, served by uvicorn."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import openai
import uvicorn

from ragstone import access, config, project, store
from ragstone.access import Principal
from ragstone.api import app
from ragstone.config import Settings
from ragstone.listen import bind
from ragstone.release import Release
from ragstone.show import Silence
from ragstone.store import Store
from tests.conftest import write_manuals

SECRET = "# Vault\n\nThe vault of the boiler house opens with the code 4711. Only the plant manager knows the vault code.\n"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def events(self) -> list[str]:
        """The data of each event of a stream."""
        return [part.removeprefix("data: ") for part in self.data.decode().split("\n\n") if part]

    @property
    def whole(self) -> bool:
        """Whether it is an answer, and all of it."""
        if "text/event-stream" in self.headers.get("content-type", ""):
            return self.status == 200 and self.events[-1] == "[DONE]" and not any('"error"' in event for event in self.events)
        return self.status == 200 and bool(self.json["choices"][0]["finish_reason"])


@dataclass(frozen=True)
class Site:
    """A project folder with its store, and keys for it."""

    settings: Settings
    store: Store

    @property
    def docs(self) -> Path:
        return self.settings.folder / "docs"

    def build(self) -> Release:
        return project.build(self.settings, self.store, Silence())

    def issue(self, groups: tuple[str, ...] = ("public",), expires: float = 0.0) -> tuple[str, Principal]:
        return access.create(
            self.settings.keys_folder, self.store, tenant="acme", groups=groups, rpm=10**6, tpm=10**9, expires=expires
        )

    def key(self, groups: tuple[str, ...] = ("public",)) -> str:
        return self.issue(groups)[0]


def site(folder: Path, serve_url: str, **serve: Any) -> Site:
    """The manuals, one document only for the group `managers`, and a release of them. Commands that run there see the same settings."""
    write_manuals(folder / "docs")
    (folder / "docs" / "vault.md").write_text(SECRET)
    written = [f"{name} = {json.dumps(value)}" for name, value in {"url": serve_url, **serve}.items()]
    rule = '[[corpus.groups]]\nmatch = "vault.md"\ngroups = ["managers"]'
    (folder / config.FILE).write_text("\n".join(["[serve]", *written, rule, ""]))
    settings = config.load(folder, {})
    made = Site(settings, store.connect(settings.store_url))
    made.build()
    return made


@dataclass(frozen=True)
class Origin:
    """A running origin."""

    site: Site
    url: str
    token: str

    @property
    def client(self) -> openai.OpenAI:
        """The official client, as users have it; it must not hide a failure behind a retry."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.token, max_retries=0, timeout=120)

    def request(self, method: str, path: str, body: object = None, token: str | None = None, **headers: str) -> Reply:
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=120)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        authorization = {} if token == "" else {"authorization": f"Bearer {token or self.token}"}
        try:
            connection.request(method, path, data, authorization | named)
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def chat(
        self, question: str | list[dict[str, Any]], token: str | None = None, headers: dict[str, str] | None = None, **fields: Any
    ) -> Reply:
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
        body = {"model": "production", "messages": messages, **fields}
        return self.request("POST", "/v1/chat/completions", body, token, **(headers or {}))

    @property
    def release(self) -> str:
        return str(self.request("GET", "/v1/release").json["release"])


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not happen in 60 s"
        time.sleep(0.02)


@contextmanager
def running(at: Site, *, ready: bool = True) -> Iterator[Origin]:
    """The origin in a thread of this process, on a free port."""
    bound = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app.create(at.store, at.settings), lifespan="on", log_level="warning", access_log=False))
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    origin = Origin(at, url, at.key())
    thread.start()
    try:
        until(lambda: server.started)
        if ready:
            until(lambda: origin.request("GET", "/readyz").status == 200)
        yield origin
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the origin did not stop"


@contextmanager
def asked(origin: Origin, question: str = "How long is the feed pump primed?") -> Iterator[Callable[[], int]]:
    """Two users ask all the while, one of them for streams, and every answer is whole; called, it says how many were."""
    replies: list[Reply] = []
    over = threading.Event()

    def ask(number: int) -> None:
        while not over.is_set():
            replies.append(origin.chat(question, seed=number, stream=bool(number)))

    users = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for user in users:
        user.start()
    try:
        yield lambda: len(replies)
    finally:
        over.set()
        for user in users:
            user.join(60)
    assert replies
    assert [reply for reply in replies if not reply.whole] == []
