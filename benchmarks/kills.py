"""Processes of Ragstone that are killed at random moments: is every published version readable after each, and does the next run go on?

    python -m benchmarks.kills [--kills N] [--seed N] [--store file|s3|oss]

A project of 240 short documents over a model of noise. Its store is a folder, or a bucket on this machine: of a real S3 server
(versitygw), or of the tests' own OSS. Each trial changes documents, lets a process work that gets SIGKILL at some moment of that, and looks
at the store from another one: every published folder is held against its SHA-256, read out of a bucket into a cache of its own, and every
release that was ever in force has all its parts. Then the same work must come to its end, and the newest releases must find something. What
is killed: `build`; a change of the embedding model (index, calibration, release, promotion); forty promotions in a row. One trial in five
builds into an empty store. Trials whose work ended before its kill are looked at alike, but do not count among the N.

Processes are forked from this one, which has imported what they need, so that the kill falls into the work. How long that takes is known
from the run before.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from benchmarks import stores
from benchmarks.record import record
from ragstone import config, embedder, project, release
from ragstone.config import Settings
from ragstone.index import local  # noqa: F401  imported before it is needed, as the next two are
from ragstone.rag import local as rag  # noqa: F401
from ragstone.retrieve import Retriever  # noqa: F401
from ragstone.show import Silence
from ragstone.store import Store, connect, publish
from tests import kills
from tests.tiny import tiny

DOCUMENTS, PROMOTIONS, LOOKED_AT = 240, 40, 3
FRESH = 5
"""One trial in so many begins with an empty store: the model is published too."""
FORK = multiprocessing.get_context("fork")
PUBLIC = ("public",)
CACHE = "RAGSTONE_CACHE"
NOBODY = "openai+http://127.0.0.1:9/v1?model=none"
"""A generator that is named in releases and never asked."""

Work = Callable[[Settings, Store], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--store", choices=stores.SCHEMES, default="file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, stores.running(asked.store, Path(name)) as made:
        os.environ[CACHE] = f"{name}/cache"
        wrong = trials(Path(name) / "project", made, asked.kills, random.Random(asked.seed))
    sys.exit(f"{len(wrong)} trials went wrong" if wrong else 0)


def trials(folder: Path, made: stores.Stores, count: int, draw: random.Random) -> list[str]:
    """What went wrong in the trials until so many works were killed; all is recorded."""
    begin(folder)
    at = settle(folder, next(made))
    took, killed, wrong, left, trial = whole(folder), Counter[str](), list[str](), 0, 0
    for trial in itertools.takewhile(lambda _: killed.total() < count, itertools.count()):
        fresh = trial % FRESH == 0
        name = "build" if fresh else draw.choice(list(WORKS))
        change(folder, trial)
        at = settle(folder, next(made)) if fresh else at
        killed[name] += run(folder, WORKS[name], draw.uniform(0.0, took[name])) is None
        began, told = time.monotonic(), run(folder, lambda settings, at, work=WORKS[name]: goes_on(settings, at, work))
        took[name] = time.monotonic() - began
        wrong += [f"trial {trial}, {name}: {told}"] if told else []
        left += len(list(at.folder.rglob(".tmp-*")))
        print(f"{killed.total()} of {count} killed, {len(wrong)} went wrong", end="\r", file=sys.stderr, flush=True)
    figures = {"trials": trial + 1, "killed before the end": dict(sorted(killed.items())), "went wrong": wrong}
    record(f"kills-{at.url.partition(':')[0]}", {**figures, "temporary files seen after the next run": left})
    return wrong


def begin(folder: Path) -> None:
    """A project and its two models."""
    (folder / "docs").mkdir(parents=True)
    for number in range(DOCUMENTS):
        write(folder, number, 0)
    for seed in (17, 18):
        tiny(folder / f"model-{seed}", seed)


def settle(folder: Path, at: stores.Made) -> stores.Made:
    """The project in an empty store, and nothing left of what it made before."""
    shutil.rmtree(folder / ".ragstone", ignore_errors=True)
    base = folder / "model-17" / "model"
    toml = f'[project]\nstore = "{at.url}"\n[train]\nbase = "{base}"\n[serve]\nurl = "{NOBODY}"\n'
    (folder / "ragstone.toml").write_text(toml)
    return at


def write(folder: Path, number: int, turn: int) -> None:
    text = f"# Part {number}\n\nPart {number} is turned by {turn} degrees, then the valve of pump {number % 7} is opened.\n"
    (folder / "docs" / f"{number}.md").write_text(text)


def whole(folder: Path) -> dict[str, float]:
    """Seconds that each work takes where nobody kills it."""
    took = {}
    for name, work in WORKS.items():
        began = time.monotonic()
        if told := run(folder, work):
            sys.exit(f"{name} fails without a kill: {told}")
        took[name] = time.monotonic() - began
    return took


def change(folder: Path, trial: int) -> None:
    """Other documents than before."""
    for number in range(trial % 3, DOCUMENTS, 11):
        write(folder, number, trial + 1)
    (folder / "docs" / f"{trial % DOCUMENTS}.md").unlink()


def run(folder: Path, work: Work, seconds: float | None = None) -> str | None:
    """What a process of its own says of the work: nothing, or its error; None when it was killed before its end, after so many seconds."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_report, args=(folder, work, theirs), daemon=True)
    process.start()
    theirs.close()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return str(ours.recv()) if ours.poll() else f"it ended with {process.exitcode}"


def _report(folder: Path, work: Work, to: Connection) -> None:
    try:
        settings = config.load(folder, {})
        work(settings, connect(settings.store_url))
        to.send("")
    except BaseException:
        to.send(traceback.format_exc())


def goes_on(settings: Settings, at: Store, work: Work) -> None:
    """After a kill: the store is read, the work comes to its end, and the newest releases find something."""
    check(at)
    work(settings, at)
    check(at)
    for id in list(dict.fromkeys(one.release for one in reversed(release.history(at, settings.project.channel))))[:LOOKED_AT]:
        assert project.retrieve(settings, at, "Which part is turned?", PUBLIC, id, 1), id


def check(at: Store) -> None:
    """All that is published, read out of the store itself."""
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as environment:
        environment.setenv(CACHE, cache)
        kills.check(at)


def build(settings: Settings, at: Store) -> None:
    project.build(settings, at, Silence())


def change_model(settings: Settings, at: Store) -> None:
    """The other of both models over the same documents: every chunk is encoded anew."""
    current = release.load(at, release.resolve(at, settings.project.channel))
    others = {embedder.digest(folder): folder for folder in settings.folder.glob("model-*/model")}
    digest, folder = next((digest, folder) for digest, folder in sorted(others.items()) if digest != current.model)
    publish(at, f"models/{digest}", folder)
    made = project.assemble(settings, at, current.snapshot, digest, "another model", Silence())
    release.promote(at, settings.project.channel, made.id)


def promote(settings: Settings, at: Store) -> None:
    """Whatever is saved, one after the other."""
    saved = sorted(release.saved(at))
    for turn in range(PROMOTIONS):
        release.promote(at, settings.project.channel, saved[turn % len(saved)])


WORKS: Mapping[str, Work] = {"build": build, "change of the model": change_model, "promotions": promote}


if __name__ == "__main__":
    main()
