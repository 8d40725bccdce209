"""Empty stores on this machine, by their scheme: in folders, in buckets of a real S3 server, in buckets of the tests' own OSS."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

import tests.conftest  # noqa: F401  it must be imported before Alibaba's SDK
from tests import gateway


@dataclass(frozen=True)
class Made:
    """A store: its URL, and the folder in which whoever keeps it has an object's bytes under its key."""

    url: str
    folder: Path


Stores = Iterator[Made]
"""Another empty store each time."""


@contextmanager
def running(scheme: str, folder: Path) -> Iterator[Stores]:
    """Stores below a folder, as long as the block runs. Ends the program, with the reason, where there is no such server."""
    try:
        with SCHEMES[scheme](folder) as stores:
            yield stores
    except pytest.skip.Exception as error:
        sys.exit(str(error))


@contextmanager
def _folders(folder: Path) -> Iterator[Stores]:
    yield (Made(f"file://{folder}/store-{number}", folder / f"store-{number}") for number in count())


@contextmanager
def _s3(folder: Path) -> Iterator[Stores]:
    """By versitygw, through a proxy that passes conditional writes on one at a time."""
    with gateway.running(folder / "s3") as server:
        names = (f"bucket-{number}" for number in count())
        yield (Made(server.url(name), server.root / name / "a" / "store") for name in names)


@contextmanager
def _oss(folder: Path) -> Iterator[Stores]:
    from tests import cloud

    with pytest.MonkeyPatch.context() as environment, cloud.running(folder / "oss") as server:
        cloud.keys(environment)
        names = (f"bucket-{number}" for number in count())
        yield (Made(server.store(_bucket(server.root, name)), server.root / name / "a" / "store") for name in names)


def _bucket(root: Path, name: str) -> str:
    (root / name).mkdir()
    return name


SCHEMES = {"file": _folders, "s3": _s3, "oss": _oss}
