"""A user's shell: blocks of the docs, typed one after the other, where `ragstone` is this checkout and `~/documents` holds the manuals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ragstone.config import cache_folder
from tests.conftest import write_manuals

ROOT = Path(__file__).parent.parent


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of the languages, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    return [text for language, text in found if language in languages]


class Shell:
    """`folder` is where it stands; a `cd` in one block holds for the next."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.folder = home
        write_manuals(home / "documents")
        (home / "bin").mkdir()
        command = home / "bin" / "ragstone"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ragstone "$@"\n')
        command.chmod(0o755)
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAGSTONE_CACHE": str(cache_folder()),
            "COLUMNS": "200",
            **environment,
        }

    def type(self, script: str) -> str:
        """What the lines print. Each of them must end well."""
        place = self.home / ".place"
        lines = f"set -euo pipefail\n{script}\npwd > '{place}'\n"
        done = subprocess.run(["bash", "-c", lines], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        self.folder = Path(place.read_text().strip())
        return done.stdout + done.stderr
