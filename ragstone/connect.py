"""From a URL to the connector that serves it: `connect("store", "file:///srv/x")` is `ragstone.store.file`.

The scheme is the module's name, the pip extra, the docs page and the test id. Another package adds a connector with an
entry point in the group `ragstone.<stage>`, named by the scheme.
"""

from __future__ import annotations

import re
from importlib import import_module, metadata
from ipaddress import ip_address
from types import ModuleType

from ragstone.errors import ConfigError

STAGES = ("store", "train", "index", "serve", "rag", "edge")


def scheme(url: str) -> str:
    """The part before `://`, without a transport after a plus; a word without an address is its own scheme.

    >>> scheme("s3://bucket/prefix"), scheme("openai+http://host/v1"), scheme("local"), scheme("ray?workers=2")
    ('s3', 'openai', 'local', 'ray')
    """
    return re.split(r"://|[+?]", url, maxsplit=1)[0]


def is_here(host: str | None) -> bool:
    """Whether a host is this machine, where http is no risk.

    >>> is_here("127.0.0.1"), is_here("::1"), is_here("localhost"), is_here("example.com"), is_here(None)
    (True, True, True, False, False)
    """
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def connector(stage: str, url: str) -> ModuleType:
    """The module that serves `url` in `stage`. Raises `ConfigError`, naming what is there, when none does."""
    name = scheme(url)
    for entry in metadata.entry_points(group=f"ragstone.{stage}", name=name):
        module: ModuleType = entry.load()
        return module
    path = f"ragstone.{stage}.{name}"
    if name not in built_in(stage):
        raise ConfigError(
            f"no {stage} connector for {name!r}: there is {', '.join(built_in(stage))}",
            f"pip install 'ragstone[{name}]' or set {stage}.url in ragstone.toml",
        )
    try:
        return import_module(path)
    except ImportError as error:
        missing = f"{stage} {name!r} needs a package that is not installed: {error.name}"
        raise ConfigError(missing, f"pip install 'ragstone[{name}]'") from error


def built_in(stage: str) -> list[str]:
    """The schemes that Ragstone itself ships for `stage`, sorted."""
    from pkgutil import iter_modules

    package = import_module(f"ragstone.{stage}")
    return sorted(module.name for module in iter_modules(package.__path__) if not module.name.startswith("_"))
