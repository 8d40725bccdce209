"""The releases that an origin holds open: the one before stays for a while, so that going back to it loads nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ragstone import release
from ragstone.access import Verifier
from ragstone.api import releases
from ragstone.api.releases import Opened, Releases
from tests.origins import Site, site
from tests.speaker import Speaker

SETTINGS = itertools.count(2)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, speaker: Speaker) -> Site:
    return site(tmp_path_factory.mktemp("project"), speaker.url)


class Follower:
    """An origin's releases, looked at once by each call."""

    def __init__(self, own: Site, runner: asyncio.Runner) -> None:
        self._releases, self._runner = Releases(own.store, own.settings, Verifier()), runner

    def __call__(self) -> Opened:
        return self._runner.run(self._look())

    async def _look(self) -> Opened:
        await self._releases.step()
        async with self._releases.use("production") as opened:
            return opened

    def close(self) -> None:
        self._runner.run(self._releases.close())


@contextmanager
def following(own: Site) -> Iterator[Follower]:
    with asyncio.Runner() as runner:
        made = Follower(own, runner)
        try:
            yield made
        finally:
            made.close()


def another(own: Site) -> str:
    """A release that no other test has made, in force."""
    now = release.current(own.store, "production")
    assert now
    before = release.load(own.store, now.release)
    id = release.save(own.store, replace(before, retrieval={**before.retrieval, "top_k": next(SETTINGS)}))
    return release.promote(own.store, "production", id).release


def test_going_back_to_the_release_before_loads_nothing(own: Site) -> None:
    with following(own) as now:
        first = now()
        second = another(own)
        assert now().id == second
        release.rollback(own.store, "production")
        assert now() is first
        release.promote(own.store, "production", second)
        assert now().id == second


def test_no_more_than_one_release_is_kept_beside_the_one_in_force(own: Site) -> None:
    with following(own) as now:
        first = now()
        for _ in range(2):
            another(own)
            now()
        release.promote(own.store, "production", first.id)
        assert now().id == first.id
        assert now() is not first


def test_the_release_before_is_let_go_after_a_while(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "WARM", 0.0)
    with following(own) as now:
        first = now()
        another(own)
        now()
        release.rollback(own.store, "production")
        assert now().id == first.id
        assert now() is not first


def test_a_purge_closes_the_release_before_since_what_was_forgotten_is_in_it(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "KEYS", 0.0)
    with following(own) as now:
        first = now()
        another(own)
        now()
        release.purge(own.store, "production")
        now()
        release.rollback(own.store, "production")
        assert now().id == first.id
        assert now() is not first
