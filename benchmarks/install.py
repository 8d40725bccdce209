"""`pip install .` without extras, in a new environment: its size, that no torch comes with it, and that it builds, finds and answers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import ROOT, record

TEXT = "# Feed pump\n\nPrime the feed pump for ninety seconds before it is started. A pump that runs dry scores its sleeve.\n"
QUESTION = "How long is the feed pump primed?"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        record("install", measure(Path(name)))


def measure(folder: Path) -> dict[str, object]:
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    began = time.perf_counter()
    subprocess.run([folder / "venv/bin/pip", "install", "--quiet", "-c", ROOT / "constraints.txt", str(ROOT)], check=True)
    took = time.perf_counter() - began
    (folder / "docs").mkdir()
    (folder / "docs/pump.md").write_text(TEXT)
    ragstone(folder, "build", "docs")
    return {
        "installed, MB": round(sum(path.stat().st_size for path in (folder / "venv").rglob("*") if path.is_file()) / 1e6),
        "seconds": round(took),
        "torch installed": bool(list((folder / "venv").rglob("site-packages/torch"))),
        "retrieve finds the document": "pump.md" in ragstone(folder, "retrieve", QUESTION),
        "ask cites it": "pump.md" in ragstone(folder, "ask", QUESTION),
    }


def ragstone(folder: Path, *arguments: str) -> str:
    command = [str(folder / "venv/bin/ragstone"), *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
