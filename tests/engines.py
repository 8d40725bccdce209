"""A real OpenSearch node on loopback, from Maven Central, without a container: `python -m tests.engines` runs the tests that need one.

The node is one process of a user who is not root, with 512 MiB of heap and the plugins for vectors and for models that others serve; it
is stopped by its pid. What was downloaded is kept between runs (RAGSTONE_ENGINES). Without Maven or Java there is no node, and the reason
is told.

    python -m tests.engines          start it, run the tests, stop it
    python -m tests.engines up       start it and print its URL
    python -m tests.engines down     stop it
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3

from ragstone import config

VERSION = "3.6.0"
"""The newest of which Maven Central has the node and the plugins."""

JAVA = 21
"""The oldest Java that it runs on."""

MAVEN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
NODE = f"org.opensearch.distribution.integ-test-zip:opensearch:{VERSION}:zip"
PLUGINS = {
    "opensearch-job-scheduler": "opensearch-job-scheduler",
    "opensearch-knn": "opensearch-knn",
    "opensearch-ml": "opensearch-ml-plugin",
    "opensearch-neural-search": "neural-search",
}
"""What each calls itself, and what Maven Central calls it; each needs some of those before it."""

MODELS = {
    "plugins.ml_commons.only_run_on_ml_node": "false",
    "plugins.ml_commons.native_memory_threshold": "100",
    "plugins.ml_commons.jvm_heap_memory_threshold": "100",
    "plugins.ml_commons.disk_free_space_threshold": "-1",
    "plugins.ml_commons.connector.private_ip_enabled": "true",
    "plugins.ml_commons.trusted_connector_endpoints_regex": r"^http://127\.0\.0\.1:.*$",
}
"""What lets the node ask a model on this machine: its circuit breakers watch a machine that others use too."""

HEAP = "512m"
START = 300
"""Tries to reach a node that starts, a second apart: a busy machine takes minutes."""

URL = "RAGSTONE_TEST_OPENSEARCH"
"""Names the node for the tests that need one."""

TESTS = (
    "tests/conformance/test_index.py",
    "tests/conformance/test_hosted.py",
    "tests/test_opensearch.py",
    "tests/test_inference.py",
    "tests/test_change.py::test_the_model_changes_under_load_without_a_failed_query_and_without_a_mixed_one[opensearch]",
    "tests/test_up.py::test_an_engine_that_asks_for_vectors_finds_the_origin_up",
)


class Missing(Exception):
    """Why there can be no node on this machine."""


def up() -> str:
    """The URL of a node that answers: the one that runs, or a new one. Raises `Missing`."""
    home = _home()
    if not runs(home):
        _start(home, java("OpenSearch", VERSION, JAVA, "OPENSEARCH_JAVA_HOME"), free_port())
    return answering(home)


def down() -> None:
    """Stop the node, and wait until it is gone; nothing when none runs."""
    stop(cache() / f"opensearch-{VERSION}")


def answering(home: Path) -> str:
    """The URL of the node in a folder, once it answers. One that does not is stopped. Raises `Missing`."""
    node, patience = (home / "url").read_text(), urllib3.Retry(START, backoff_factor=1, backoff_max=1, status_forcelist=[503])
    try:
        urllib3.request("GET", f"{node}/_cluster/health?wait_for_status=yellow", retries=patience, timeout=60)
    except urllib3.exceptions.MaxRetryError as error:
        stop(home)
        raise Missing(f"the node at {node} does not answer; its log is {home / 'node.log'}") from error
    return node


def stop(home: Path) -> None:
    """Stop the node in a folder, and wait until it is gone; nothing when none runs."""
    if not runs(home):
        return
    pid = int((home / "pid").read_text())
    gone = os.pidfd_open(pid)
    os.kill(pid, signal.SIGTERM)
    select.select([gone], [], [], 60)
    os.close(gone)


def url(name: str) -> str:
    """`index.url` for indexes of this name in the node that tests were given; skips the test when they were given none."""
    node = os.environ.get(URL)
    if not node:
        pytest.skip(f"no OpenSearch node: {URL} is not set; make engines starts one")
    return f"opensearch://{urlsplit(node).netloc}/{name}"


def cache() -> Path:
    """Where nodes are kept. Root's own cache is closed to the user that a node of root's runs as."""
    named = os.environ.get("RAGSTONE_ENGINES")
    if named:
        return Path(named)
    return Path("/var/tmp/ragstone-engines") if is_root() else config.cache_folder() / "engines"


def _home() -> Path:
    """The unpacked node with its plugins, downloaded first when it is not there."""
    home, parts = cache() / f"opensearch-{VERSION}", "\n".join(PLUGINS)
    with suppress(OSError):
        if (home / "ready").read_text() == parts:
            return home
    down()
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    unpack(download(NODE, home.parent), home.parent)
    for name, artifact in PLUGINS.items():
        unpack(download(f"org.opensearch.plugin:{artifact}:{VERSION}.0:zip", home.parent), home / "plugins" / name)
    for program in (home / "bin").iterdir():
        program.chmod(0o755)  # Python's zipfile drops the bit
    (home / "ready").write_text(parts)
    return home


def download(artifact: str, folder: Path) -> Path:
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing("there is no mvn on the PATH")
    done = subprocess.run(
        [maven, "-q", "-B", MAVEN, f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"], capture_output=True, text=True
    )
    if done.returncode:
        raise Missing(f"Maven can't get {artifact}: {next(iter(re.findall('ERROR. (.*)', done.stdout)), done.stderr)[:300]}")
    _, name, version, _ = artifact.split(":")
    return folder / f"{name}-{version}.zip"


def unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    archive.unlink()


def java(kind: str, version: str, oldest: int, variable: str) -> Path:
    """The home of a Java that is new enough, the one that `variable` names first. Raises `Missing`."""
    named = [os.environ[name] for name in (variable, "JAVA_HOME") if name in os.environ]
    homes = [*map(Path, named), *sorted(Path("/usr/lib/jvm").glob("*"))]
    for home in homes:
        with suppress(OSError):
            found = re.search(r'JAVA_VERSION="(\d+)', (home / "release").read_text())
            if found and int(found[1]) >= oldest:
                return home
    raise Missing(f"{kind} {version} needs Java {oldest} or newer; looked in {', '.join(map(str, homes)) or '/usr/lib/jvm'}")


def _start(home: Path, java: Path, port: int) -> None:
    """Start an empty node. It writes its pid itself; it is none of this process's group, so that it outlives it."""
    shutil.rmtree(home / "data", ignore_errors=True)
    (home / "url").write_text(f"http://127.0.0.1:{port}")
    settings = {
        "path.data": home / "data",
        "network.host": "127.0.0.1",
        "http.port": port,
        "transport.port": free_port(),
        "discovery.type": "single-node",
        "cluster.routing.allocation.disk.threshold_enabled": "false",
        **MODELS,
    }
    command = [str(home / "bin" / "opensearch"), "-p", str(home / "pid"), *(f"-E{name}={value}" for name, value in settings.items())]
    environment = {
        "PATH": os.environ["PATH"],
        "OPENSEARCH_JAVA_HOME": str(java),
        "OPENSEARCH_JAVA_OPTS": f"-Xms{HEAP} -Xmx{HEAP}",
    }
    user = "nobody" if is_root() else None
    if user:
        give(home, user)
    with (home / "node.log").open("wb") as log:
        subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=home, user=user, extra_groups=[] if user else None, start_new_session=True
        )


def give(folder: Path, user: str) -> None:
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, user)


def runs(home: Path) -> bool:
    """Whether the pid that the node wrote is still its own."""
    try:
        pid = int((home / "pid").read_text())
        return str(home).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def is_root() -> bool:
    return os.geteuid() == 0


def command(kind: str, up: Callable[[], str], down: Callable[[], None], variable: str, tests: Sequence[str]) -> int:
    """What `python -m` of a node's module does: `up`, `down`, or without a word the tests between the two. Skips loudly without a node."""
    wanted = sys.argv[1:]
    if wanted == ["down"]:
        down()
        return 0
    try:
        node = up()
    except Missing as error:
        print(f"SKIPPED: no {kind} node: {error}", file=sys.stderr)
        return 0
    if wanted == ["up"]:
        print(node)
        return 0
    try:
        return subprocess.run([sys.executable, "-m", "pytest", *tests], env={**os.environ, variable: node}).returncode
    finally:
        down()


if __name__ == "__main__":
    sys.exit(command("OpenSearch", up, down, URL, TESTS))
