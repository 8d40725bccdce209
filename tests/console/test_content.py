"""Ask, the retrieval test, releases and documents in a real Chromium: each screen's task by keyboard, and hostile text."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

from playwright.sync_api import Page, expect

from ragstone import release
from ragstone import runs as runs_of
from ragstone.config import Corpus
from ragstone.corpus import Document, snapshot
from ragstone.corpus.chunk import chunk
from ragstone.show import Silence
from ragstone.store import publish
from tests import browser
from tests.console.place import PRIMED, TRUE, Place, ask, enter, go, picture
from tests.origins import Site, until
from tests.speaker import Speaker
from tests.topics import flood

# ---- ask


def test_an_answer_comes_with_its_source_marked_in_its_document(page: Page, place: Place) -> None:
    enter(page, place)
    ask(page, PRIMED)
    expect(page.locator(".answer")).to_contain_text(TRUE)
    expect(page.locator(".footing")).to_contain_text(place.origin.release)
    expect(page.locator(".footing")).to_contain_text("cache: miss")
    expect(page.get_by_role("list", name="Sources")).to_contain_text(re.compile(r"score \d\.\d{3} *\d\.\d\d"))
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
