"""What many tests need: a project folder of its own, and documents that we wrote."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ragstone import config
from ragstone.config import Settings
from tests import gateway
from tests.gateway import Gateway
from tests.speaker import Speaker, speaking

if TYPE_CHECKING:
    from tests.cloud import Cloud

NOWHERE = "http://127.0.0.1:9"
"""A port where none listens."""

# Alibaba's SDK reads its environment when it is imported, and without keys there asks a metadata service on the network for some; AWS's
# chain reads it at each call, and ends at such a service too. No test may reach an account or that service: what the machine has set goes
# before anything is imported, and the rest of the chains is off. A process that a test spawns keeps the keys that the test set.
if os.environ.get("AWS_METADATA_ENDPOINT") != NOWHERE:
    for name in [name for name in os.environ if name.startswith(("ALIBABA_CLOUD_", "AWS_"))]:
        del os.environ[name]
    os.environ |= {
        "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
        "ALIBABA_CLOUD_CLI_PROFILE_DISABLED": "true",
        "ALIBABA_CLOUD_CREDENTIALS_FILE": os.devnull,
        "AWS_METADATA_ENDPOINT": NOWHERE,
    }

# A shell starts what it sends into the background with Ctrl-C ignored, and so would be all that the tests spawn and then interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MANUALS = {
    "pump.md": """# Feed pump

The feed pump moves condensate from the hotwell to the boiler drum.

## Priming

Prime the feed pump for ninety seconds before it is started. A pump that runs dry scores its sleeve within a minute.

## Seal

The mechanical seal of the feed pump is flushed with water at 6 bar. Replace the seal when more than ten drops a minute leak from it.
""",
    "valve.md": """# Isolation valve

The isolation valve cuts the steam line off from the header.

## Torque

Tighten the bonnet of the isolation valve with 85 newton metres, crosswise, in three passes.

## Packing

Graphite packing is replaced every four years.
""",
    "boiler.html": """<html><head><title>Boiler drum</title></head><body><h1>Boiler drum</h1>
<p>The boiler drum separates steam from water. Its level is kept between 40 and 60 percent.</p>
<h2>Blowdown</h2><p>Blow the drum down once a shift, for five seconds, so that dissolved solids stay below 2000 ppm.</p></body></html>
""",
    "crew/rota.txt": """Crew rota

The night crew of the boiler house is led by the shift engineer. Handover is at six in the morning and is written into the green log book.
""",
}


@pytest.fixture
def manuals(tmp_path: Path) -> Path:
    """A folder of four short manuals."""
    return write_manuals(tmp_path / "docs")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The defaults, in a project folder of this test."""
    return config.override(config.load(tmp_path, {}), "corpus")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A real S3 server on this machine."""
    with gateway.running(tmp_path_factory.mktemp("s3") / "buckets") as running:
        yield running


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Cloud]":
    """OSS on this machine, and keys for it."""
    from tests import cloud

    cloud.keys(monkeypatch)
    with cloud.running(tmp_path / "cloud") as running:
        yield running


def write_manuals(folder: Path) -> Path:
    for name, text in MANUALS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def speaker() -> Iterator[Speaker]:
    """A generator whose words a file's tests choose."""
    with speaking() as made:
        yield made
