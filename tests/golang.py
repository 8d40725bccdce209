"""Programs in Go that tests need, each built once into the machine's cache. A test without its program is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from ragstone.config import cache_folder

TOOLS = cache_folder() / "tools"
"""Read once: tests move the cache."""
PATIENCE = 280
"""Seconds that Go may take: versitygw took 100 on two cores, the modules' download included."""
NOTHING: Mapping[str, str] = MappingProxyType({})


def program(name: str, version: str, lacking: str, command: Sequence[str], files: Mapping[str, str] = NOTHING) -> Path:
    """The program, made by Go's `command` in a folder with these files. Skips the test, with the reason, where that can't be."""
    made = TOOLS / f"{name}-{version}"
    if made.is_file():
        return made
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip(f"{lacking}: Go is not installed, and {made} is not there")
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as work:
        for file, text in files.items():
            Path(work, file).write_text(text)
        try:
            environment = os.environ | {"GOBIN": work}
            subprocess.run([go, *command], env=environment, cwd=work, check=True, capture_output=True, timeout=PATIENCE)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"{lacking}: Go can't build {name} {version}: {error.stderr.decode().strip()[-300:]}")
        except subprocess.TimeoutExpired:
            pytest.skip(f"{lacking}: Go did not build {name} {version} in {PATIENCE} s")
        Path(work, name).rename(made)
    return made
