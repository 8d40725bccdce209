"""The page as it is kept, the sign-in, what is seen first, and what holds on every screen: a phone, a broken origin, no barrier."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from ragstone.api.console import BUILT
from tests import browser, built, proxy
from tests.console.place import PRIMED, Place, ask, edged, enter, go, picture
from tests.packages import packages

LIMIT = 300_000
"""Bytes of script, at most."""
FIRST = 50_000
"""Bytes of the script that the first screen waits for."""


# ---- what is kept in the package


def test_the_page_in_the_package_is_what_its_source_builds(tmp_path: Path) -> None:
    built.build(packages(built.SOURCE / "package.json", "the console's build"), tmp_path / "new")
    fresh = {file.name: file.read_bytes() for file in (tmp_path / "new").iterdir()}
    assert fresh == {file.name: file.read_bytes() for file in BUILT.iterdir()}, "python -m tests.built"


def test_the_source_has_no_type_errors() -> None:
    installed = packages(built.SOURCE / "package.json", "the console's build")
    with built.workshop(installed) as folder:
        done = built.tool(folder, installed, "typescript/bin/tsc", "-p", ".")
    assert done.returncode == 0, done.stdout
    assert not [file.name for file in (built.SOURCE / "src").iterdir() if re.search(r"(:|as|<)\s*any\b", file.read_text())]


def test_the_page_runs_what_was_built_and_is_small(place: Place) -> None:
    page = place.origin.request("GET", "/console", token="")
    policy = page.headers["content-security-policy"]
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert sum(script.stat().st_size for script in BUILT.glob("*.js")) < LIMIT
    (first,) = re.findall(r'src="(.*?)"', page.data.decode())
    assert len(place.origin.request("GET", first, token="").data) < FIRST


def test_browsers_keep_scripts_for_good_and_ask_for_the_page_again(place: Place) -> None:
    for url in (place.url, place.origin.url):
        served = replace(place.origin, url=url, token="")
        page = served.request("GET", "/console")
        assert page.headers["cache-control"] == "no-cache"
        assert (served.request("GET", "/console", if_none_match=page.headers["etag"]).status) == 304
        for script in BUILT.glob("*.js"):
            reply = served.request("GET", f"/console/{script.name}")
            assert (reply.data, reply.headers["cache-control"]) == (script.read_bytes(), "public, max-age=31536000, immutable")


NOT_SERVED = ("console-00000000.js", "licenses.md", "index.html", "../pyproject.toml", "..%2fapi%2fapp.py", "%2e%2e/console-00000000.js")


@pytest.mark.parametrize("name", NOT_SERVED)
def test_nothing_but_the_page_and_its_scripts_is_served(place: Place, name: str) -> None:
    for url in (place.url, place.origin.url):
        assert replace(place.origin, url=url).request("GET", f"/console/{name}", token="").status == 404


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


def test_the_edge_itself_refuses_administration_without_the_right(place: Place) -> None:
    edge = replace(place.origin, url=place.url)
    for path in ("/admin/releases", "/admin/edge"):
        assert edge.request("GET", path).status == 403
        assert edge.request("GET", path, token="").status == 401
        assert edge.request("GET", path, token=place.token).status == 200
    assert edge.request("GET", "/admin/keys", token=place.token).status == 404
    listed = edge.request("GET", "/admin/releases", token=place.token)
    assert listed.headers["x-ragstone-cache"] == "bypass"


def test_the_key_stays_in_its_tab_until_one_signs_out(page: Page, place: Place) -> None:
    enter(page, place)
    page.reload()
    expect(page.get_by_role("heading", name="Ask")).to_be_visible()
    assert page.evaluate("() => localStorage.length + document.cookie.length") == 0
    browser.reach(page, "Sign out")
    page.keyboard.press("Enter")
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("() => sessionStorage.length") == 0


def test_a_key_that_works_no_longer_leads_back_to_the_sign_in(page: Page, place: Place) -> None:
    enter(page, place)
    page.evaluate("() => sessionStorage.setItem('ragstone.key', 'revoked')")
    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("() => sessionStorage.length") == 0


FIRST_SCRIPT = "**/console/console-*.js"


@contextmanager
def held(page: Page) -> Iterator[None]:
    """Inside, the page's scripts are on their way; afterwards they come."""
    waiting: list[Route] = []
    page.route(FIRST_SCRIPT, lambda route: waiting.append(route))
    yield
    for route in waiting:
        route.continue_()
    page.unroute(FIRST_SCRIPT)


SHAPE = """(parts) => [...document.querySelectorAll(parts)].map((one) =>
  [one.textContent.replace(/\\s+/g, " ").trim(), one.ariaCurrent, JSON.stringify(one.getBoundingClientRect())])"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_sign_in_is_there_before_the_script_and_keeps_what_was_typed(page: Page, place: Place, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    with held(page):
        page.goto(f"{place.url}/console", wait_until="commit")
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type(place.token[:9])
        assert not browser.barriers(page)
        before = shape(page)
    expect(page).to_have_title("Sign in · Ragstone")
    assert shape(page) == before
    page.keyboard.type(place.token[9:])
    page.keyboard.press("Enter")
    expect(page.get_by_role("navigation", name="Screens")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_frame_is_there_before_the_script_and_does_not_move(page: Page, place: Place, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    for token, screen in ((place.token, "Releases"), (place.origin.token, "Ask")):
        enter(page, place, "releases", token=token)
        with held(page):
            page.reload(wait_until="commit")
            expect(page.get_by_role("heading", name=screen, level=1)).to_be_visible()
            assert not browser.barriers(page)
            before = shape(page)
        expect(page).to_have_title(f"{screen} · Ragstone")
        assert shape(page) == before
        page.get_by_role("button", name="Sign out").press("Enter")


def test_who_signs_out_before_the_key_is_confirmed_is_out(page: Page, place: Place) -> None:
    enter(page, place)
    waiting: list[Route] = []
    page.route("**/v1/key", lambda route: waiting.append(route))
    with page.expect_request("**/v1/key"):
        page.reload()
    page.get_by_role("button", name="Sign out").press("Enter")
    expect(page.get_by_label("API key")).to_be_focused()
    with page.expect_response("**/v1/key"):
        waiting[0].continue_()
    page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("() => sessionStorage.length") == 0


def shape(page: Page) -> list[Any]:
    """What stands where: the frame's parts, their words, and which link is the current one."""
    told = page.evaluate(SHAPE, ".brand, nav a, .who, h1, .signin label, .signin p.quiet")
    return list(told)


# ---- everywhere


SCREENS = ("Ask", "Retrieval test", "Releases", "Documents", "Models", "Evaluation", "Serving and edge")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_screen_fits_a_phone_and_has_no_barrier(chromium: Browser, place: Place, scheme: Any) -> None:
    context = chromium.new_context(viewport={"width": 375, "height": 700}, color_scheme=scheme, has_touch=True)
    try:
        page = context.new_page()
        enter(page, place, "serving")
        for name in SCREENS:
            go(page, name)
            expect(page.get_by_role("heading", name=name, level=1)).to_be_focused()
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 375, name
            assert not browser.barriers(page), name
    finally:
        context.close()


def test_an_origin_that_is_down_is_said_and_asked_again(page: Page, place: Place) -> None:
    down = threading.Event()
    fails = lambda number, call: proxy.REFUSED if down.is_set() and "/v1/release" not in call else ""  # noqa: E731
    with proxy.before(place.origin.url, fails) as between, edged(place.site, between.endpoint) as url:
        enter(page, place, "serving", url=url)
        expect(page.get_by_role("region", name="Replicas")).to_be_visible()
        down.set()
        for name in ("Releases", "Documents", "Models", "Evaluation", "Serving and edge"):
            go(page, name)
            expect(page.get_by_role("alert")).to_contain_text("the origin")
        go(page, "Ask")
        ask(page, PRIMED)
        expect(page.locator(".turn").get_by_role("alert")).to_contain_text("the origin")
        go(page, "Retrieval test")
        browser.reach(page, "Question")
        page.keyboard.type(PRIMED)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("the origin")
        go(page, "Documents")
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
        down.clear()
        browser.reach(page, "Try again")
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Documents").first).to_be_visible()


def test_a_part_of_the_page_that_cannot_be_had_is_said_and_asked_again(page: Page, place: Place) -> None:
    page.route("**/console/administration-*.js", lambda route: route.fulfill(status=404))
    enter(page, place, "releases")
    expect(page.get_by_role("alert")).to_contain_text("newer than the page")
    expect(page.get_by_role("heading", name="Releases", level=1)).to_be_visible()
    page.unroute_all()
    browser.reach(page, "Try again")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="All releases")).to_be_visible()
