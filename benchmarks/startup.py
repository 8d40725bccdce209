"""How long `import ragstone` and `ragstone --help` take, and what they load: the median of seven runs of a fresh interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.record import record

RUNS = 7


def seconds(*arguments: str) -> float:
    took = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def main() -> None:
    bare = seconds("-c", "pass")
    loaded = "import ragstone, sys; print('torch' in sys.modules)"
    torch = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True).stdout.strip()
    record(
        "startup",
        {
            "import ragstone, ms beyond a bare interpreter": round((seconds("-c", "import ragstone") - bare) * 1000, 1),
            "ragstone --help, ms": round(seconds("-m", "ragstone", "--help") * 1000),
            "torch loaded by import ragstone": torch,
        },
    )


if __name__ == "__main__":
    main()
