"""npm's packages for tests, installed once into the cache. Where they can't be had, a test is skipped and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragstone import npm
from ragstone.errors import ConfigError


def packages(manifest: Path, what: str) -> Path:
    """The folder of the packages that a `package.json` names. Skips the test, in which `what` is then not run."""
    try:
        folder = npm.packages(manifest)
        npm.node(folder)
    except ConfigError as error:
        pytest.skip(f"{what} was NOT run: {error.message}")
    return folder
