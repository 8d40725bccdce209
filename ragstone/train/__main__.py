"""`python -m ragstone.train --job FOLDER` runs a training job that is described by files: here, or inside a cluster's container."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ragstone import job, train
from ragstone.children import interruptible
from ragstone.errors import RagstoneError
from ragstone.train import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 when `done.json` stands, 1 after a failure, 130 when interrupted. The same command goes on where it stopped."""
    parser = argparse.ArgumentParser("python -m ragstone.train", description="Run the training job in a folder.")
    parser.add_argument("--job", type=Path, required=True, help="the folder: base/, pairs.jsonl and recipe.json; candidates/ come there")
    parser.add_argument("--url", default="local", help="the trainer, as train.url; default: local")
    parser.add_argument("--memory", type=float, default=train.MEMORY, help=f"GiB that the process may take; default: {train.MEMORY:g}")
    given = parser.parse_args(arguments)
    try:
        with interruptible():  # a cluster ends a job with SIGTERM; the checkpoint is written first
            run(given.job, given.url, given.memory)
    except RagstoneError as error:
        print(f"ragstone.train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ragstone.train: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def run(folder: Path, url: str, memory: float) -> None:
    """Train what `folder` describes, unless that is done, and leave candidates and `done.json` in it."""
    asked = job.read(folder)
    if job.finished(folder):
        return
    made = train.connect(url).train(asked.base, asked.pairs, asked.recipe, folder / "work", _tell, memory)
    job.finish(folder, made)


def _tell(now: Progress) -> None:
    print(json.dumps(asdict(now)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
