"""Keep a measurement with the commit and the machine it was made on: `benchmarks/results/<name>.json`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Goal = dict[str, float]
"""As `goal` makes it: `found`, the bound, and whether it is `met`."""


def record(name: str, figures: dict[str, object]) -> Path:
    """Write the figures and print them."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"name": name, "commit": COMMIT, "machine": machine(), "at": at, "figures": figures}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(entry, indent=1) + "\n")
    print(json.dumps(entry, indent=1))
    return path


def goal(found: float, *, most: float | None = None, least: float | None = None) -> Goal:
    """A figure beside what it is to be at most, or at least, and whether it is."""
    met = (most is None or found <= most) and (least is None or found >= least)
    return {"found": found, **({} if most is None else {"at most": most}), **({} if least is None else {"at least": least}), "met": met}


def judge(goals: Mapping[str, Goal]) -> None:
    """End with each figure's goal beside it, and an error when one is missed."""
    for name, reached in goals.items():
        bounds = ", ".join(f"{side} {reached[side]:g}" for side in ("at least", "at most") if side in reached)
        print(f"{name}: {reached['found']:g}, {bounds}: {'reached' if reached['met'] else 'MISSED'}")
    missed = [name for name, reached in goals.items() if not reached["met"]]
    sys.exit(f"goals missed: {', '.join(missed)}" if missed else 0)


def commit() -> str:
    """The commit, with a mark when the tree differs from it in more than results."""
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return (_git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> str:
    """Processor, cores and load, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


COMMIT = commit()
"""Taken when a measurement begins: what is committed while it runs was not measured."""
