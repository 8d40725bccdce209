"""Generators: messages in, text out piece by piece. A generator knows nothing of retrieval."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from ragstone.config import Settings, override
from ragstone.connect import connector
from ragstone.errors import Conflict
from ragstone.store import Store
from ragstone.wire import Message, Piece, Sampling, Usage

__all__ = ["Deployment", "Generator", "Message", "Piece", "Sampling", "Say", "Usage", "connect", "deployed", "register"]


class Generator(Protocol):
    """A deployed generator. `tests/conformance/test_serve.py` is the contract."""

    @property
    def version(self) -> str:
        """What generates, by digest: the same weights, engine settings and template give the same version."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """The answer, piece by piece. Raises `GeneratorError` (retryable only before the first piece).

        Closing it stops the generation: `async with contextlib.aclosing(generator.stream(...)) as pieces`.
        """

    async def start(self) -> None:
        """Be ready to answer: returns when the first token could be served. Raises `GeneratorError`."""

    async def healthy(self) -> bool:
        """Whether it can answer now."""

    async def close(self) -> None:
        """Stop what this process started."""


Say = Callable[[str], None]
"""Told in words what takes long: a download."""


def connect(settings: Settings, say: Say | None = None) -> Generator:
    """The generator behind `serve.url`, not yet started."""
    generator: Generator = connector("serve", settings.serve.url).connect(settings, say)
    return generator


OURS = ("sleep", "slots", "context", "threads", "max_tokens", "temperature")
"""Fields of a service.json that are settings of `serve` by the same name."""


GENERATOR, EMBEDDING = KINDS = ("generator", "embedding")
"""What a service answers: questions, or `/v1/embeddings` with the model of the release in force."""


@dataclass(frozen=True)
class Deployment:
    """A version of a service, and the settings of `serve` that it runs with. `unused` are fields of the file that mean nothing here."""

    name: str
    version: str
    serve: Mapping[str, object]
    origins: Mapping[str, str]
    """Setting -> the field of the file that gave it."""
    unused: tuple[str, ...] = ()
    kind: str = GENERATOR
    told: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The file as it was written, for places that know more of its fields than this machine."""

    @property
    def id(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def foreign(self) -> dict[str, Any]:
        """What the file says beyond our own fields."""
        return {name: value for name, value in self.told.items() if name not in ("AutoScaling", "model", "replicas", *OURS)}

    @property
    def least(self) -> int:
        """Replicas at least, and …"""
        return int(str(self.serve.get("replicas", 1)))

    @property
    def most(self) -> int:
        """… at most."""
        return max(self.least, int(str(self.serve.get("replicas_most", 1))))


DEPLOYMENT = ("url", "max_tokens", "temperature", "slots", "context")
"""The settings that make a service version; the key and the time-out belong to the machine that runs it."""


def register(store: Store, settings: Settings, say: Say | None = None) -> str:
    """`name/version` of the generator behind `serve.url`, with its deployment in the store as it was asked for."""
    service = f"{_name(settings.serve.url)}/{connect(settings, say).version[:12]}"
    deployment = {name: getattr(settings.serve, name) for name in DEPLOYMENT}
    with contextlib.suppress(Conflict):  # the same version was registered before
        store.create(f"services/{service}.json", json.dumps(deployment, indent=1).encode())
    return service


def deployed(store: Store, service: str, settings: Settings) -> Settings:
    """The settings that service version `name/version` was registered with, over those of this machine. Raises `NotFound`."""
    told = json.loads(store.get(f"services/{service}.json"))
    told.pop("kind", None)
    return override(settings, "serve", **told)


def kind(store: Store, service: str) -> str:
    """What service version `name/version` answers: one of `KINDS`. Raises `NotFound`."""
    return str(json.loads(store.get(f"services/{service}.json")).get("kind", GENERATOR))


def _name(url: str) -> str:
    """What a service is called: the model that the URL asks for, else its last part.

    >>> _name("local://smollm2"), _name("openai://host/v1?model=Qwen/Qwen3-8B")
    ('smollm2', 'qwen-qwen3-8b')
    """
    parts = urlsplit(url)
    model = parse_qs(parts.query).get("model", [PurePosixPath(parts.path).stem or parts.netloc])[0]
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-") or "service"
