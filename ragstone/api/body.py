"""Request bodies as values. What can't be served is refused with OpenAI's error and the name of the field, never ignored silently."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.requests import Request

from ragstone import fields
from ragstone.errors import RequestError
from ragstone.fields import Fields
from ragstone.rag import Options
from ragstone.wire import Message, Sampling

TOP_K = 50
UNSERVED: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "prediction": (),
}
"""Fields of OpenAI's that would change the answer, each with the values that change nothing."""


@dataclass(frozen=True)
class Chat:
    """A `POST /v1/chat/completions`. None takes the default of the release that is asked."""

    model: str
    messages: tuple[Message, ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    temperature: float | None
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    search: Search

    def options(self, max_tokens: int, temperature: float) -> Options:
        """The options of the answer, over the defaults of the generator."""
        sampling = Sampling(
            max_tokens=max_tokens if self.max_tokens is None else self.max_tokens,
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=self.stop,
        )
        return Options(self.search.top_k, self.search.similarity_threshold, self.search.filter, sampling)


@dataclass(frozen=True)
class Search:
    """What narrows retrieval: `top_k`, `similarity_threshold`, `filter`. None takes the release's."""

    top_k: int | None = None
    similarity_threshold: float | None = None
    filter: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Retrieve:
    """A `POST /v1/retrieve`."""

    model: str | None
    query: str
    search: Search


async def read(request: Request, limit: int) -> Fields:
    """The body's fields. Raises `RequestError`: 413 over `limit` bytes, 400 when it is not a JSON object."""
    declared = request.headers.get("content-length", "0")
    body = bytearray()
    if not declared.isdigit() or int(declared) <= limit:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                break
    if len(body) > limit or (declared.isdigit() and int(declared) > limit):
        raise RequestError(f"the body is over {limit} bytes", status=413, code="request_too_large")
    return fields.read(bytes(body))


def chat(fields: Fields) -> Chat:
    """The chat request in a body. Raises `RequestError` naming the field that can't be served."""
    for key, harmless in UNSERVED.items():
        value = fields.values.get(key)
        if value is not None and not any(type(value) is type(same) and value == same for same in (*harmless, *map(_as_float, harmless))):
            raise RequestError(f"{key} is not supported", key, code="unsupported_parameter")
    limits = [fields.whole(key, 1, 1 << 20) for key in ("max_completion_tokens", "max_tokens")]
    top_p = fields.number("top_p", 0, 1)
    return Chat(
        model=fields.text("model"),
        messages=_messages(fields),
        stream=fields.flag("stream"),
        include_usage=fields.object("stream_options").flag("include_usage"),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        temperature=fields.number("temperature", 0, 2),
        top_p=1.0 if top_p is None else top_p,
        seed=fields.whole("seed", -(1 << 63), (1 << 63) - 1),
        stop=_stop(fields),
        search=_search(fields.object("ragstone")),
    )


def retrieve(fields: Fields) -> Retrieve:
    """The retrieval request in a body: the search's fields stand beside `query`."""
    fields.only("query", "model", "user", "top_k", "similarity_threshold", "filter")
    model = fields.text("model") if "model" in fields.values else None
    search = {key: value for key, value in fields.values.items() if key in ("top_k", "similarity_threshold", "filter")}
    return Retrieve(model, fields.text("query"), _search(Fields(search)))


def _as_float(value: object) -> object:
    return float(value) if type(value) is int else value


def _search(fields: Fields) -> Search:
    fields.only("top_k", "similarity_threshold", "filter")
    narrowed = fields.object("filter").values
    if not all(isinstance(value, str) for value in narrowed.values()):
        raise fields.wrong("filter", "an object of texts")
    return Search(fields.whole("top_k", 1, TOP_K), fields.number("similarity_threshold", 0, 1), dict(narrowed))


def _messages(fields: Fields) -> tuple[Message, ...]:
    given = fields.values.get("messages")
    if not isinstance(given, list) or not given:
        raise RequestError("messages must be a list of at least one message", "messages")
    return tuple(_message(value, f"messages[{number}]") for number, value in enumerate(given))


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise RequestError(f"{where} must be an object with role and content", where)
    role = value.get("role")
    if role in ("system", "developer"):
        return Message("system", _content(value.get("content"), f"{where}.content"))
    if role == "user":
        return Message("user", _content(value.get("content"), f"{where}.content"))
    if role == "assistant":
        if value.get("tool_calls") or value.get("function_call"):
            raise RequestError(f"{where}: tool calls are not supported", f"{where}.tool_calls", code="unsupported_parameter")
        return Message("assistant", _content(value.get("content") or "", f"{where}.content"))
    raise RequestError(f"{where}.role must be system, developer, user or assistant", f"{where}.role")


def _content(value: object, where: str) -> str:
    """The text of a message: plain, or in parts."""
    if isinstance(value, str):
        return _clean(value)
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise RequestError(f"{where} must be text, or a list of text parts", where)
    texts = []
    for number, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            message = f"{where}[{number}] is {str(kind)[:40]!r}; only text is supported"
            raise RequestError(message, f"{where}[{number}]", code="unsupported_content")
        texts.append(part["text"])
    return _clean("\n".join(texts))


def _clean(text: str) -> str:
    """Without control characters, which no question means and a tokenizer may choke on."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", " ", text)


def _stop(fields: Fields) -> tuple[str, ...]:
    given = fields.values.get("stop")
    stops = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(stop, str) and stop for stop in stops):
        raise fields.wrong("stop", "a text or a list of at most 4 texts")
    return tuple(stops)
