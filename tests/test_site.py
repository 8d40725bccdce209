"""The docs site, built as `make docs` does: strictly, whole, and with nothing that is fetched from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
"""What a browser loads by itself; a link that a reader may follow is none of it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loads(HTMLParser):
    """The addresses that a page makes a browser load."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("rel") not in ("canonical", "next", "prev"):
            self.found += [given.get(FETCHED.get(tag, ""), "") or ""]


def test_every_page_of_the_docs_is_in_the_site(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")]
    lost = [page for page in pages if not (site / page / "index.html").is_file()]
    assert not lost


def test_every_page_but_the_decisions_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert not [page for page in pages if page not in menu and not page.startswith("decisions/")]


def test_the_home_is_the_readme_and_the_stage_index_has_a_place_beside_it(site: Path) -> None:
    assert "What only Ragstone does" in (site / "index.html").read_text()
    assert "The chunks of one snapshot under one model" in (site / "index" / "index.html").read_text()


def test_every_decision_is_listed(site: Path) -> None:
    listed = (site / "decisions" / "index.html").read_text()
    assert not [path.stem for path in (ROOT / "docs/decisions").glob("*.md") if path.stem not in listed]


def test_docstrings_are_there_and_their_examples_are_code(site: Path) -> None:
    reference = (site / "reference" / "index.html").read_text()
    assert 'id="ragstone.evaluate.ndcg"' in reference
    assert '<span class="gp">&gt;&gt;&gt; </span><span class="n">ndcg</span>' in reference


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    loaded = {address for page in pages for address in Loads(page).found}
    assert any(address.endswith(".css") for address in loaded)
    assert not [address for address in loaded if re.match(r"(?:[a-z]+:)?//", address)]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//[^)]*", styles)
