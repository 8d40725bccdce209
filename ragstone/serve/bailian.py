"""`bailian://app?…`: an application of Bailian writes the answers, by DashScope's `Application.call`, streamed.

The API key comes from RAGSTONE_SERVE_API_KEY or DashScope's own places; it is in no URL, message or log. Verified against the SDK's
contract, not against a live account.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, fields
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import dashscope
import requests
from dashscope import Application

from ragstone import alibaba, telemetry
from ragstone.completions import BUSY, TOO_SLOW
from ragstone.config import Settings
from ragstone.errors import ConfigError, GeneratorError
from ragstone.serve import Say
from ragstone.wire import Message, Piece, Sampling, Usage

logging.getLogger("dashscope").setLevel(logging.CRITICAL)  # it logs a traceback of each fault, and questions when told to be more talkative

EXAMPLE = "serve.url = bailian://<application>"
KEYLESS = "set RAGSTONE_SERVE_API_KEY or DASHSCOPE_API_KEY"
INTERNATIONAL = "https://dashscope-intl.aliyuncs.com/api/v1"
CHINA = "https://dashscope.aliyuncs.com/api/v1"


@dataclass(frozen=True)
class App:
    """Which application it is: what the URL says."""

    id: str
    workspace: str = ""
    index: str = ""
    """A knowledge base that Bailian searches for each question besides our passages; empty is none."""
    region: str = ""
    """`ap-southeast-1` asks the international service; else it is China's."""
    endpoint: str = ""
    """DashScope's API, where it is not the region's; `http://` on this machine only."""

    @property
    def url(self) -> str:
        """What names it, wherever it is asked."""
        given = {name: value for name in OPTIONS if (value := getattr(self, name))}
        return f"bailian://{self.id}?{urlencode(given, safe='/:')}"

    @property
    def base(self) -> str:
        """The address of DashScope's API."""
        return self.endpoint or (INTERNATIONAL if self.region.startswith("ap-") else CHINA)

    def asked(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        """What `Application.call` is given."""
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        placed = {"workspace": self.workspace or None, "rag_options": {"pipeline_ids": [self.index]} if self.index else None}
        told = [{"role": message.role, "content": message.content} for message in messages]
        return {"app_id": self.id, "messages": told, "stream": True, "incremental_output": True, **drawn, **placed}


OPTIONS = tuple(one.name for one in fields(App) if one.name != "id")


def read(url: str) -> App:
    """What `bailian://app?…` says. Raises `ConfigError` on what it can't mean.

    >>> read("bailian://app-1?index=kb-9").index
    'kb-9'
    """
    parts = urlsplit(url)
    values = dict(parse_qsl(parts.query))
    if "@" in parts.netloc:  # not quoted: it may hold a key
        raise ConfigError("a bailian:// URL takes no key", KEYLESS)
    if unknown := sorted(set(values) - set(OPTIONS)):
        raise ConfigError(f"bailian:// has no {unknown[0]!r}; there are {', '.join(OPTIONS)}", EXAMPLE)
    if not parts.netloc:
        raise ConfigError(f"serve.url = {url!r} must name an application", EXAMPLE)
    alibaba.server(values.get("endpoint", ""))
    return App(parts.netloc, **values)


def connect(settings: Settings, say: Say | None = None) -> BailianGenerator:
    """The generator behind a `bailian://` URL."""
    return BailianGenerator(read(settings.serve.url), settings.serve.api_key or str(dashscope.api_key or ""), settings.serve.timeout)


def calls(url: str) -> list[str]:
    """What each question is sent as, for a person to read; capitals stand for what it brings along."""
    app = read(url)
    asked = app.asked([Message("system", "PROMPT"), Message("user", "QUESTION")], Sampling())
    told = {"input": {"messages": asked["messages"]}, "parameters": {"incremental_output": True, "temperature": 0.0, "top_p": 1.0}}
    if app.index:
        told["parameters"]["rag_options"] = asked["rag_options"]
    head = ["# Application.call of DashScope, with Authorization: Bearer and X-DashScope-SSE: enable"]
    return [*head, f"POST {app.base}/apps/{app.id}/completion", *json.dumps(told, indent=1).splitlines()]


class BailianGenerator:
    """An application of Bailian. Its model, its instructions and an answer's length are set in Bailian's console."""

    def __init__(self, app: App, key: str, timeout: float) -> None:
        self.app = app
        self._key = key
        self._timeout = timeout

    @property
    def version(self) -> str:
        """SHA-256 of the URL: what the application does behind it can't be seen from here."""
        return hashlib.sha256(self.app.url.encode()).hexdigest()

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        if sampling.stop:
            raise GeneratorError("an application of Bailian takes no stop sequences")
        self._check()
        with telemetry.generation("bailian", self.app.id, sampling) as generation:
            call = _Call(asyncio.get_running_loop(), self._timeout, {**self.app.asked(messages, sampling), **self._ours()})
            finish, usage, given = "", Usage(), False
            try:
                while (response := await self._next(call, given)) is not None:
                    finish, usage = _finish(response) or finish, _usage(response) or usage
                    if text := response.output.text:
                        given = True
                        generation.token()
                        yield Piece(text)
            finally:
                call.stop()
            if not finish:
                raise GeneratorError(f"Bailian's application {self.app.id} ended its answer before it was whole", retryable=not given)
            generation.end(finish, usage)
            yield Piece("", finish, usage)

    async def start(self) -> None:
        """Only a key is looked for: an application has no call that asks whether it is there, and every question costs."""
        self._check()

    async def healthy(self) -> bool:
        return bool(self._key)

    async def close(self) -> None:
        """Nothing is open between two questions."""

    def _ours(self) -> dict[str, Any]:
        return {"api_key": self._key, "base_address": self.app.base, "request_timeout": self._timeout}

    def _check(self) -> None:
        if not self._key:
            raise GeneratorError(f"Bailian's application {self.app.id} needs an API key, and there is none", KEYLESS)

    async def _next(self, call: _Call, given: bool) -> Any:
        """What comes next, None at the end. A refusal is told in the service's words, without the key that some servers quote."""
        try:
            response = await call.next()
        except TimeoutError as error:
            raise GeneratorError(f"Bailian's application {self.app.id} did not end its answer in time", TOO_SLOW) from error
        except requests.RequestException as error:
            reason = f"Bailian's application {self.app.id} can't be reached, or broke off: {type(error).__name__}"
            raise GeneratorError(reason, retryable=not given) from error
        status = HTTPStatus.OK if response is None else int(response.status_code)
        if status == HTTPStatus.OK:
            return response
        told = f"{response.code}: {response.message}".replace(self._key, "***")
        hint = KEYLESS if status in (401, 403) else ""
        told = f"Bailian's application {self.app.id} answered {status}, {told}"
        raise GeneratorError(told, hint, retryable=status in BUSY and not given)


class _Call:
    """One call of the SDK, which waits, in a thread; what it gives is read here. `stop` ends the request, wherever it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, asked: dict[str, Any]) -> None:
        self._loop = loop
        self._deadline = loop.time() + seconds
        self._given: asyncio.Queue[Any] = asyncio.Queue()
        self._session = requests.Session()
        self._session.hooks["response"].append(self._begun)
        self._stopped = False
        self._response: requests.Response | None = None
        threading.Thread(target=self._run, args=(asked,), daemon=True).start()

    async def next(self) -> Any:
        """The next response, None after the last. Raises `TimeoutError` and what the SDK raises."""
        async with asyncio.timeout_at(self._deadline):
            given = await self._given.get()
        if isinstance(given, BaseException):
            raise given
        return given

    def stop(self) -> None:
        """No more is read; the other side sees that nobody listens."""
        self._stopped = True
        if self._response is not None:
            _shut(self._response)

    def _begun(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._response = response
        if self._stopped:
            _shut(response)

    def _run(self, asked: dict[str, Any]) -> None:
        try:
            with self._session:
                responses: Any = Application.call(session=self._session, **asked)
                for response in responses:
                    self._put(response)
            self._put(None)
        except Exception as error:
            self._put(error if isinstance(error, requests.RequestException) else requests.RequestException(type(error).__name__))

    def _put(self, given: Any) -> None:
        if not self._stopped:
            self._loop.call_soon_threadsafe(self._given.put_nowait, given)


def _shut(response: requests.Response) -> None:
    """End a response that another thread may be reading."""
    shut: Callable[[], None] = response.raw.shutdown
    try:
        shut()
    except (ValueError, RuntimeError, OSError):  # read to its end, or closed meanwhile
        return


def _finish(response: Any) -> str:
    """`stop` or `length`; an application says `null` until then."""
    finish = str(response.output.finish_reason or "")
    return finish if finish in ("stop", "length") else ""


def _usage(response: Any) -> Usage | None:
    """Of all models that the application asked."""
    models = (response.usage.get("models") if response.usage else None) or []
    if not models:
        return None
    return Usage(sum(int(one.input_tokens or 0) for one in models), sum(int(one.output_tokens or 0) for one in models))
