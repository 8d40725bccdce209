"""A real Chromium on this machine, steered by Playwright. Without one a test that needs it is skipped, with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60_000
"""Milliseconds until a step of the page counts as missed, on a machine that is busy with other tests."""
GRAVE = ("serious", "critical")


@contextmanager
def running() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"NO BROWSER: none of {', '.join(NAMES)} is installed")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


def barriers(page: Page) -> list[str]:
    """The grave findings of axe-core on the page as it is."""
    violations = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in violations if one["impact"] in GRAVE]


def reach(page: Page, name: str, most: int = 80) -> None:
    """Move the focus by the Tab key alone to what is called so. Fails when it can't be reached."""
    for _ in range(most):
        page.keyboard.press("Tab")
        focused = page.locator("*:focus")
        if focused.count() and name in page.evaluate("() => window.named(document.activeElement)"):
            return
    raise AssertionError(f"{name!r} can't be reached by the Tab key")


def tab(page: Page, wanted: Locator, most: int = 200) -> None:
    """Move the focus by the Tab key alone to this element. Fails when it can't be reached."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if wanted.evaluate("(one) => one === document.activeElement"):
            return
    raise AssertionError(f"{wanted} can't be reached by the Tab key")


def open_file(page: Page, name: str, file: Path) -> None:
    """Reach a file field by the Tab key, open it by Enter and choose this file.

    Playwright asks the browser to hold back the dialog without waiting for its answer; a key that overtakes that would open a real one,
    which nobody sees. What the page is asked in between is answered after it.
    """
    reach(page, name)
    with page.expect_file_chooser() as chosen:
        page.evaluate("() => document.hasFocus()")
        page.keyboard.press("Enter")
    chosen.value.set_files(file)


def choose(page: Page, wanted: Locator, value: str) -> None:
    """Reach a list by the Tab key and take a value of it by the arrow keys."""
    tab(page, wanted)
    page.keyboard.press("Home")
    for _ in range(wanted.locator("option").count()):
        if wanted.input_value() == value:
            return
        page.keyboard.press("ArrowDown")
    assert wanted.input_value() == value


NAMED = """
window.named = (one) => [one.getAttribute("aria-label"), one.getAttribute("title"),
  ["A", "BUTTON", "SUMMARY"].includes(one.tagName) ? one.textContent : "",
  ...[...(one.labels ?? [])].map((label) => label.textContent)].filter(Boolean).join(" | ");
"""
"""What a person hears or reads of an element, roughly."""
