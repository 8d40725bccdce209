"""A place, and a page in a real Chromium: for each of these files one of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests import browser
from tests.console.place import HOSTILE, PRINTED, TRUE, Place, administrator, edged
from tests.origins import running, site
from tests.speaker import Speaker

POLICY = ("Content Security Policy", "Trusted")
"""What Chromium says of a page that broke its own policy."""


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


@pytest.fixture
def own(speaker: Speaker, tmp_path: Path) -> Iterator[Place]:
    """A place that a test may change for good."""
    (tmp_path / "docs").mkdir()
    with running(site(tmp_path, speaker.url)) as origin, edged(origin.site, origin.url) as url:
        yield Place(url, origin, administrator(origin.site))
