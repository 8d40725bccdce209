"""A version that is broken, deployed beside one that answers: whatever is wrong with it, no question of a user fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ragstone import config, release, service
from ragstone.errors import GeneratorError
from tests.origins import Origin, asked, running, site, until
from tests.speaker import Speaker, speaking
from tests.test_service import written

TRUE = "Prime the feed pump for ninety seconds before it is started."


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, speaker: Speaker) -> Iterator[Origin]:
    """An origin whose version in force answers."""
    speaker.reset(TRUE)
    with running(site(tmp_path_factory.mktemp("faults"), speaker.url)) as made:
        yield made


@pytest.fixture
def other() -> Iterator[Speaker]:
    """The server of the version that is broken."""
    with speaking() as made:
        yield made


def deploy(origin: Origin, folder: Path, model: str, version: str) -> None:
    """As `ragstone deploy` does, with little patience."""
    at = origin.site
    settings = config.override(at.settings, "serve", timeout=2.0)
    service.deploy(settings, at.store, service.read(written(folder, {"name": "llm", "model": model}), version, settings), print)


def test_a_version_that_crashes_at_start_costs_no_user_an_answer(origin: Origin, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    with asked(origin), pytest.raises(GeneratorError):
        deploy(origin, tmp_path, f"local://{broken}", "crashes")
    assert "llm/crashes" not in service.deployed(origin.site.store)


def test_a_version_that_answers_500s_costs_no_user_an_answer(origin: Origin, tmp_path: Path, other: Speaker) -> None:
    other.status = 500
    with asked(origin), pytest.raises(GeneratorError, match="500"):
        deploy(origin, tmp_path, other.url, "fails")
    assert other.asked
    assert "llm/fails" not in service.deployed(origin.site.store)


def test_a_version_that_hangs_costs_no_user_an_answer(origin: Origin, tmp_path: Path, other: Speaker) -> None:
    other.text, other.held = TRUE, True
    with asked(origin), pytest.raises(GeneratorError, match="fell silent"):
        deploy(origin, tmp_path, other.url, "hangs")
    assert other.begun.is_set()
    assert "llm/hangs" not in service.deployed(origin.site.store)


def test_a_version_that_is_gone_when_it_is_promoted_never_takes_a_question(origin: Origin, tmp_path: Path) -> None:
    at = origin.site
    before = origin.release
    with speaking() as other:
        other.text = "Yes."
        deploy(origin, tmp_path, other.url, "gone")
    with asked(origin) as answered:
        record = service.share(at.store, "production", {"gone": 100})
        count = answered()
        until(lambda: answered() > count + 4)
        assert origin.release == before != record.release
        back = release.rollback(at.store, "production")
        assert back.release == before
