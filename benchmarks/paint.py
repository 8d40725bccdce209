"""How soon the console is seen: first contentful paint in a real Chromium before a real origin on loopback, and the bytes of its scripts.

    python -m benchmarks.paint [--loads N]

Signed out it is the sign-in, signed in the screen Ask as a reload shows it. Cold loads have a browser profile without a cache each; warm
ones come after a load in the same profile. The time counts from the navigation's start, as `performance.getEntriesByType("paint")` tells
it: what is seen then is the frame that the page holds, and the script draws the same over it. Other work on the machine lengthens it, and
hardly the CPU time that the page's own thread took until the script had drawn. A page of one line, `/healthz`, is loaded likewise: what it
takes is the browser's and the machine's, not the console's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page

from benchmarks.record import record
from ragstone import access
from ragstone.api.console import BUILT
from tests import browser
from tests.origins import Origin, Site, running, site
from tests.speaker import speaking

PAINTED = "() => performance.getEntriesByName('first-contentful-paint').length > 0"
DRAWN = "() => document.title.endsWith('· Ragstone')"
"""The script stands, and has named the page."""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
SCRIPT = """() => performance.getEntriesByType('resource').filter((one) => /console-[^/]+[.]js$/.test(one.name))
  .map((one) => [one.decodedBodySize, one.encodedBodySize])[0] ?? []"""
SIGN_IN = "sessionStorage.setItem('ragstone.key', {token!r}); sessionStorage.setItem('ragstone.who', {who!r})"
LIMIT_MS, LIMIT_BYTES = 200, 300_000


@dataclass(frozen=True)
class Screen:
    """What is loaded, and the key that is signed in with, or none."""

    name: str
    path: str
    token: str


@dataclass(frozen=True)
class Load:
    """Milliseconds until the first contentful paint, and those that the page's thread worked until the script had drawn."""

    paint: float
    cpu: float
    script: list[int]
    """Bytes of the first one, as it is and as it was sent."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=20)
    loads = parser.parse_args().loads
    with tempfile.TemporaryDirectory() as name, speaking() as speaker, browser.running() as chromium:
        (Path(name) / "docs").mkdir()
        with running(site(Path(name), speaker.url)) as origin:
            screens = [Screen("a page of one line", "/healthz", ""), Screen("signed out", "/console", "")]
            screens.append(Screen("signed in", "/console", administrator(origin.site)))
            record("paint", {"goal": f"{LIMIT_MS} ms, {LIMIT_BYTES} bytes", **measured(chromium, origin, screens, loads)})


def administrator(at: Site) -> str:
    made = access.create(at.settings.keys_folder, at.store, tenant="paint", groups=("public",), rpm=10**6, tpm=10**9, expires=0, admin=True)
    return made[0]


def measured(chromium: Browser, origin: Origin, screens: list[Screen], loads: int) -> dict[str, object]:
    """Milliseconds by screen and state of the cache, and the script's bytes."""
    painted(chromium, origin, screens[-1], 2)  # what is slow once, such as the first reading of the files
    figures: dict[str, object] = {}
    script: list[int] = []
    for screen in screens:
        cold = [painted(chromium, origin, screen, 1)[0] for _ in range(loads)]
        warm = painted(chromium, origin, screen, loads + 1)[1:]
        for cache, found in (("cold", cold), ("warm", warm)):
            figures[f"{screen.name}, {cache}: first contentful paint, ms"] = summary([one.paint for one in found])
            figures[f"{screen.name}, {cache}: CPU of the page's thread, ms"] = summary([one.cpu for one in found])
        script = cold[0].script
    scripts = sum(file.stat().st_size for file in BUILT.glob("*.js"))
    return {**figures, "first script, bytes": script[0], "first script as sent, bytes": script[1], "all scripts, bytes": scripts}


def painted(chromium: Browser, origin: Origin, screen: Screen, loads: int) -> list[Load]:
    """So many loads in one new profile."""
    context = chromium.new_context(viewport={"width": 1080, "height": 700})
    try:
        return [load(context, origin, screen) for _ in range(loads)]
    finally:
        context.close()


def load(context: BrowserContext, origin: Origin, screen: Screen) -> Load:
    page: Page = context.new_page()
    try:
        told = context.new_cdp_session(page)
        told.send("Performance.enable", {"timeDomain": "threadTicks"})
        if screen.token:
            who = json.dumps(origin.request("GET", "/v1/key", token=screen.token).json)
            page.add_init_script(SIGN_IN.format(token=screen.token, who=who))
        page.goto(f"{origin.url}{screen.path}")
        page.wait_for_function(PAINTED)
        if screen.path == "/console":
            page.wait_for_function(DRAWN)
        spent = {one["name"]: one["value"] for one in told.send("Performance.getMetrics")["metrics"]}
        return Load(float(page.evaluate(PAINT)), 1000 * spent["TaskDuration"], list(page.evaluate(SCRIPT)))
    finally:
        page.close()


def summary(found: list[float]) -> dict[str, float]:
    ordered = sorted(found)
    worst = ordered[int(0.9 * (len(ordered) - 1))]
    return {"median": round(statistics.median(ordered), 1), "p90": round(worst, 1), "most": round(ordered[-1], 1), "loads": len(ordered)}


if __name__ == "__main__":
    main()
