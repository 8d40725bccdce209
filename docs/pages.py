"""Pages of the site that have no file in `docs/`: its home is the README, and the decisions get a list. Loaded by mkdocs.yml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
OUTSIDE = {"README.md": "home.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
EXAMPLE = re.compile(r"^>>> (?:.+\n?)+", re.M)
LISTS = {"docs/decisions": "decisions.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages, with those that are made. `index.md` is about the stage of that name, so it leaves the home's place to the README."""
    stage = files.get_file_from_path("index.md")
    assert stage
    _place(stage, "index/index.html")
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=inside((ROOT / name).read_text(encoding="utf-8"))))
    home = files.get_file_from_path("home.md")
    assert home
    _place(home, "index.html")
    files.append(File.generated(config, "decisions.md", content=_decisions()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page, its links to files outside `docs/` led to their pages."""
    names = "|".join(map(re.escape, OUTSIDE))
    return re.sub(rf"\]\(\.\./((?:\.\./)*)({names})", lambda link: f"]({link[1]}{OUTSIDE[link[2]]}", markdown)


def inside(text: str) -> str:
    """A text from the root of the checkout, its links as they are within the site."""
    for name, page in {**OUTSIDE, **LISTS}.items():
        text = text.replace(f"]({name})", f"]({page})")
    return text.replace("](docs/", "](")


def _place(file: File, uri: str) -> None:
    for known in ("url", "abs_dest_path"):
        file.__dict__.pop(known, None)
    file.dest_uri = uri


def _decisions() -> str:
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    titles = [(file.name, file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")) for file in files]
    lines = [f"- [{title}](decisions/{name})" for name, title in titles]
    return "\n".join(["# Decisions", "", "What the code does not explain by itself: context, choice, cost.", "", *lines, ""])


class Examples(griffe.Extension):
    """Puts the examples of docstrings into fences: Markdown takes `>>>` for quotations of quotations."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object that has been read."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(lambda run: f"```pycon\n{run[0].rstrip()}\n```\n", obj.docstring.value)
