"""OpenAI's wire format, in one place: requests, completions, stream chunks, server-sent events, error JSON. It does no I/O.

Source: https://platform.openai.com/docs/api-reference/chat and https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from ragstone.errors import GeneratorError, OriginError, RagstoneError, RateLimited, RequestError

DONE = b"data: [DONE]\n\n"
"""The event that ends a whole stream."""
CACHE = "x-ragstone-cache"
"""The header that says where an answer of an edge came from: `hit`, `revalidated`, `miss` or `bypass`."""
RELEASE = "x-ragstone-release"
"""The header that names the release that made an answer, or confirmed it."""
REUSED = "x-ragstone-reused"
"""The header that says which question a reused answer was made for, percent-encoded and cut at 200 characters."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens; every field is part of an answer's identity."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What an answer took, in tokens of the generator."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Piece:
    """Some text, or the end: the last piece, and only it, carries `finish` (`stop` or `length`) and the usage."""

    text: str = ""
    finish: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class Head:
    """What a completion and every chunk of its stream share. `created` is in Unix seconds."""

    id: str
    created: int
    model: str


# ---- errors


def error_body(error: RagstoneError) -> bytes:
    """The error as OpenAI's JSON; its HTTP status is `error.status`.

    >>> error_body(RequestError("top_k is 0; at least 1 is needed", "top_k"))
    b'{"error":{"message":"top_k is 0; at least 1 is needed","type":"invalid_request_error","param":"top_k","code":"invalid_request"}}'
    """
    param = error.param if isinstance(error, RequestError) else None
    return orjson.dumps({"error": {"message": error.message, "type": error.type, "param": param, "code": error.code}})


def error_headers(error: RagstoneError) -> dict[str, str]:
    """The headers that go with `error_body`: the content type, and `retry-after` in whole seconds, rounded up, when there is one to give.

    >>> error_headers(RateLimited("6 requests a minute are over", 1.2))
    {'content-type': 'application/json', 'retry-after': '2'}
    """
    headers = {"content-type": "application/json"}
    if isinstance(error, RateLimited | OriginError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return headers


def error_message(body: bytes) -> str:
    """The message in an error body of an OpenAI-compatible server; of any other body, the start of its text."""
    try:
        fault = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:200].decode(errors="replace").strip() or "no message"
    if isinstance(fault, dict):
        fault = fault.get("error", fault)
    if isinstance(fault, dict):
        fault = fault.get("message", fault)
    return (fault if isinstance(fault, str) else orjson.dumps(fault).decode())[:500]


def models(body: bytes) -> list[str]:
    """The ids in the body of `GET /v1/models`; none when it is something else.

    >>> models(b'{"object": "list", "data": [{"id": "qwen", "object": "model"}]}'), models(b"<html>")
    (['qwen'], [])
    """
    try:
        return [str(one["id"]) for one in orjson.loads(body)["data"]]
    except (ValueError, LookupError, TypeError):
        return []


# ---- bodies


def request(messages: Sequence[Message], sampling: Sampling, model: str) -> bytes:
    """The body of a streaming `POST /v1/chat/completions` that asks for the usage too."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return orjson.dumps(body)


def completion(head: Head, text: str, finish: str, usage: Usage, ragstone: Mapping[str, Any] | None = None) -> bytes:
    """A whole `chat.completion` with one choice; `ragstone` is our extra top-level field (release, basis, citations)."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None, "finish_reason": finish}
    body = {**_top(head, "chat.completion"), "choices": [choice], "usage": usage_json(usage)}
    return orjson.dumps(body if ragstone is None else {**body, "ragstone": ragstone})


def chunk(
    head: Head, text: str | None = None, *, role: str | None = None, finish: str | None = None, ragstone: Mapping[str, Any] | None = None
) -> bytes:
    """A `chat.completion.chunk`: the first carries the role, those between the text, the last the finish reason and our extra field."""
    delta = {name: value for name, value in (("role", role), ("content", text)) if value is not None}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {**_top(head, "chat.completion.chunk"), "choices": [choice]}
    return orjson.dumps(body if ragstone is None else {**body, "ragstone": ragstone})


def last_chunk(head: Head, usage: Usage) -> bytes:
    """The chunk without choices that ends a stream, before `DONE`, for a caller who asked for the usage."""
    return orjson.dumps({**_top(head, "chat.completion.chunk"), "choices": [], "usage": usage_json(usage)})


def usage_json(usage: Usage) -> dict[str, int]:
    """The usage as OpenAI counts it.

    >>> usage_json(Usage(3, 4))
    {'prompt_tokens': 3, 'completion_tokens': 4, 'total_tokens': 7}
    """
    total = usage.prompt_tokens + usage.completion_tokens
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens, "total_tokens": total}


def piece(data: bytes) -> Piece:
    """What one event of a generator's stream says. Raises `GeneratorError` for an error event and for anything that is not a chunk."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise GeneratorError(f"the generator sent an event that is not JSON: {data[:80]!r}") from error
    if not isinstance(body, dict):
        raise GeneratorError(f"the generator sent an event that is not an object: {data[:80]!r}")
    if body.get("error"):
        raise GeneratorError(f"the generator stopped: {error_message(data)}")
    try:
        choice = body["choices"][0] if body["choices"] else {}
        text = str((choice.get("delta") or {}).get("content") or "")
        counts = body.get("usage")
        usage = Usage(int(counts["prompt_tokens"]), int(counts.get("completion_tokens", 0))) if counts else None
        return Piece(text, choice.get("finish_reason"), usage)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise GeneratorError(f"the generator sent an event that is not a chat.completion.chunk: {data[:80]!r}") from error


def _top(head: Head, kind: str) -> dict[str, Any]:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model}


# ---- server-sent events


def sse(data: bytes) -> bytes:
    r"""The data as one event. JSON from `orjson` is a single line, as the format asks; other text is split at its lines.

    >>> sse(b'{"a":1}'), sse(b"two\nlines")
    (b'data: {"a":1}\n\n', b'data: two\ndata: lines\n\n')
    """
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    return b"data: " + data + b"\n\n"


class EventReader:
    r"""Reads events from bytes as they come, cut anywhere. Comments and fields other than `data` are left out.

    >>> reader = EventReader()
    >>> reader.feed(b": hello\n\nda"), reader.feed(b"ta: 1\r\n\r\ndata: [DO"), reader.feed(b"NE]\n\n"), reader.done
    ([], [b'1'], [], True)
    """

    done: bool
    """`[DONE]` was read: the stream is whole. What comes after it is not read."""

    def __init__(self, limit: int = 1 << 20) -> None:
        """`limit` bounds one event's size in bytes, and so the memory that a broken server can take."""
        self.done = False
        self._limit = limit
        self._rest = bytearray()
        self._after_cr = False
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that these bytes complete. Raises `GeneratorError` when one is over the limit."""
        if not data or self.done:
            return []
        if self._plain(data):
            return self._events([data[:-2]])
        seen = max(0, len(self._rest) - 1)
        self._rest += self._lines(data)
        if self._rest.find(b"\n\n", seen) < 0:
            self._check()
            return []
        *blocks, rest = bytes(self._rest).split(b"\n\n")
        self._rest = bytearray(rest)
        self._check()
        return self._events(blocks)

    def _plain(self, data: bytes) -> bool:
        """Whether it is one event of one line: most servers send each by itself."""
        end = len(data) - 2
        alone = self._started and not self._rest and data.find(b"\n") == end and data.endswith(b"\n\n")
        return alone and end <= self._limit and not self._after_cr and b"\r" not in data

    def _lines(self, data: bytes) -> bytes:
        r"""The bytes with `\r\n` and `\r` as `\n`, also where a cut falls between the two."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if not data:
            return data
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data

    def _events(self, blocks: list[bytes]) -> list[bytes]:
        events = []
        for block in blocks:
            data = self._data(block)
            if data == b"[DONE]":
                self.done = True
                break
            if data is not None:
                events.append(data)
        return events

    def _data(self, block: bytes) -> bytes | None:
        """The block's data lines joined, or None when it has none: a comment, say."""
        if not self._started:
            block = block.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        if block.startswith(b"data: ") and b"\n" not in block:
            return block[6:]
        fields = (line.partition(b":") for line in block.split(b"\n"))
        lines = [value.removeprefix(b" ") for name, _, value in fields if name == b"data"]
        return b"\n".join(lines) if lines else None

    def _check(self) -> None:
        if len(self._rest) > self._limit:
            raise GeneratorError(f"the stream holds an event over {self._limit} bytes")
