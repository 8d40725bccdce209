"""The whole system with its store in a bucket: nothing in it assumes files."""

from __future__ import annotations

import itertools
import multiprocessing
import re
import threading
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from ragstone import bucket, config, project, release
from ragstone.config import Settings
from ragstone.errors import Conflict, StoreError
from ragstone.show import Silence
from ragstone.store import connect
from tests import cloud as clouds
from tests import origins, proxy
from tests.gateway import Gateway
from tests.origins import Site
from tests.proxy import REFUSED
from tests.speaker import speaking
from tests.tiny import tiny

PROCESSES, THREADS = 2, 8
STORES: dict[str, Callable[[pytest.FixtureRequest, Path], str]] = {
    "file": lambda request, folder: f"file://{folder / 'store'}",
    "oss": lambda request, folder: request.getfixturevalue("cloud").store(),
    "s3": lambda request, folder: request.getfixturevalue("s3").url(),
}

RELEASE = release.Release("s", "m", "i", {"g/1": 100}, {"top_k": 5}, (0.0, 1.0), "p")


@pytest.fixture
def based(settings: Settings, tmp_path: Path) -> Settings:
    """The settings with a base model that is small."""
    tiny(tmp_path / "base")
    return config.override(settings, "train", base=str(tmp_path / "base/source"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["oss", "s3"])
def test_a_project_is_built_asked_and_found_again_in_a_bucket(
    request: pytest.FixtureRequest, based: Settings, manuals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings = config.override(based, "project", store=STORES[kind](request, tmp_path))
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "here"))
    made = project.build(settings, connect(settings.store_url), Silence())
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "another machine"))
    store = connect(settings.store_url)
    hits = project.retrieve(settings, store, "With how many newton metres is the bonnet tightened?", ("public",), None, 3)
    assert "valve.md" in {hit.chunk.document for hit in hits}
    before = [stat.key for stat in store.list("")]
    assert project.build(settings, store, Silence()).id == made.id
    assert [stat.key for stat in store.list("")] == before
    (manuals / "valve.md").unlink()
    assert project.build(settings, store, Silence()).id != made.id
    assert release.rollback(store, "production").release == made.id


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["oss", "s3"])
def test_a_build_on_a_bucket_that_fails_half_of_its_calls_makes_the_same_release(
    request: pytest.FixtureRequest, based: Settings, manuals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    made = project.build(based, connect(based.store_url), Silence())
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bucket, "PAUSES", (0.001, 0.01))
    url = STORES[kind](request, tmp_path)
    service = request.getfixturevalue({"oss": "cloud", "s3": "s3"}[kind])
    with proxy.before_half(service.endpoint) as between:
        again = project.build(based, connect(re.sub("endpoint=[^&]*", f"endpoint={between.endpoint}", url)), Silence())
    assert len(between.calls) > 40
    assert again.id == made.id
    record = release.current(connect(url), "production")
    assert record
    assert (record.number, record.release) == (1, made.id)


@pytest.mark.slow
def test_an_origin_over_a_bucket_answers_and_takes_a_new_release_without_a_restart(
    s3: Gateway, based: Settings, manuals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "cache"))
    with speaking() as speaker:
        settings = config.override(config.override(based, "project", store=s3.url()), "serve", url=speaker.url)
        site = Site(settings, connect(settings.store_url))
        first = site.build()
        with origins.running(site) as origin:
            assert origin.chat("How long is the pump primed?").headers["x-ragstone-release"] == first.id
            (manuals / "valve.md").unlink()
            second = site.build()
            origins.until(lambda: origin.release == second.id)
            assert origin.chat("How long is the pump primed?").status == 200


def test_a_copy_into_a_bucket_that_broke_off_goes_on_where_it_stopped(
    s3: Gateway, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    for number in range(40):
        (source / f"{number}.txt").write_text(f"document {number}")
    url, sent = s3.url(), itertools.count()
    monkeypatch.setattr(bucket, "PATIENCE", 0.1)
    with proxy.before(s3.endpoint, lambda number, call: REFUSED if "PUT" in call and next(sent) >= 10 else "") as between:
        broken = connect(url.replace(s3.apart, between.endpoint))
        with pytest.raises(StoreError, match="can't write raw/blobs/"):
            project.stage(settings, broken, Silence())
    done = project.stage(settings, connect(url), Silence()).summary
    assert done.skipped.files == 10
    assert done.copied.files == 30


@pytest.mark.parametrize("kind", STORES)
def test_of_sixteen_that_promote_at_the_same_moment_one_wins_and_the_others_are_told(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    url = STORES[kind](request, tmp_path)
    if kind == "oss":
        monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", clouds.KEY)
        monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", clouds.SECRET)
    id = release.save(connect(url), RELEASE)
    processes = multiprocessing.get_context("spawn")
    barrier, said = processes.Barrier(PROCESSES * THREADS), processes.Queue()
    for process in (running := [processes.Process(target=promote, args=(url, id, barrier, said)) for _ in range(PROCESSES)]):
        process.start()
    outcomes = [said.get(timeout=60) for _ in range(PROCESSES * THREADS)]
    for process in running:
        process.join()
    assert sorted(outcomes) == ["conflict"] * (PROCESSES * THREADS - 1) + ["promoted"]
    assert [record.number for record in release.history(connect(url), "production")] == [1]


def promote(url: str, id: str, barrier: Barrier, said: Queue[str]) -> None:
    """Promote from many threads at once."""
    store = connect(url)
    store.stat(id)  # connects, and imports what that takes

    def once() -> None:
        barrier.wait()
        try:
            release.promote(store, "production", id, after=0)
            said.put("promoted")
        except Conflict:
            said.put("conflict")

    threads = [threading.Thread(target=once) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
