"""Where the console is tried: an edge with an origin behind it, who signs in, and the steps that every test takes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from playwright.sync_api import Page, expect

from ragstone import access, config
from ragstone.edge.local import Edge
from ragstone.listen import bind
from tests import browser, office
from tests.origins import Origin, Site, until

HOSTILE = """# <img src=x onerror="window.owned=1"> Relief valve

The relief valve <img src=x onerror="window.owned=1"><script>window.owned=1</script> opens at 6 bar. [x](javascript:window.owned=1)
"""
PRINTED = office.pdf(("Lubrication", "Oil is drawn off each spring."), ("Bearings", "The thrust bearing takes four litres of turbine oil."))
TRUE = "Prime the feed pump for ninety seconds before it is started."
PRIMED = "How long is the feed pump primed?"
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


def ask(page: Page, question: str) -> None:
    page.get_by_label("Your question").focus()
    page.keyboard.type(question)
    page.keyboard.press("Enter")
