"""Run the few tests again, alone, that failed in the last run: `python -m tests.again`.

A machine that is starved for a while breaks one of thousands of tests that is sound: it is named, and a second failure counts. More than a
few failures are no such thing, and are not run again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

FEW = 3
FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main() -> int:
    failed = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
    print("", f"FAILED ONCE: {len(failed)}", *failed, "", sep="\n", flush=True)
    if not 1 <= len(failed) <= FEW:
        sys.exit("Not run again.")
    return pytest.main(["-v", *failed])


if __name__ == "__main__":
    sys.exit(main())
