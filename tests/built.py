"""The console's page, built from `console/` as it is kept in the package: `python -m tests.built` renews it, a test compares it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragstone import npm
from ragstone.api.console import BUILT
from ragstone.errors import ConfigError

SOURCE = Path(__file__).parents[1] / "console"


@contextmanager
def workshop(installed: Path) -> Iterator[Path]:
    """A copy of the source with its packages beside it, where a tool of theirs finds both."""
    with tempfile.TemporaryDirectory(prefix="ragstone-") as name:
        folder = Path(name) / "console"
        shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules"))
        (folder / "node_modules").symlink_to(installed / "node_modules")
        yield folder


def tool(folder: Path, installed: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a tool of the packages did there, its output kept."""
    command: list[str | Path] = [npm.node(installed), folder / "node_modules" / script, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def build(installed: Path, target: Path) -> None:
    """The page's files into `target`, which is emptied."""
    with workshop(installed) as folder:
        done = tool(folder, installed, "vite/bin/vite.js", "build", "--outDir", str(target), "--emptyOutDir", "--logLevel", "warn")
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    try:
        build(npm.packages(SOURCE / "package.json"), BUILT)
    except ConfigError as error:
        sys.exit(str(error))
