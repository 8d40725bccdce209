"""Shadow traffic over a real origin: two servers whose words the tests choose, one in force and one in its shadow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from ragstone import service, shadow
from ragstone.cli import app
from ragstone.compare import ENOUGH, compare
from ragstone.config import override
from ragstone.shadow import Pair, Said
from tests.origins import Origin, Site, running, site, until
from tests.speaker import Speaker, speaking
from tests.test_api import FOREIGN, PRIMED, TRUE
from tests.test_service import written

FALSE = "The feed pump is painted green by the night crew."


@pytest.fixture(scope="module")
def second() -> Iterator[Speaker]:
    with speaking() as made:
        yield made


@pytest.fixture(scope="module")
def made(second: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Speaker]]:
    """A site with a version in force and a second one deployed, which gets every question."""
    with speaking() as first:
        first.text = second.text = TRUE
        at = site(tmp_path_factory.mktemp("shadow"), first.url)
        told = service.read(written(at.settings.folder, {"name": "llm", "model": second.url}), "v2", at.settings)
        service.deploy(at.settings, at.store, told, print)
        yield replace(at, settings=override(at.settings, "serve", shadow="v2", shadow_share=100.0)), first


@pytest.fixture(scope="module")
def shared(made: tuple[Site, Speaker], second: Speaker) -> Iterator[Origin]:
    before = len(second.asked)
    with running(made[0]) as origin:
        until(lambda: pairs_after(origin, before))
        yield origin


def pairs_after(origin: Origin, before: int) -> bool:
    """Whether the shadow has been started: it answers a question."""
    origin.chat(PRIMED)
    return bool(shadow.kept(origin.site.store, "llm/v2"))


def pair_of(origin: Origin, question: str, stream: bool = False) -> tuple[str, Pair]:
    """The caller's text, and what was kept of the copy. It is asked again while the copy of an earlier question is under way."""
    began, texts = time.time(), list[str]()

    def copied() -> bool:
        reply = origin.chat(question, stream=stream)
        assert reply.status == 200
        texts.append(reply.data.decode())
        return bool(since())

    def since() -> list[Pair]:
        return [pair for pair in shadow.kept(origin.site.store, "llm/v2") if pair.at >= began]

    until(copied)
    return texts[-1], since()[0]


@pytest.mark.parametrize("stream", [False, True])
def test_the_shadow_gets_the_question_and_nothing_of_its_answer_reaches_the_caller(
    shared: Origin, made: tuple[Site, Speaker], second: Speaker, stream: bool
) -> None:
    second.reset(f"{TRUE} A pump that runs dry scores its sleeve within a minute.")
    text, pair = pair_of(shared, PRIMED, stream)
    assert TRUE in text
    assert "scores its sleeve" not in text.partition('"ragstone"')[0]
    assert second.asked[-1]["messages"] == made[1].asked[-1]["messages"]
    assert pair.shadow is not None
    assert (pair.answer.service.split("/")[0], pair.shadow.service) == ("speaker", "llm/v2")
    assert (pair.answer.basis, pair.shadow.basis, pair.same) == ("generated", "generated", False)
    assert 0.5 < pair.alike < 1
    assert 0 < pair.shadow.first <= pair.shadow.total


def test_what_is_kept_holds_nothing_that_was_asked_or_answered(shared: Origin, second: Speaker) -> None:
    second.reset(TRUE)
    pair_of(shared, PRIMED)
    kept = b"".join(shared.site.store.get(stat.key) for stat in shared.site.store.list("shadows/"))
    assert b"pump" not in kept


def test_a_shadow_whose_answer_the_evidence_does_not_carry_is_seen(shared: Origin, second: Speaker) -> None:
    second.reset(FALSE)
    _, pair = pair_of(shared, PRIMED)
    assert pair.shadow is not None
    assert (pair.answer.basis, pair.shadow.basis) == ("generated", "quoted")


def test_a_shadow_that_fails_costs_its_callers_nothing(shared: Origin, second: Speaker) -> None:
    second.reset()
    second.reply = lambda question: None
    text, pair = pair_of(shared, PRIMED)
    assert TRUE in text
    assert (pair.shadow, pair.fault) == (None, "generator_error")


def test_what_has_no_evidence_is_not_copied(shared: Origin, second: Speaker) -> None:
    second.reset(TRUE)
    pair_of(shared, PRIMED)
    assert shared.chat(FOREIGN).json["ragstone"]["abstained"]
    pair_of(shared, PRIMED)
    assert PRIMED in str(second.asked)
    assert FOREIGN not in str(second.asked)


def test_a_shadow_that_is_not_there_leaves_the_origin_as_it_is(made: tuple[Site, Speaker], caplog: pytest.LogCaptureFixture) -> None:
    at = replace(made[0], settings=override(made[0].settings, "serve", shadow="v9"))
    with running(at) as origin:
        assert TRUE in origin.chat(PRIMED).data.decode()
        until(lambda: "serve.shadow = v9 can't be started" in caplog.text)


def test_the_command_tells_how_they_compare(shared: Origin, monkeypatch: pytest.MonkeyPatch, second: Speaker) -> None:
    monkeypatch.chdir(shared.site.settings.folder)
    second.reset(TRUE)
    pair_of(shared, PRIMED)
    told = CliRunner().invoke(app, ["service", "compare", "v2"], catch_exceptions=False).output
    assert "verdict    too few questions to tell" in told


def pairs(count: int, basis: str = "generated", total: float = 1.0, failed: int = 0) -> list[Pair]:
    answer, other = Said("llm/v1", 0.5, 1.0, "generated", 20), Said("llm/v2", 0.5, total, basis, 20)
    good = [Pair("r-1", 0.0, answer, other, "", True, 1.0) for _ in range(count - failed)]
    return good + [Pair("r-1", 0.0, answer, None, "generator_error") for _ in range(failed)]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (pairs(ENOUGH), "ready"),
        (pairs(ENOUGH - 1), f"too few questions to tell: {ENOUGH - 1} of {ENOUGH}"),
        (pairs(60) + pairs(20, "quoted"), "not ready: its answers may be grounded less often"),
        (pairs(ENOUGH, total=2.0), "not ready: it takes 2.0 times as long"),
        (pairs(100, failed=1), "not ready: it failed 1 times"),
        ([], "too few"),
    ],
)
def test_the_verdict_is_what_the_questions_say(found: list[Pair], verdict: str) -> None:
    assert compare(found).verdict.startswith(verdict)
