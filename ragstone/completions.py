"""The client of an OpenAI-compatible `POST /v1/chat/completions`: an answer piece by piece, with time-outs, retries and cancellation.

What else such servers take in one body and answer in another is posted with the same patience.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import aiohttp

from ragstone import telemetry, wire
from ragstone.errors import GeneratorError
from ragstone.wire import Message, Piece, Sampling, Usage

ATTEMPTS = 4
"""Tries in all, before the first byte."""
BUSY = frozenset({408, 429, 500, 502, 503, 504, 529})
"""The statuses that may be gone at the next try."""

COMPLETIONS = "/chat/completions"
STREAM = "text/event-stream"

TOO_SLOW = "raise serve.timeout, or lower serve.max_tokens"


@dataclass(frozen=True)
class Endpoint:
    """Where a generator listens: `url` ends in `/v1`. The key is kept out of every message and log."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    provider: str = "openai"
    """The connector's name, for telemetry."""
    refused: str = field(default="set RAGSTONE_SERVE_API_KEY", repr=False)
    """What to do when the server refuses the key."""

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass(frozen=True)
class Patience:
    """Seconds: to connect, between two reads of a stream, until the whole answer is there, and before the first retry."""

    connect: float = 10.0
    read: float = 60.0
    total: float = 120.0
    backoff: float = 0.25


class Completions:
    """A pool of connections, for one event loop. `stream` may run many times at once."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._session: aiohttp.ClientSession | None = None

    async def stream(self, endpoint: Endpoint, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """The answer, piece by piece; the last one carries the finish reason and the usage. Closing it ends the request.

        Raises `GeneratorError`, retryable when the fault may pass and no piece was given yet.
        """
        given = False
        with telemetry.generation(endpoint.provider, endpoint.model, sampling) as generation:
            try:
                async with aclosing(self._answer(endpoint, wire.request(messages, sampling, endpoint.model))) as pieces:
                    async for piece in pieces:
                        given = True
                        generation.token()
                        if piece.finish is not None:
                            generation.end(piece.finish, piece.usage or Usage())
                        yield piece
            except GeneratorError as error:
                error.retryable = error.retryable and not given
                raise

    async def post(self, endpoint: Endpoint, path: str, body: bytes) -> bytes:
        """The whole answer to JSON posted below the endpoint's URL. Raises `GeneratorError`, retryable when the fault may pass."""
        deadline = asyncio.get_running_loop().time() + self._patience.total
        response = await self._post(endpoint, body, deadline, path, "application/json")
        try:
            async with asyncio.timeout_at(deadline):
                return await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise GeneratorError(f"{endpoint.url} broke off its answer: {type(error).__name__}", retryable=True) from error
        finally:
            response.release()

    async def status(self, endpoint: Endpoint, path: str, patience: float = 5.0) -> int:
        """The status of a GET below the endpoint's URL. Raises `GeneratorError` when nothing answers in time."""
        timeout = aiohttp.ClientTimeout(total=patience)
        try:
            async with self._open().get(endpoint.url + path, headers=endpoint.headers, timeout=timeout) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(endpoint, error) from error

    async def models(self, endpoint: Endpoint, patience: float = 5.0) -> list[str]:
        """The names of the models that the server lists: not every one does, but each refuses a wrong key. Raises `GeneratorError`."""
        url, timeout = f"{endpoint.url}/models", aiohttp.ClientTimeout(total=patience)
        try:
            async with self._open().get(url, headers=endpoint.headers, timeout=timeout, allow_redirects=False) as response:
                status, body = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(endpoint, error) from error
        if status in (401, 403):
            raise GeneratorError(f"{endpoint.url} refuses our key with {status}", endpoint.refused)
        if status >= 500:
            raise GeneratorError(f"{endpoint.url} is not well: it answers {status}", retryable=True)
        return wire.models(body) if status == 200 else []

    async def close(self) -> None:
        """Drop every connection, and the requests on them."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # no limit: the API in front bounds what runs at once; a queue here would only hide it
            connector = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._patience.connect)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self._session

    async def _answer(self, endpoint: Endpoint, body: bytes) -> AsyncGenerator[Piece, None]:
        deadline = asyncio.get_running_loop().time() + self._patience.total
        response = await self._post(endpoint, body, deadline)
        try:
            async with aclosing(self._pieces(endpoint, response, deadline)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            response.close()  # not release: an answer that was not read to its end must stop being generated

    async def _post(
        self, endpoint: Endpoint, body: bytes, deadline: float, path: str = COMPLETIONS, accept: str = STREAM
    ) -> aiohttp.ClientResponse:
        """A response of status 200, after as many tries as it takes and time allows."""
        for attempt in range(1, ATTEMPTS + 1):
            # spread, so that clients that were refused together do not come back together
            pause = self._patience.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1)
            try:
                response = await self._send(endpoint, body, deadline, path, accept)
            except GeneratorError as error:
                fault = error
            else:
                if response.status == 200:
                    return response
                fault, asked = await _refusal(endpoint, response)
                pause = pause if asked is None else asked
            left = deadline - asyncio.get_running_loop().time()
            if not fault.retryable or attempt == ATTEMPTS or pause >= left:
                raise fault
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _send(self, endpoint: Endpoint, body: bytes, deadline: float, path: str, accept: str) -> aiohttp.ClientResponse:
        headers = {"content-type": "application/json", "accept": accept, **endpoint.headers}
        try:
            async with asyncio.timeout_at(deadline):
                return await self._open().post(f"{endpoint.url}{path}", data=body, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(endpoint, error) from error

    async def _pieces(self, endpoint: Endpoint, response: aiohttp.ClientResponse, deadline: float) -> AsyncGenerator[Piece, None]:
        """Each piece with text, then the last one. What comes after `[DONE]` is not read."""
        if STREAM not in response.headers.get("content-type", ""):
            raise GeneratorError(f"{endpoint.url} answered with {response.headers.get('content-type')!r} instead of a stream of events")
        reader = wire.EventReader()
        finish: str | None = None
        usage = Usage()
        while not reader.done:
            data = await self._read(endpoint, response, deadline)
            if not data:
                break
            for piece in map(wire.piece, reader.feed(data)):
                finish = piece.finish or finish
                usage = piece.usage or usage
                if piece.text:
                    yield Piece(piece.text)
        if not reader.done or finish is None:
            raise GeneratorError(f"{endpoint.url} ended its answer before it was whole", retryable=True)
        yield Piece("", finish, usage)

    async def _read(self, endpoint: Endpoint, response: aiohttp.ClientResponse, deadline: float) -> bytes:
        """The next bytes, as many as are there; none at the end."""
        until = min(deadline, asyncio.get_running_loop().time() + self._patience.read)
        try:
            async with asyncio.timeout_at(until):
                return await response.content.readany()
        except TimeoutError as error:
            raise GeneratorError(f"{endpoint.url} fell silent in the middle of its answer", TOO_SLOW) from error
        except (aiohttp.ClientError, OSError) as error:
            raise GeneratorError(f"{endpoint.url} broke off its answer: {type(error).__name__}", retryable=True) from error


async def _refusal(endpoint: Endpoint, response: aiohttp.ClientResponse) -> tuple[GeneratorError, float | None]:
    """What a status other than 200 means, and the seconds that the server asks us to wait. The response is closed."""
    try:
        body = await response.content.read(4096)
    except (aiohttp.ClientError, OSError):
        body = b""
    response.close()
    message = wire.error_message(body)
    if endpoint.key:
        message = message.replace(endpoint.key, "***")  # some servers quote the key they refuse
    text = f"{endpoint.url} answered {response.status} for {endpoint.model!r}: {message}"
    hint = endpoint.refused if response.status in (401, 403) else ""
    return GeneratorError(text, hint, retryable=response.status in BUSY), _seconds(response.headers.get("retry-after", ""))


def _seconds(retry_after: str) -> float | None:
    """The header in seconds. Its other form, a date, is left to the back-off: clocks differ."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        return None


def _unreachable(endpoint: Endpoint, error: Exception) -> GeneratorError:
    """A time-out is not tried again by itself: the server may be working on the answer still."""
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ServerConnectionError):
        return GeneratorError(f"{endpoint.url} did not begin its answer in time", TOO_SLOW)
    return GeneratorError(f"{endpoint.url} can't be reached: {error or type(error).__name__}", retryable=True)
