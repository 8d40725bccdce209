"""`openai://host/v1?model=name`, or `openai+http://` without TLS: any server of OpenAI's chat completions, vLLM, Ollama or a hosted one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from urllib.parse import parse_qs, urlsplit

from ragstone.completions import Completions, Endpoint, Patience
from ragstone.config import Settings
from ragstone.errors import ConfigError, GeneratorError
from ragstone.serve import Say
from ragstone.wire import Message, Piece, Sampling

EXAMPLE = "set serve.url like openai://host/v1?model=name"


def connect(settings: Settings, say: Say | None = None) -> OpenAIGenerator:
    """The generator behind an `openai://` URL. Raises `ConfigError` when the URL does not say which server and model."""
    return OpenAIGenerator(endpoint(settings.serve.url, settings.serve.api_key), settings.serve.timeout)


def endpoint(url: str, key: str = "") -> Endpoint:
    """The server and model that the URL names.

    >>> endpoint("openai+http://127.0.0.1:8000/v1?model=qwen")
    Endpoint(url='http://127.0.0.1:8000/v1', model='qwen', provider='openai')
    """
    parts = urlsplit(url)
    schemes = {"openai": "https", "openai+https": "https", "openai+http": "http"}
    if parts.scheme not in schemes:
        raise ConfigError(f"serve.url has the scheme {parts.scheme!r}; there are {', '.join(schemes)}", EXAMPLE)
    if "@" in parts.netloc:  # not quoted: it may hold a password
        raise ConfigError("serve.url holds a user or a password; a key is given by itself", "set RAGSTONE_SERVE_API_KEY")
    query = parse_qs(parts.query)
    if not parts.hostname or len(query.get("model", [])) != 1 or set(query) != {"model"}:
        raise ConfigError(f"serve.url = {url!r} must name a host and one model, and nothing else", EXAMPLE)
    return Endpoint(f"{schemes[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}", query["model"][0], key, "openai")


class OpenAIGenerator:
    """A model that somebody else serves."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self.endpoint = endpoint
        self._completions = Completions(Patience(total=timeout))

    @property
    def version(self) -> str:
        """SHA-256 of URL and model: what the server does behind them can't be seen from here."""
        return hashlib.sha256(f"{self.endpoint.url}\n{self.endpoint.model}".encode()).hexdigest()

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        async with aclosing(self._completions.stream(self.endpoint, messages, sampling)) as pieces:
            async for piece in pieces:
                yield piece

    async def start(self) -> None:
        """Ask the server for its models: not every one lists them, but each refuses a wrong key. Raises `GeneratorError`."""
        await self._completions.models(self.endpoint)

    async def healthy(self) -> bool:
        try:
            await self.start()
        except GeneratorError:
            return False
        return True

    async def close(self) -> None:
        await self._completions.close()
