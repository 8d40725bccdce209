"""What `index.url` says of a search engine: where the cluster is, and how indexes are made and asked there. It sends nothing."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

from ragstone import config
from ragstone.cluster import Cluster
from ragstone.connect import is_here, scheme
from ragstone.errors import ConfigError

PORT = 9200

CLIENT, LINEAR, RRF = FUSIONS = ("client", "linear", "rrf")
"""Who puts both lists in one order: Ragstone; the engine, by a weighted sum of scores; the engine, by ranks."""


@dataclass(frozen=True)
class Options:
    """What `index.url` says after the question mark, whichever the engine; each has more."""

    shards: int = 1
    replicas: str = "0-1"
    """Copies of each shard once it is loaded: a number, or the least and the most of as many as there are nodes for."""
    fusion: str = CLIENT
    ca: str = ""
    """A file of certificates that the engine's is signed by; empty takes the system's."""

    def lasting(self, *asking: str) -> dict[str, Any]:
        """What decides what an index is: neither how it is reached and copied nor how it is asked."""
        return {name: value for name, value in asdict(self).items() if name not in ("replicas", "fusion", "ca", *asking)}


T = TypeVar("T", bound=Options)


def reach(kind: str, settings: config.Index, ca: str) -> tuple[Cluster, str]:
    """The cluster that a URL names, and what its indexes' names begin with. Raises `ConfigError` on what it can't mean."""
    url = urlsplit(settings.url)
    if url.username or url.password:
        raise ConfigError("index.url holds credentials", "set RAGSTONE_INDEX_USER and RAGSTONE_INDEX_PASSWORD instead")
    if not url.hostname:
        raise ConfigError(f"index.url = {settings.url!r} names no host", f'index.url = "{scheme(settings.url)}://127.0.0.1:9200"')
    prefix = url.path.strip("/") or "ragstone"
    if not re.fullmatch("[a-z0-9][a-z0-9_-]{0,62}", prefix):
        raise ConfigError(f"index.url: {prefix!r} can't begin an index's name: lower-case letters, digits, - and _ can")
    return Cluster(kind, _address(url, url.hostname), settings.user, settings.password, ca), prefix


def read(kind: type[T], url: str) -> T:
    """What a URL says after its question mark, as `kind`. Raises `ConfigError` on what it has not."""
    given, known = dict(parse_qsl(urlsplit(url).query)), {field.name: field.type for field in fields(kind)}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ConfigError(f"index.url has no option {unknown[0]!r}; there are {', '.join(known)}")
    try:
        values: dict[str, Any] = {name: int(value) if known[name] == "int" else value for name, value in given.items()}
        made = kind(**values)
    except ValueError as error:
        raise ConfigError(f"index.url: {error}") from error
    _check_options(made)
    return made


def _check_options(made: Options) -> None:
    if made.shards < 1:
        raise ConfigError("index.url: shards is 1 at least")
    if not re.fullmatch(r"\d+|\d+-(\d+|all)", made.replicas):
        raise ConfigError(f"index.url: replicas={made.replicas} is neither a number nor a range like 0-1 or 0-all")
    if made.fusion not in FUSIONS:
        raise ConfigError(f"index.url: fusion={made.fusion} is none of {', '.join(FUSIONS)}")


def _address(url: SplitResult, host: str) -> str:
    try:
        port = url.port or PORT
    except ValueError as error:
        raise ConfigError(f"index.url: {error}") from error
    return f"{_transport(url.scheme, host)}://{f'[{host}]' if ':' in host else host}:{port}"


def _transport(scheme: str, host: str) -> str:
    """What comes after a plus, else TLS, except on this machine."""
    _, _, named = scheme.partition("+")
    if named:
        return named
    return "http" if is_here(host) else "https"
