"""The console in a real Chromium before a real edge and origin: each screen's task by keyboard, and what could break it."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, Route, expect

from ragstone import access, config, distribution, release
from ragstone import runs as runs_of
from ragstone import store as stores
from ragstone.api.console import BUILT
from ragstone.config import Corpus
from ragstone.corpus import Document, snapshot
from ragstone.corpus.chunk import chunk
from ragstone.edge.local import Edge
from ragstone.embedder import digest
from ragstone.evaluate import Change, Verdict
from ragstone.listen import bind
from ragstone.show import Silence
from ragstone.store import publish
from tests import browser, built, office, proxy
from tests.origins import Origin, Site, running, site, until
from tests.packages import packages
from tests.speaker import Speaker
from tests.tiny import tiny
from tests.topics import flood

HOSTILE = """# <img src=x onerror="window.owned=1"> Relief valve

The relief valve <img src=x onerror="window.owned=1"><script>window.owned=1</script> opens at 6 bar. [x](javascript:window.owned=1)
"""
PRINTED = office.pdf(("Lubrication", "Oil is drawn off each spring."), ("Bearings", "The thrust bearing takes four litres of turbine oil."))
TRUE = "Prime the feed pump for ninety seconds before it is started."
PRIMED = "How long is the feed pump primed?"
POLICY = ("Content Security Policy", "Trusted")
"""What Chromium says of a page that broke its own policy."""
LIMIT = 300_000
"""Bytes of script, at most."""
FIRST = 50_000
"""Bytes of the script that the first screen waits for."""
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
    bound = bind("127.0.0.1", 0)
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
def shared(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("console")
    (folder / "docs").mkdir()
    (folder / "docs" / "hostile.md").write_text(HOSTILE)
    (folder / "docs" / "broken.pdf").write_bytes(b"this is no PDF")
    (folder / "docs" / "lubrication.pdf").write_bytes(PRINTED)
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
    context = chromium.new_context(viewport={"width": 1080, "height": 700})
    opened = context.new_page()
    opened.set_default_timeout(browser.PATIENCE)
    opened.add_init_script(browser.NAMED)
    broken: list[str] = []
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.on("console", lambda said: broken.append(said.text) if any(word in said.text for word in POLICY) else None)
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


def go(page: Page, screen: str) -> None:
    """To another screen, until it is there: what is typed and looked for is then its own."""
    browser.tab(page, page.get_by_role("link", name=screen))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=screen, level=1)).to_be_focused()


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=PICTURES / f"console-{name}.png")


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


@contextmanager
def held(page: Page) -> Iterator[None]:
    """Inside, the page's scripts are on their way; afterwards they come."""
    waiting: list[Route] = []
    page.route("**/console/console-*.js", lambda route: waiting.append(route))
    yield
    for route in waiting:
        route.continue_()


MOVED = """new PerformanceObserver((list) => list.getEntries().forEach((one) => (window.moved += one.value)))
  .observe({ type: "layout-shift", buffered: true }), (window.moved = 0)"""

SHAPE = """(parts) => [...document.querySelectorAll(parts)].map((one) =>
  [one.textContent.replace(/\\s+/g, " ").trim(), one.ariaCurrent, JSON.stringify(one.getBoundingClientRect())])"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_sign_in_is_there_before_the_script_and_keeps_what_was_typed(page: Page, place: Place, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.add_init_script(MOVED)
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
        page.add_init_script(MOVED)
        with held(page):
            page.reload(wait_until="commit")
            expect(page.get_by_role("heading", name=screen, level=1)).to_be_visible()
            assert not browser.barriers(page)
            before = shape(page)
        expect(page).to_have_title(f"{screen} · Ragstone")
        assert shape(page) == before
        assert page.evaluate("() => window.moved") == 0
        page.get_by_role("button", name="Sign out").press("Enter")


def shape(page: Page) -> list[Any]:
    """What stands where: the frame's parts, their words, and which link is the current one."""
    told = page.evaluate(SHAPE, ".brand, nav a, .who, h1, .signin label, .signin p.quiet")
    return list(told)


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
    browser.reach(page, "Source 1")
    page.keyboard.press("Enter")
    expect(page.locator("dialog mark")).to_contain_text(TRUE)
    expect(page.locator("dialog")).to_contain_text("The feed pump moves condensate")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_a_passage_of_a_pdf_stands_beside_its_page(page: Page, place: Place, speaker: Speaker) -> None:
    speaker.reset("The thrust bearing takes four litres of turbine oil.")
    enter(page, place)
    ask(page, "How many litres of turbine oil does the thrust bearing take?")
    page.locator(".citations button").first.press("Enter")
    expect(page.locator("dialog mark")).to_contain_text("four litres")
    image = page.get_by_role("img", name="The page on which the passage begins")
    expect(image).to_be_visible()
    expect(image).to_have_js_property("naturalWidth", 1000)
    assert not browser.barriers(page)
    picture(page, "page")


def test_the_cache_says_when_it_answered(page: Page, place: Place) -> None:
    enter(page, place)
    for state in ("miss", "hit"):
        ask(page, "Which torque has the bonnet of the isolation valve?")
        expect(page.locator(".footing").last).to_contain_text(f"cache: {state}")
        page.get_by_role("button", name="New conversation").press("Enter")


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
    assert [(one["verdict"], one["consent"], one["question"]) for one in said] == [("up", False, "")]


def test_what_breaks_off_is_said(page: Page, place: Place, speaker: Speaker) -> None:
    speaker.dies_after = 10
    enter(page, place)
    ask(page, "How many drops may leak from the seal of the feed pump in a minute?")
    expect(page.locator(".turn").get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()


def test_hostile_text_stays_text(page: Page, place: Place, speaker: Speaker) -> None:
    speaker.reset('The relief valve <img src=x onerror="window.owned=1"> opens at 6 bar.')
    enter(page, place)
    ask(page, "At how many bar does the relief valve open?")
    expect(page.locator(".answer")).to_contain_text("opens at 6 bar")
    page.locator(".citations button").first.press("Enter")
    expect(page.locator("dialog mark")).to_contain_text("<script>")
    page.keyboard.press("Escape")
    go(page, "Documents")
    expect(page.get_by_role("button", name="Relief valve")).to_be_visible()
    page.get_by_role("button", name="Relief valve").press("Enter")
    expect(page.locator("dialog .chunk").first).to_be_visible()
    page.keyboard.press("Escape")
    go(page, "Retrieval test")
    browser.reach(page, "Question")
    page.keyboard.type("At how many bar does the relief valve open?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Hits, best first")).to_contain_text("<script>window.owned=1</script>")
    assert page.evaluate("() => window.owned") is None
    assert page.locator("main img:not([alt]), dialog img, a[href^=javascript]").count() == 0


# ---- retrieval test and releases


def test_what_was_tested_is_what_is_served(page: Page, place: Place) -> None:
    enter(page, place, "retrieve")
    before = place.origin.release
    browser.reach(page, "Question")
    page.keyboard.type(PRIMED)
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Hits, best first")).to_contain_text("An answer rests on it")
    browser.reach(page, "top_k")
    page.keyboard.press("Home")
    browser.reach(page, "Threshold")
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_text("reach 0.03; an answer would rest on 1.")).to_be_visible()
    expect(page.get_by_role("region", name="Relevant and irrelevant passages")).to_contain_text("Relevant: none.")
    assert not browser.barriers(page)
    picture(page, "retrieve")
    browser.reach(page, "Save as release candidate")
    page.keyboard.press("Enter")
    expect(page.get_by_text("It is not in force")).to_be_visible()
    candidate = page.get_by_text("It is not in force").locator("code").first.inner_text()
    assert place.origin.release == before
    found = place.origin.request("POST", "/v1/retrieve", {"query": PRIMED, "model": candidate}).json
    assert (found["threshold"], len(found["data"])) == (0.03, 1)

    browser.reach(page, "promote it")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Releases", level=1)).to_be_visible()
    browser.choose(page, page.get_by_label("To", exact=True), candidate)
    expect(page.get_by_role("region", name="What differs")).to_contain_text("similarity_threshold 0.03")
    assert not browser.barriers(page)
    picture(page, "releases")
    browser.tab(page, page.get_by_role("row", name=candidate).first.get_by_role("button", name="Promote"))
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="In force")).to_contain_text(candidate)
    until(lambda: place.origin.release == candidate)
    browser.reach(page, "Roll back")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator(".timeline li").first).to_contain_text("rolled back to record")
    until(lambda: place.origin.release == before)


def test_a_promotion_that_another_one_overtook_changes_nothing(page: Page, place: Place) -> None:
    store, before = place.site.store, place.origin.release
    other = release.save(store, replace(release.load(store, before), prompt=release.load(store, before).prompt + " "))
    enter(page, place, "releases")
    expect(page.get_by_role("heading", name="All releases")).to_be_visible()
    release.promote(store, "production", other)
    until(lambda: place.origin.release == other)
    try:
        page.get_by_role("button", name="Promote").first.press("Enter")
        page.get_by_role("button", name="Yes").press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("another promotion")
        assert release.history(store, "production")[-1].release == other
    finally:
        release.promote(store, "production", before)
        until(lambda: place.origin.release == before)


# ---- documents


def test_a_document_shows_its_chunks_and_a_broken_file_its_reason(page: Page, place: Place) -> None:
    enter(page, place, "documents")
    browser.reach(page, "Path or title holds")
    page.keyboard.type("pump")
    expect(page.get_by_role("status")).to_have_text("1 to 1 of 1")
    expect(page.get_by_role("region", name="Files that could not be read")).to_contain_text("broken.pdf")
    browser.reach(page, "Feed pump")
    page.keyboard.press("Enter")
    expect(page.locator("dialog .chunk").first).to_be_visible()
    assert not browser.barriers(page)
    picture(page, "documents")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def big(at: Site, count: int, work: Path) -> str:
    """The digest of a snapshot of so many short documents."""
    documents = [Document(f"notes/{row:05d}.txt", f"{row:064x}", f"Note {row}", f"Note {row} says nothing.") for row in range(count)]
    chunks = [passage for document in documents for passage in chunk(document, Corpus().chunk_words)]
    for name, values in (("documents", documents), ("chunks", chunks), ("failures", list[Document]())):
        (work / f"{name}.jsonl").write_text("".join(f"{json.dumps(asdict(value))}\n" for value in values))
    publish(at.store, snapshot.prefix("b" * 64), work)
    return "b" * 64


def test_ten_thousand_documents_come_page_by_page(page: Page, place: Place, tmp_path: Path) -> None:
    store, before = place.site.store, place.origin.release
    many = release.save(store, replace(release.load(store, before), snapshot=big(place.site, 10_000, tmp_path)))
    release.promote(store, "production", many)
    until(lambda: place.origin.release == many)
    try:
        enter(page, place, "documents")
        expect(page.get_by_role("status")).to_have_text("1 to 50 of 10,000")
        assert page.get_by_role("row").count() == 51
        browser.reach(page, "Next page", most=140)
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("51 to 100 of 10,000")
        page.get_by_label("Path or title holds").fill("09999")
        expect(page.get_by_role("status")).to_have_text("1 to 1 of 1")
    finally:
        release.promote(store, "production", before)
        until(lambda: place.origin.release == before)


@pytest.fixture
def own(speaker: Speaker, tmp_path: Path) -> Iterator[Place]:
    """A place that a test may change for good."""
    (tmp_path / "docs").mkdir()
    with running(site(tmp_path, speaker.url)) as origin, edged(origin.site, origin.url) as url:
        yield Place(url, origin, administrator(origin.site))


def test_a_document_is_forgotten_once_one_has_seen_what_that_removes(page: Page, own: Place) -> None:
    before = own.origin.release
    enter(page, own, "documents")
    browser.reach(page, "Forget pump.md")
    page.keyboard.press("Enter")
    told = page.get_by_role("region", name="Forgetting")
    expect(told).to_contain_text("What forgetting pump.md would remove")
    expect(told).to_contain_text("pump.md lies in the source folder")
    assert own.origin.release == before
    assert not browser.barriers(page)
    picture(page, "forget")
    browser.reach(page, "Forget it for good")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(told).to_contain_text("Forgotten: pump.md", timeout=3 * browser.PATIENCE)
    until(lambda: own.origin.release != before)
    expect(page.get_by_role("button", name="Forget valve.md")).to_be_visible()
    found = own.origin.request("POST", "/v1/retrieve", {"query": PRIMED}).json["data"]
    assert "pump.md" not in {hit["document"] for hit in found}
    assert own.origin.request("POST", "/v1/documents", {"document": "pump.md"}).status == 404


def test_a_sync_shows_at_which_file_it_is_and_what_could_not_be_read(page: Page, place: Place) -> None:
    enter(page, place, "documents")
    sync = page.get_by_role("region", name="Sync")
    expect(sync.get_by_role("button", name="Sync now")).to_be_visible()
    with runs_of.kept(place.site.settings.work_folder, "build", Silence()) as (show, ended), show.bar("parse", 10_000) as advance:
        advance(4_000, 10_000, "plans/<b>hall.pdf")
        expect(sync).to_contain_text("reading files, 4,000 of 10,000")
        expect(sync).to_contain_text("At plans/<b>hall.pdf")
        show.failed("plans/torn.pdf", "is no PDF <img src=x onerror=window.owned=1>")
        advance(4_001, 10_000, "plans/roof.pdf")
        expect(sync.get_by_role("region", name="Could not be read so far")).to_contain_text("plans/torn.pdf")
        expect(sync).to_contain_text("plans/roof.pdf")
        assert page.evaluate("() => window.owned") is None
        assert sync.get_by_role("button", name="Sync now").count() == 0
        assert not browser.barriers(page)
        picture(page, "sync")
        ended.result = {"release": place.origin.release, "documents": 9_999, "chunks": 12_345, "failed": 1}
    expect(sync).to_contain_text("9,999 documents, 12,345 passages, one file")


def test_sync_now_brings_in_what_changed_in_the_folder(page: Page, own: Place) -> None:
    (own.site.docs / "turbine.md").write_text("# Turbine\n\nThe turbine turns at 3000 revolutions.\n")
    (own.site.docs / "torn.pdf").write_bytes(b"this is no PDF")
    (own.site.docs / "valve.md").unlink()
    enter(page, own, "documents")
    browser.reach(page, "Sync now")
    page.keyboard.press("Enter")
    expect(page.get_by_role("group", name="Read ")).to_contain_text(own.site.settings.project.source)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Turbine", exact=True)).to_be_visible(timeout=3 * browser.PATIENCE)
    expect(page.get_by_role("region", name="Files that could not be read")).to_contain_text("torn.pdf")
    expect(page.get_by_role("region", name="Sync")).to_contain_text("one file that could not be read")
    assert page.get_by_role("button", name="Forget valve.md").count() == 0


def test_a_sync_is_stopped_and_what_is_in_force_stays(page: Page, own: Place) -> None:
    before = own.origin.release
    flood(own.site.docs / "fresh")
    enter(page, own, "documents")
    browser.reach(page, "Sync now")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    under_way = page.get_by_role("region", name="Under way")
    expect(under_way.get_by_role("status")).to_contain_text(re.compile("reading files|indexing"))
    browser.reach(page, "Stop")
    page.keyboard.press("Enter")
    expect(under_way.get_by_role("group", name="What is in force stays")).to_be_visible()
    assert not browser.barriers(page)
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Sync")).to_contain_text("was stopped")
    expect(page.get_by_role("button", name="Sync now")).to_be_visible()
    assert own.origin.release == before


# ---- canaries


def test_a_release_is_tried_on_some_conversations_and_withdrawn(page: Page, place: Place) -> None:
    store, before = place.site.store, place.origin.release
    other = release.save(store, replace(release.load(store, before), prompt=release.load(store, before).prompt + "  "))
    enter(page, place, "releases")
    browser.tab(page, page.get_by_role("row", name=other).get_by_role("button", name="Try on some"))
    page.keyboard.press("Enter")
    expect(page.get_by_label("Share in per cent")).to_be_focused()
    page.keyboard.press("End")
    expect(page.get_by_label("Share, as a number")).to_have_value("99")
    page.get_by_label("Share, as a number").fill("25")
    page.keyboard.press("Tab")
    assert not browser.barriers(page)
    picture(page, "canary")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="In force")).to_contain_text(f"25 % to {other}")
    until(lambda: place.origin.request("GET", "/v1/release").json["canary"] == {other: 25})
    browser.tab(page, page.get_by_role("row", name=other).get_by_role("button", name="Withdraw"))
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="In force")).not_to_contain_text(other)
    until(lambda: place.origin.request("GET", "/v1/release").json["canary"] == {})


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
