"""`rerank+https://host/v1/rerank?model=name`: an endpoint of the form that Cohere, Jina, vLLM and Infinity share.

`{"model", "query", "documents"}` is posted, `{"results": [{"index", "relevance_score"}]}` comes back, best first. Question and passages
leave this machine.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from ragstone.completions import Completions, Endpoint, Patience
from ragstone.config import Train
from ragstone.connect import is_here
from ragstone.errors import ConfigError, GeneratorError, TrainError
from ragstone.teacher import Listed, Say

EXAMPLE = "set train.teacher like rerank+https://host/v1/rerank?model=name"
KEY = "set RAGSTONE_TRAIN_TEACHER_KEY"
AT_ONCE = 4
"""Requests under way at a time: few enough for the limits of a small account."""
PATIENCE = 300.0
"""Seconds until a list must be scored, with all that the server asks us to wait."""


def connect(settings: Train, say: Say) -> RerankEndpoint:
    """The teacher behind the URL. Raises `ConfigError` when that does not say which server and model."""
    return RerankEndpoint(endpoint(settings.teacher, settings.teacher_key))


def endpoint(url: str, key: str = "") -> Endpoint:
    """The server and model that the URL names.

    >>> endpoint("rerank+https://api.example.com/v2/rerank?model=rerank-v3.5")
    Endpoint(url='https://api.example.com/v2/rerank', model='rerank-v3.5', provider='rerank')
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"train.teacher is no URL: {error}", EXAMPLE) from error
    transport = parts.scheme.partition("+")[2] or "https"
    if "@" in parts.netloc:  # not quoted: it may hold a password
        raise ConfigError("train.teacher holds a user or a password; a key is given by itself", KEY)
    query = parse_qs(parts.query)
    if transport not in ("http", "https") or not parts.hostname or set(query) != {"model"} or len(query["model"]) != 1:
        raise ConfigError("train.teacher must name a host and one model, and nothing else", EXAMPLE)  # not quoted: it may hold a key
    if transport == "http" and not is_here(parts.hostname):
        raise ConfigError(f"train.teacher would send passages unencrypted to {parts.netloc}; http is for this machine only", EXAMPLE)
    return Endpoint(f"{transport}://{parts.netloc}{parts.path.rstrip('/') or '/v1/rerank'}", query["model"][0], key, "rerank")


class RerankEndpoint:
    """A model that somebody else serves."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def identity(self) -> str:
        """URL and model: what the server does behind them can't be seen from here."""
        return f"{self.endpoint.url} {self.endpoint.model}"

    def scores(self, lists: Sequence[Listed]) -> Iterator[list[float]]:
        """As the server gives them, a request for each list. Raises `TrainError` when it fails for good."""
        client = Completions(Patience(total=PATIENCE))
        with asyncio.Runner() as runner:
            try:
                for start in range(0, len(lists), AT_ONCE):
                    yield from runner.run(self._some(client, lists[start : start + AT_ONCE]))
            except GeneratorError as error:
                hint = KEY if "RAGSTONE" in error.hint else "what is scored is kept: type the same command when it answers again"
                raise TrainError(f"the teacher {error.message}", hint) from error
            finally:
                runner.run(client.close())

    async def _some(self, client: Completions, lists: Sequence[Listed]) -> list[list[float]]:
        return await asyncio.gather(*(self._one(client, one) for one in lists))

    async def _one(self, client: Completions, asked: Listed) -> list[float]:
        body = orjson.dumps({"model": self.endpoint.model, "query": asked.question, "documents": asked.passages})
        answer = await client.post(self.endpoint, "", body)
        if self.endpoint.key:
            answer = answer.replace(self.endpoint.key.encode(), b"***")  # an error quotes it
        return read(answer, len(asked.passages), self.endpoint.url)


def read(body: bytes, count: int, url: str) -> list[float]:
    """The scores of `count` documents, in the order in which they were sent. Raises `TrainError` when the answer lacks one.

    >>> read(b'{"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.2}]}', 2, "https://host/rerank")
    [0.2, 0.9]
    """
    try:
        results: list[Any] = orjson.loads(body)["results"]
        found = {int(one["index"]): float(one["relevance_score"]) for one in results}
        scores = [found[at] for at in range(count)]
    except (ValueError, LookupError, TypeError) as error:
        raise TrainError(f"the teacher {url} gave no index and relevance_score for each of {count} documents: {_start(body)}") from error
    if not all(map(math.isfinite, scores)):
        raise TrainError(f"the teacher {url} gave a score that is no number: {_start(body)}")
    return scores


def _start(body: bytes) -> str:
    return body[:200].decode(errors="replace")
