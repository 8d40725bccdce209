"""The demo as a stranger runs it: seconds from `ragstone up` on a new project to the first cited answer, and to the training verdict.

    python -m benchmarks.demo [--docs FOLDER] [--minutes M]

The weights must be in the cache (`ragstone models pull minilm`, `… smollm2`): what is measured begins after the downloads.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from benchmarks.record import ROOT, record

QUESTION = "How does the with statement manage resources?"
PORTS = {"RAGSTONE_EDGE_PORT": "8911", "RAGSTONE_API_PORT": "8912"}
LIMIT = 1500.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", default="")
    parser.add_argument("--minutes", default="10")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        docs = Path(arguments.docs).resolve() if arguments.docs else write_docs(folder / "docs")
        record("demo", measure(folder, docs, arguments.minutes))


def write_docs(folder: Path) -> Path:
    subprocess.run([sys.executable, ROOT / "examples/pydoc.py", folder], check=True)
    return folder


def measure(folder: Path, docs: Path, minutes: str) -> dict[str, object]:
    environment = {**os.environ, **PORTS, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ragstone", "up", str(docs), "--minutes", minutes]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: list[tuple[float, str]] = []
    threading.Thread(target=follow, args=(process, lines, began), daemon=True).start()
    try:
        wait(lines, r"ready after")
        answer = ask(folder)
        first = time.perf_counter() - began
        verdict_at, verdict = wait(lines, r": (promoted|the base model stays)")
        return {
            "first cited answer, s": round(first, 1),
            "citations in it": len(answer["ragstone"]["citations"]),
            "verdict, s": round(verdict_at, 1),
            "verdict": verdict,
            "printed": [line.replace(str(folder), "demo") for _, line in lines],  # not where this machine keeps things
        }
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def follow(process: subprocess.Popen[str], lines: list[tuple[float, str]], began: float) -> None:
    assert process.stdout
    for line in process.stdout:
        lines.append((time.perf_counter() - began, line.rstrip()))


def wait(lines: list[tuple[float, str]], pattern: str) -> tuple[float, str]:
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        for at, line in list(lines):
            if re.search(pattern, line):
                return at, line
        time.sleep(0.05)
    raise SystemExit(f"no line with {pattern!r} within {LIMIT:.0f} s:\n" + "\n".join(line for _, line in lines))


def ask(folder: Path) -> dict[str, dict[str, list[object]]]:
    token = (folder / ".ragstone/keys/local.token").read_text()
    body = {"model": "production", "messages": [{"role": "user", "content": QUESTION}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORTS['RAGSTONE_EDGE_PORT']}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        answer: dict[str, dict[str, list[object]]] = json.load(response)
        return answer


if __name__ == "__main__":
    main()
