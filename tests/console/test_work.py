"""Evaluation, models and serving in a real Chromium: what takes long is begun, watched and stopped by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ragstone import config, distribution, release
from ragstone import store as stores
from ragstone.embedder import digest
from ragstone.evaluate import Change, Verdict
from tests import browser
from tests.console.place import PRIMED, Place, administrator, enter, picture
from tests.origins import Origin, Site, running, site, until
from tests.speaker import Speaker
from tests.tiny import tiny

# ---- evaluation


def test_two_releases_are_examined_side_by_side_on_a_file_of_questions(page: Page, place: Place, tmp_path: Path) -> None:
    store, before = place.site.store, place.origin.release
    parent = release.load(store, before)
    other = release.save(store, replace(parent, retrieval={**parent.retrieval, "similarity_threshold": 0.99}))
    asked = [PRIMED, 'What does <img src=x onerror="window.owned=1"> the feed pump move?']
    lines = [json.dumps({"question": question, "document": "pump.md"}) for question in asked]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    enter(page, place, "exam")
    browser.choose(page, page.get_by_label("Beside"), other)
    browser.open_file(page, "Questions, a .jsonl file", tmp_path / "questions.jsonl")
    browser.reach(page, "Evaluate")
    page.keyboard.press("Enter")
    figures = page.get_by_role("region", name="Figures")
    expect(figures.get_by_role("row", name="recall@10")).to_contain_text("1.000")
    expect(figures).to_contain_text(other)
    expect(page.get_by_role("region", name="Past evaluations")).to_contain_text("2 questions")
    browser.reach(page, "Question by question")
    page.keyboard.press("Enter")
    marks = page.get_by_role("region", name="Question by question")
    expect(marks).to_contain_text("rank 1")
    expect(marks).to_contain_text("<img src=x")
    assert page.evaluate("() => window.owned") is None
    assert not browser.barriers(page)
    picture(page, "evaluation")


# ---- models and serving


def test_a_verdict_shows_its_interval_and_its_questions(page: Page, place: Place) -> None:
    changes = (Change(PRIMED, "pump.md", 4, 1, 0.43, 1.0), Change("Which code?", "vault-of-others.md", 1, 2, 1.0, 0.63))
    verdict = Verdict(False, 0.61, 0.66, 0.05, -0.01, 0.11, questions=120, wins=30, losses=21, kind="labelled", changes=changes)
    curve = [{"step": step, "loss": 2.0 / step, "held_out": 2.2 / step} for step in range(1, 30)]
    kept: dict[str, Any] = {"verdict": asdict(verdict), "model": "", "curve": curve, "at": 1_790_000_000.0}
    place.site.store.create("verdicts/one.json", json.dumps(kept).encode())
    enter(page, place, "models")
    expect(page.get_by_role("heading", name="Refused")).to_be_visible()
    expect(page.get_by_text("30 better, 21 worse")).to_contain_text("+0.050 [−0.010, +0.110]")
    browser.reach(page, "The questions that changed most")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Questions that changed")).to_contain_text(PRIMED)
    assert "vault-of-others" not in page.content()
    expect(page.locator(".chart canvas")).to_be_visible()
    assert not browser.barriers(page)
    picture(page, "models")


TRAINED = """[train]
base = "{base}"
minutes = 5
batch = 2
[serve]
url = "{serve}"
"""


@pytest.fixture(scope="module")
def school(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A corpus that can be trained on, and a base that is small enough to be, in steps that are many enough to be watched."""
    folder = tmp_path_factory.mktemp("school")
    (folder / "docs").mkdir()
    for name, text in sorted(topics.items())[:40]:
        (folder / "docs" / f"{name}.txt").write_text(text)
    (folder / config.FILE).write_text(TRAINED.format(base=tiny(folder / "base"), serve=speaker.url))
    settings = config.load(folder, {})
    made = Site(settings, stores.connect(settings.store_url))
    made.build()
    with running(made) as origin:
        yield Place(origin.url, origin, administrator(made))


def test_a_training_run_is_begun_watched_and_stopped(page: Page, school: Place) -> None:
    enter(page, school, "models")
    browser.reach(page, "Start training")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Under way: training", timeout=10 * browser.PATIENCE)
    expect(page.get_by_role("img", name="Loss by step")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("left")
    assert not browser.barriers(page)
    picture(page, "training")
    browser.reach(page, "Stop")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Past training runs")).to_contain_text("when it was stopped")
    expect(page.get_by_role("button", name="Start training")).to_be_visible()


def test_a_map_shows_which_terms_moved_most(page: Page, school: Place) -> None:
    store, other = school.site.store, tiny(school.site.settings.folder / "other", seed=18)
    stores.publish(store, f"models/{digest(other)}", other)
    enter(page, school, "models")
    in_force = release.load(store, school.origin.release).model
    browser.choose(page, page.get_by_label("Before"), in_force)
    browser.choose(page, page.get_by_label("After"), digest(other))
    browser.reach(page, "Draw the map")
    page.keyboard.press("Enter")
    rows = page.get_by_role("region", name="Terms that moved most").get_by_role("row")
    expect(rows).to_have_count(21)
    moved = [float(rows.nth(at).get_by_role("cell").first.inner_text()) for at in range(1, 21)]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] > 0
    expect(page.get_by_role("img", name="terms before and after").locator("canvas")).to_be_visible()
    assert not browser.barriers(page)
    page.get_by_role("img", name="terms before and after").evaluate("(map) => map.scrollIntoView()")
    picture(page, "terms")


def test_a_threshold_shows_which_relevant_and_which_irrelevant_passages_pass_it(page: Page, school: Place) -> None:
    enter(page, school, "retrieve")
    browser.reach(page, "Question")
    page.keyboard.type("How are keyword arguments passed?")
    page.keyboard.press("Enter")
    parted = page.get_by_role("region", name="Relevant and irrelevant passages")
    expect(parted.get_by_role("img", name="Relevant and irrelevant passages").locator("canvas")).to_be_visible()
    expect(parted).to_contain_text("of 250 irrelevant ones pass")
    told = distribution.of(school.site.store, release.load(school.site.store, school.origin.release))
    assert told is not None
    browser.reach(page, "Threshold")
    for key, passing in (("Home", (len(told.relevant), 250)), ("End", (0, 0))):
        page.keyboard.press(key)
        expect(parted).to_contain_text(f"{passing[0]} of {len(told.relevant)} relevant passages and {passing[1]} of 250 irrelevant ones")
    assert not browser.barriers(page)
    for _ in range(25):
        page.keyboard.press("ArrowLeft")
    picture(page, "scores")


def test_an_origin_that_starts_again_still_knows_the_run(page: Page, school: Place) -> None:
    began = school.origin.request("POST", "/admin/training", {}, school.token).json
    until(lambda: [run["stage"] for run in runs(school.origin, school, "running")] != ["start"])
    with running(school.site) as again:
        enter(page, school, "models", url=again.url)
        expect(page.get_by_role("status")).to_contain_text("Under way")
        again.request("POST", "/admin/training/stop", {}, school.token)
        expect(page.get_by_role("button", name="Start training")).to_be_visible()
        assert runs(again, school, "stopped")[0]["pid"] == began["pid"]


def runs(at: Origin, school: Place, state: str) -> list[dict[str, Any]]:
    told = at.request("GET", "/admin/training", token=school.token).json["runs"]
    return [run for run in told if run["state"] == state]


def test_serving_is_live(page: Page, place: Place) -> None:
    enter(page, place, "serving")
    shares = page.get_by_role("region", name="Answers of the edge by cache state")
    expect(shares).to_be_visible()
    before = int(shares.get_by_role("row", name="miss").get_by_role("cell").nth(1).inner_text())
    question = {"model": "production", "messages": [{"role": "user", "content": "How hot is the drum of the boiler?"}]}
    replace(place.origin, url=place.url).request("POST", "/v1/chat/completions", question)
    expect(shares.get_by_role("row", name="miss").get_by_role("cell").nth(1)).to_have_text(str(before + 1))
    expect(page.get_by_role("region", name="Versions")).to_contain_text("speaker/")
    expect(page.get_by_role("region", name="Slowest answers")).to_contain_text("acme")
    expect(page.get_by_role("region", name="Limits by tenant")).to_contain_text("of 1,000,000")
    assert not browser.barriers(page)
    picture(page, "serving")


def test_each_replica_shows_what_it_takes_of_the_cpu_and_a_service_elsewhere_says_nothing(
    page: Page, place: Place, speaker: Speaker, tmp_path: Path
) -> None:
    enter(page, place, "serving")
    expect(page.get_by_role("region", name="Replicas").get_by_role("row").nth(1)).to_contain_text("not told")
    (tmp_path / "docs").mkdir()
    with running(site(tmp_path, "local://smollm2", threads=1, slots=1)) as origin:
        enter(page, Place(origin.url, origin, administrator(origin.site)), "serving")
        row = page.get_by_role("region", name="Replicas").get_by_role("row").nth(1)
        expect(row).to_contain_text(re.compile(r"smollm2/\w+process \d+\d+ %00$"))
