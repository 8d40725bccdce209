"""What an answer costs after a release that leaves its evidence as it was, beside the generation that it saves: end to end, with SmolLM2.

    python -m benchmarks.revalidation [--questions 5] [--tokens 128]

A project over ten short manuals is served by the public commands. Each question is asked of the edge, and its answer generated on this
machine's CPU; then a release with another setting of retrieval is promoted, which finds the same evidence, and each is asked again: the
origin retrieves and confirms the answer. The weights must be in the cache (`ragstone models pull smollm2`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.promotion import SUBJECTS, URL, build, environment, ragstone, say, wait_for_token
from benchmarks.record import record

GOAL = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    given = parser.parse_args()
    os.environ["RAGSTONE_SERVE_URL"] = "local://smollm2"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say("building a release")
        build(folder, "blue")
        command = [sys.executable, "-m", "ragstone", "up", "docs", "--minutes", "0"]
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
        try:
            figures = measure(folder, given.questions, given.tokens)
        finally:
            process.terminate()
            process.wait(60)
    record("revalidation", figures)
    sys.exit(f"the goal is missed: {GOAL}x" if figures["generation / confirmation"] < GOAL else 0)


def measure(folder: Path, questions: int, tokens: int) -> dict[str, float]:
    token = asyncio.run(wait_for_token(folder))
    asked = [f"Describe how the {subject} is looked after, and by whom." for subject in SUBJECTS[:questions]]
    made = [ask(token, question, tokens, "miss") for question in asked]
    os.environ["RAGSTONE_RETRIEVE_CANDIDATES"] = "199"  # of ten chunks: the release is another, and finds the same
    release = ragstone(folder, "build", "docs").splitlines()[-1]
    ragstone(folder, "release", "promote", release)
    while in_force() != release:
        time.sleep(0.1)
    confirmed = [ask(token, question, tokens, "revalidated") for question in asked]
    times = {"generated, median s": statistics.median(made), "confirmed, median s": statistics.median(confirmed)}
    ratio = times["generated, median s"] / times["confirmed, median s"]
    rounded = {what: round(value, 4) for what, value in times.items()}
    return {**rounded, "generation / confirmation": round(ratio, 1), "questions": questions}


def ask(token: str, question: str, tokens: int, state: str) -> float:
    """Seconds until the whole answer is there, which must come from where it is said."""
    body = {"model": "production", "messages": [{"role": "user", "content": question}], "max_tokens": tokens}
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    began = time.perf_counter()
    request = urllib.request.Request(f"{URL}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=300) as answer:
        answer.read()
        took = time.perf_counter() - began
        told = answer.headers["x-ragstone-cache"]
    say(f"{told} in {took:.3f} s: {question}")
    if told != state:
        raise SystemExit(f"{question!r} was a {told}, not a {state}")
    return took


def in_force() -> str:
    with urllib.request.urlopen(f"{URL}/healthz", timeout=60) as answer:
        return str(json.load(answer)["release"])


if __name__ == "__main__":
    main()
