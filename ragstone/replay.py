"""One answer, two forms: the chunks of a stream folded into a completion, and a completion replayed as a stream.

`tests/vectors/transcripts.json` is the contract of both edges. Fields it does not know are kept: what the origin adds tomorrow
survives the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from ragstone.wire import DONE, sse

PIECE = 64
"""Characters of content in one replayed chunk."""
NAMES = frozenset({"role", "id", "type", "name"})
"""Text that names something: a repetition replaces it, where other text is continued."""

JSON = dict[str, Any]


class Fold:
    """A completion as it is put together from the chunks of its stream."""

    def __init__(self) -> None:
        self._top: JSON = {}
        self._choices: dict[int, JSON] = {}

    @property
    def complete(self) -> bool:
        """Whether there is a choice, and every choice has said why it ended."""
        return bool(self._choices) and all(choice["finish_reason"] for choice in self._choices.values())

    @property
    def tokens(self) -> int | None:
        """All tokens used, once the stream has said so."""
        return used(self._top)

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take in the next chunk. Raises `ValueError` or `TypeError` when it is none."""
        for choice in chunk.get("choices") or ():
            self._add(choice)
        top = self._top
        for name, value in chunk.items():
            if value is not None and name != "choices":
                top[name] = value

    def completion(self) -> JSON:
        """The completion so far, choices by their index."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        last: JSON = {name: self._top[name] for name in ("usage", "ragstone") if name in self._top}
        head = {name: value for name, value in self._top.items() if name not in last}
        return {**head, "object": "chat.completion", "choices": choices, **last}

    def _add(self, choice: Mapping[str, Any]) -> None:
        index = choice.get("index", 0)
        if not isinstance(index, int):
            raise TypeError("a choice's index is a number")
        kept = self._choices.get(index)
        if kept is None:
            message = {"role": "assistant", "content": None, "refusal": None}
            kept = self._choices[index] = {"index": index, "message": message, "logprobs": None, "finish_reason": None}
        if delta := choice.get("delta"):
            _merge(kept["message"], delta)
        for name, value in choice.items():
            if value is None or name == "index" or name == "delta":
                continue
            if name != "logprobs":
                kept[name] = value
            elif value:
                kept["logprobs"] = kept["logprobs"] or {}
                _merge(kept["logprobs"], value)


def used(completion: Mapping[str, Any]) -> int | None:
    """The `usage.total_tokens` of an answer, or None when it does not say."""
    usage = completion.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    return total if type(total) is int and total >= 0 else None


def without_usage(data: bytes, chunk: Mapping[str, Any]) -> bytes | None:
    """The event for a caller who did not ask for the usage: None when nothing else is in it."""
    if "usage" not in chunk:
        return data
    rest = {name: value for name, value in chunk.items() if name != "usage"}
    return orjson.dumps(rest) if rest.get("choices") or "ragstone" in rest else None


def stream(completion: Mapping[str, Any], include_usage: bool) -> bytes:
    """All events of the completion's stream: for each choice the role, the content in pieces and the finish; the usage only when asked.

    The last finish carries `ragstone`: clients commonly read `choices[0]` of every chunk, so one without choices comes to those only
    who asked for the usage, as with OpenAI.
    """
    head = {name: value for name, value in completion.items() if name not in ("choices", "usage", "ragstone", "object")}
    head["object"] = "chat.completion.chunk"
    chunks = [{**head, "choices": [choice]} for choice in _choices(completion)]
    if completion.get("ragstone") is not None:
        chunks[-1]["ragstone"] = completion["ragstone"]
    if include_usage and completion.get("usage") is not None:
        chunks.append({**head, "choices": [], "usage": completion["usage"]})
    return b"".join(sse(orjson.dumps(chunk)) for chunk in chunks) + DONE


def renewed(body: bytes, release: str) -> bytes:
    """The answer as `release` gives it, after the origin confirmed that it would be the same: the release named inside is the new one."""
    completion = orjson.loads(body)
    ragstone = completion.get("ragstone")
    if not isinstance(ragstone, dict) or ragstone.get("release") in (None, release):
        return body
    return orjson.dumps({**completion, "ragstone": {**ragstone, "release": release}})


def _choices(completion: Mapping[str, Any]) -> Iterator[JSON]:
    for choice in completion["choices"]:
        extra = {name: value for name, value in choice.items() if name != "message"}
        middle = {"index": choice["index"], "logprobs": None, "finish_reason": None}
        yield from ({**middle, "delta": delta} for delta in _deltas(choice["message"]))
        yield {**extra, "delta": {}}


def _deltas(message: Mapping[str, Any]) -> Iterator[JSON]:
    """The role, the texts in pieces, then what else the message holds, whole."""
    text = message.get("content")
    yield {"role": message.get("role", "assistant"), **({} if text is None else {"content": ""})}
    for name in ("content", "refusal"):
        value = message.get(name) or ""
        yield from ({name: value[start : start + PIECE]} for start in range(0, len(value), PIECE))
    rest = {name: value for name, value in message.items() if name not in ("role", "content", "refusal") and value is not None}
    if "tool_calls" in rest:
        rest["tool_calls"] = [{"index": number, **call} for number, call in enumerate(rest["tool_calls"])]
    if rest:
        yield rest


def _merge(into: JSON, delta: Mapping[str, Any]) -> None:
    """Continue text, merge objects, extend lists; items that carry an `index` are merged with the item of that number."""
    for name, value in delta.items():
        kept = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif isinstance(value, str):
            into[name] = kept + value if isinstance(kept, str) and name not in NAMES else value
        elif isinstance(value, dict):
            into[name] = dict(kept) if isinstance(kept, dict) else {}
            _merge(into[name], value)
        elif isinstance(value, list):
            into[name] = _extended(kept if isinstance(kept, list) else [], value)
        else:
            into[name] = value


def _extended(kept: list[Any], items: list[Any]) -> list[Any]:
    result = list(kept)
    for item in items:
        if not isinstance(item, dict) or "index" not in item:
            result.append(item)
            continue
        number = item["index"]
        if type(number) is not int or not 0 <= number <= len(result):
            raise ValueError(f"item {number} of a list of {len(result)} can't be continued")
        if number == len(result):
            result.append({})
        _merge(result[number], {name: value for name, value in item.items() if name != "index"})
    return result
