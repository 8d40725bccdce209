"""The real ossutil and Ragstone, side by side at one bucket: what one writes is what the other reads."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ragstone import bucket
from ragstone.store import Stat, connect
from tests import cloud as clouds
from tests import golang
from tests.cloud import Cloud

MODULE, VERSION = "github.com/aliyun/ossutil", "v1.7.19"
"""The last of which there is source; the second generation has none."""
LARGE = 1 << 20
"""Bytes from which ossutil is told to send a file in parts, and of each part."""


@pytest.fixture(scope="module")
def ossutil() -> Path:
    wanted = {"go.mod": f"module tool\n\ngo 1.21\n\nrequire {MODULE} {VERSION}\n"}
    return golang.program("ossutil", VERSION, "NO OSSUTIL", ["build", "-mod=mod", "-o", "ossutil", MODULE], wanted)


def copy(program: Path, cloud: Cloud, source: Path | str, target: Path | str, home: Path) -> None:
    """`ossutil cp -r`, with signatures of V4; what it writes beside is below `home`."""
    whose = ["-i", clouds.KEY, "-k", clouds.SECRET, "-e", cloud.endpoint, "--region", clouds.REGION, "--sign-version", "v4"]
    parts = ["--bigfile-threshold", str(LARGE), "--part-size", str(LARGE), "--retry-times", "1", "--force-path-style"]
    beside = ["--config-file", str(home / "none"), "--checkpoint-dir", str(home / "checkpoint"), "--output-dir", str(home / "reports")]
    command = [str(program), "cp", "-f", *whose, *parts, *beside, *(["-r"] if Path(source).is_dir() else []), str(source), str(target)]
    done = subprocess.run(command, cwd=home, env=os.environ | {"HOME": str(home)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Succeed" in done.stdout, done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_what_ossutil_uploads_is_what_ragstone_reads(ossutil: Path, cloud: Cloud, tmp_path: Path, home: Path) -> None:
    contents = {"pump.md": b"# Pump\n", "crew/rota 1 \u00fc.txt": b"Six.", "large.bin": os.urandom(3 * LARGE + 5), "empty": b""}
    for name, content in contents.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    copy(ossutil, cloud, tmp_path / "data", "oss://bucket/a/store/data/", home)
    assert sum("partNumber=" in call for call in cloud.calls) == 4
    assert cloud.folders, "ossutil makes an object for each folder"
    store = connect(cloud.store())
    assert list(store.list("data/")) == [Stat(f"data/{name}", len(contents[name])) for name in sorted(contents)]
    assert {name: store.get(f"data/{name}") for name in contents} == contents


def test_what_ragstone_writes_is_what_ossutil_downloads(ossutil: Path, cloud: Cloud, tmp_path: Path, home: Path) -> None:
    content = os.urandom(2 * bucket.CHUNK + 1)
    (tmp_path / "large").write_bytes(content)
    connect(cloud.store()).put("models/large \u00fc", tmp_path / "large")
    copy(ossutil, cloud, "oss://bucket/a/store/models/large \u00fc", tmp_path / "back", home)
    assert (tmp_path / "back").read_bytes() == content
