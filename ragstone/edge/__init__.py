"""The edge: verifies keys, limits, caches finished answers, and asks the origin over HTTP for the rest. It has no access to the store.

`tests/conformance/test_edge.py` and `tests/vectors/` are the contract of every edge, in whatever language.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ragstone.config import Settings
from ragstone.connect import connector, scheme
from ragstone.errors import ConfigError


class Edge(Protocol):
    """What a connector module of this stage offers."""

    def run(self, settings: Settings, started: Callable[[str], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT, then finish what is under way. `started` is called with the bound URL.

        Raises `ConfigError` when the address can't be bound.
        """


def run(settings: Settings, started: Callable[[str], None] | None = None) -> None:
    """Run the edge that `edge.url` names."""
    edge: Edge = connector("edge", settings.edge.url)
    edge.run(settings, started)


def address(url: str, to: str | None = None) -> str:
    """The edge's URL with what a command line says over it.

    >>> address("cloudflare://api.example.com", "cloudflare"), address("local", "cloudflare")
    ('cloudflare://api.example.com', 'cloudflare')
    """
    return url if to is None or to == scheme(url) else to


def deploy(settings: Settings, *, dry_run: bool = False) -> None:
    """Put the edge that `edge.url` names where it runs; with `dry_run`, only check that it could be. Raises `ConfigError`."""
    module = connector("edge", settings.edge.url)
    if not hasattr(module, "deploy"):
        raise ConfigError(f"the edge {settings.edge.url!r} runs where it is started: there is nothing to deploy", "ragstone edge")
    module.deploy(settings, dry_run=dry_run)


def tail(settings: Settings) -> None:
    """Print the requests of the edge that `edge.url` names as they come, until interrupted. Raises `ConfigError`."""
    connector("edge", settings.edge.url).tail(settings)
