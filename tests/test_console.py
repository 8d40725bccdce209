"""The console in a real Chromium before a real edge and origin: each screen's task by keyboard, and what could break it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from ragstone import access, config, release
from ragstone.api.console import BUILT
from ragstone.config import Corpus
from ragstone.corpus import Chunk, Document, snapshot
from ragstone.edge.local import Edge
from ragstone.evaluate import Change, Verdict
from ragstone.listen import _bind
from tests import browser, built, proxy
from tests.origins import Origin, Site, running, site, until
from tests.speaker import Speaker, speaking

HOSTILE = """# <img src=x onerror="window.owned=1"> Relief valve

The relief valve <img src=x onerror="window.owned=1"><script>window.owned=1</script> opens at 6 bar. [x](javascript:window.owned=1)
"""
TRUE = "Prime the feed pump for ninety seconds before it is started."
PRIMED = "How long is the feed pump primed?"
LIMIT = 300_000
"""Bytes of script, at most."""
PICTURES = Path(os.environ["RAGSTONE_TEST_PICTURES"]) if os.environ.get("RAGSTONE_TEST_PICTURES") else None
"""A folder for the docs' pictures; without it none are made."""


@dataclass(frozen=True)
class Place:
    """An edge, the origin behind it, and an administrator's key."""

    url: str
    origin: Origin
    token: str

    @property
    def site(self) -> Site:
        return self.origin.site


def administrator(at: Site) -> str:
    groups = ("managers", "public")
    return access.create(at.settings.keys_folder, at.store, tenant="local", groups=groups, rpm=10**6, tpm=10**9, expires=0, admin=True)[0]


@contextmanager
def edged(at: Site, origin: str) -> Iterator[str]:
    """The URL of an edge before an origin, in a thread of this process."""
    bound = _bind("127.0.0.1", 0)
    settings = config.override(at.settings, "edge", origin=origin, release_check=0.2)
    server = uvicorn.Server(uvicorn.Config(Edge(settings), lifespan="on", log_level="warning", access_log=False))
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the edge did not stop"


@pytest.fixture(scope="module")
def speaker() -> Iterator[Speaker]:
    with speaking() as made:
        yield made


@pytest.fixture(scope="module")
def shared(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("console")
    (folder / "docs").mkdir()
    (folder / "docs" / "hostile.md").write_text(HOSTILE)
    (folder / "docs" / "broken.pdf").write_bytes(b"this is no PDF")
    made = site(folder, speaker.url)
    with running(made) as origin, edged(made, origin.url) as url:
        yield Place(url, origin, administrator(made))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.running() as made:
        yield made


@pytest.fixture
def place(shared: Place, speaker: Speaker) -> Place:
    speaker.reset(TRUE)
    return shared


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page that ends the test when the browser's console says that something broke or was refused by the page's policy."""
    context = chromium.new_context(viewport={"width": 1200, "height": 820})
    opened = context.new_page()
    opened.set_default_timeout(browser.PATIENCE)
    opened.add_init_script(browser.NAMED)
    broken: list[str] = []
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.on("console", lambda said: broken.append(said.text) if "Content Security Policy" in said.text or "Trusted" in said.text else None)
    yield opened
    context.close()
    assert not broken


def enter(page: Page, place: Place, screen: str = "ask", token: str = "", url: str = "") -> None:
    """Sign in by keyboard, then go to the screen."""
    page.goto(f"{url or place.url}/console#/{screen}")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(token or place.token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("navigation", name="Screens")).to_be_visible()


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=PICTURES / f"console-{name}.png")


# ---- what is kept in the package


def test_the_page_in_the_package_is_what_its_source_builds(tmp_path: Path) -> None:
    built.build(built.packages(), tmp_path / "new")
    fresh = {file.name: file.read_bytes() for file in (tmp_path / "new").iterdir()}
    assert fresh == {file.name: file.read_bytes() for file in BUILT.iterdir()}, "python -m tests.built"


def test_the_source_has_no_type_errors() -> None:
    installed = built.packages()
    with built.workshop(installed) as folder:
        done = built.tool(folder, installed, "typescript/bin/tsc", "-p", ".")
    assert done.returncode == 0, done.stdout
    assert not [file.name for file in (built.SOURCE / "src").iterdir() if any(word in file.read_text() for word in (": any", "as any", "<any"))]


def test_the_script_is_small_and_asks_for_nothing_elsewhere(place: Place) -> None:
    reply = place.origin.request("GET", "/console", token="")
    assert "script-src 'self'" in reply.headers["content-security-policy"]
    assert "<script>" not in reply.data.decode()
    assert len(place.origin.request("GET", "/console/console.js", token="").data) < LIMIT
    assert place.origin.request("GET", "/console/../pyproject.toml", token="").status == 404
    again = place.origin.request("GET", "/console", token="", if_none_match=reply.headers["etag"])
    assert (again.status, again.data) == (304, b"")


# ---- sign-in


def test_a_key_that_is_none_is_refused_and_not_kept(page: Page, place: Place) -> None:
    page.goto(f"{place.url}/console")
    page.get_by_label("API key").fill("nonsense")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("malformed")
    assert page.evaluate("() => sessionStorage.length + localStorage.length") == 0
    assert not browser.barriers(page)
    picture(page, "sign-in")


def test_a_key_without_administration_sees_ask_alone(page: Page, place: Place) -> None:
    enter(page, place, "releases", token=place.origin.token)
    expect(page.get_by_role("link", name="Ask")).to_be_visible()
    expect(page.get_by_role("heading", name="Ask")).to_be_visible()
    assert page.get_by_role("link", name="Releases").count() == 0


def test_the_key_stays_in_its_tab_until_one_signs_out(page: Page, place: Place) -> None:
    enter(page, place)
    page.reload()
    expect(page.get_by_role("heading", name="Ask")).to_be_visible()
    assert page.evaluate("() => localStorage.length + document.cookie.length") == 0
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("() => sessionStorage.length") == 0


# ---- ask


def ask(page: Page, question: str) -> None:
    page.get_by_label("Your question").focus()
    page.keyboard.type(question)
    page.keyboard.press("Enter")


def test_an_answer_comes_with_its_source_marked_in_its_document(page: Page, place: Place) -> None:
    enter(page, place)
    ask(page, PRIMED)
    expect(page.locator(".answer")).to_contain_text(TRUE)
    expect(page.locator(".footing")).to_contain_text(place.origin.release)
    expect(page.locator(".footing")).to_contain_text("cache: miss")
    page.get_by_label("Your question").focus()
    assert not browser.barriers(page)
    picture(page, "ask")
    browser.reach(page, "1")
    page.keyboard.press("Enter")
    expect(page.locator("dialog mark")).to_contain_text(TRUE)
    expect(page.locator("dialog")).to_contain_text("The feed pump moves condensate")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_the_cache_says_when_it_answered(page: Page, place: Place) -> None:
    enter(page, place)
    for state in ("miss", "hit"):
        ask(page, "Which torque has the bonnet of the isolation valve?")
        expect(page.locator(".footing").last).to_contain_text(f"cache: {state}")
        page.get_by_role("button", name="New conversation").click()


def test_an_abstention_says_why(page: Page, place: Place) -> None:
    enter(page, place)
    ask(page, "Who won the football world cup?")
    expect(page.locator(".why")).to_contain_text("0.75 is needed")
    assert page.get_by_role("group", name="Was this right?").count() == 0


def test_a_question_that_leans_on_the_last_shows_what_was_searched_for(page: Page, place: Place) -> None:
    enter(page, place)
    ask(page, "What does the feed pump do?")
    expect(page.locator(".footing")).to_have_count(1)
    ask(page, "How long is it primed?")
    expect(page.get_by_text("Searched for: How long is it primed?")).to_contain_text("feed pump")


def test_a_thumb_is_kept_with_the_question_only_where_one_consents(page: Page, place: Place) -> None:
    enter(page, place)
    ask(page, PRIMED)
    page.get_by_role("button", name="Right").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("status").filter(has_text="without your question")).to_be_visible()
    said = [json.loads(line) for stat in place.site.store.list("feedback/") for line in place.site.store.get(stat.key).splitlines()]
    assert [(one["thumb"], one["consent"], "question" in one) for one in said] == [("up", False, False)]


def test_what_breaks_off_is_said(page: Page, place: Place, speaker: Speaker) -> None:
    speaker.dies_after = 10
    enter(page, place)
    ask(page, "How many drops may leak from the seal of the feed pump in a minute?")
    expect(page.locator(".turn").get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()


def test_hostile_text_stays_text(page: Page, place: Place, speaker: Speaker) -> None:
    speaker.reset("The relief valve <img src=x onerror=\"window.owned=1\"> opens at 6 bar.")
    enter(page, place)
    ask(page, "At how many bar does the relief valve open?")
    expect(page.locator(".answer")).to_contain_text("opens at 6 bar")
    page.locator(".citations button").first.click()
    expect(page.locator("dialog mark")).to_contain_text("<script>")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Documents").click()
    expect(page.get_by_role("button", name="Relief valve")).to_be_visible()
    page.get_by_role("button", name="Relief valve").click()
    expect(page.locator("dialog .chunk").first).to_be_visible()
    assert page.evaluate("() => window.owned") is None
    assert page.locator("main img, dialog img, a[href^=javascript]").count() == 0
