"""A real Elasticsearch node on loopback, from Maven Central: `python -m tests.elastic_node` runs the tests that need one.

What is there is the server with its REST layer, under a basic licence, without Painless, ingest processors, `_inference` and what else is a
module of its own; it does not even answer `GET /`. Else it is as `tests/engines.py` says of OpenSearch's.

    python -m tests.elastic_node          start it, run the tests, stop it
    python -m tests.elastic_node up       start it and print its URL
    python -m tests.elastic_node down     stop it
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import engines

VERSION = "9.5.3"

JAVA = 21
"""The oldest Java that it runs on."""

NODE = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip"

URL = "RAGSTONE_TEST_ELASTICSEARCH"
"""Names the node for the tests that need one."""

TESTS = (
    "tests/conformance/test_index.py",
    "tests/conformance/test_hosted.py",
    "tests/test_elasticsearch.py",
    "tests/test_endpoint.py",
    "-k",
    "elasticsearch",
)


def up() -> str:
    """The URL of a node that answers: the one that runs, or a new one. Raises `Missing`."""
    home = _home()
    if not engines.runs(home):
        _start(home, engines.java("Elasticsearch", VERSION, JAVA, "ES_JAVA_HOME"), engines.free_port())
    return engines.answering(home)


def down() -> None:
    """Stop the node, and wait until it is gone; nothing when none runs."""
    engines.stop(_folder())


def url(name: str) -> str:
    """`index.url` for indexes of this name in the node that tests were given; skips the test when they were given none."""
    node = os.environ.get(URL)
    if not node:
        pytest.skip(f"no Elasticsearch node: {URL} is not set; make engines starts one")
    return f"elasticsearch://{urlsplit(node).netloc}/{name}"


def _folder() -> Path:
    return engines.cache() / f"elasticsearch-{VERSION}"


def _home() -> Path:
    """The unpacked node, downloaded first when it is not there."""
    home = _folder()
    if (home / "ready").exists():
        return home
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    engines.unpack(engines.download(NODE, home.parent), home.parent)
    for program in (home / "bin").iterdir():
        program.chmod(0o755)  # Python's zipfile drops the bit
    (home / "ready").touch()
    return home


def _start(home: Path, java: Path, port: int) -> None:
    """Start an empty node. It writes its pid itself; it is none of this process's group, so that it outlives it."""
    shutil.rmtree(home / "data", ignore_errors=True)
    (home / "url").write_text(f"http://127.0.0.1:{port}")
    settings = {
        "path.data": home / "data",
        "network.host": "127.0.0.1",
        "http.port": port,
        "transport.port": engines.free_port(),
        "discovery.type": "single-node",
        "cluster.routing.allocation.disk.threshold_enabled": "false",
        "xpack.security.enabled": "false",
    }
    command = [str(home / "bin" / "elasticsearch"), "-p", str(home / "pid"), *(f"-E{name}={value}" for name, value in settings.items())]
    environment = {"PATH": os.environ["PATH"], "ES_JAVA_HOME": str(java), "ES_JAVA_OPTS": f"-Xms{engines.HEAP} -Xmx{engines.HEAP}"}
    user = "nobody" if engines.is_root() else None
    if user:
        engines.give(home, user)
    with (home / "node.log").open("wb") as log:
        subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=home, user=user, extra_groups=[] if user else None, start_new_session=True
        )


if __name__ == "__main__":
    sys.exit(engines.command("Elasticsearch", up, down, URL, TESTS))
