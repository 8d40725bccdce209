"""The docs say what the code does: every setting and command is described, links resolve, examples run."""

import ast
import doctest
import importlib
import inspect
import json
import pkgutil
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

import ragstone
from ragstone import cli, config

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
SETTINGS = [(section, field) for section in config.SECTIONS for field in fields(type(getattr(config.Settings(), section)))]


def commands(group: Any, path: tuple[str, ...] = ("ragstone",)) -> list[tuple[str, Any]]:
    """Every command with its full name; Typer's classes are its own copy of click's, not exported."""
    children = getattr(group, "commands", {})
    if not children:
        return [(" ".join(path), group)]
    return [found for name, child in children.items() for found in commands(child, (*path, name))]


COMMANDS = commands(typer.main.get_command(cli.app))


@pytest.mark.parametrize(("section", "field"), SETTINGS, ids=lambda value: getattr(value, "name", value))
def test_every_setting_is_described_with_its_default(section: str, field: object) -> None:
    name = getattr(field, "name", "")
    default = getattr(getattr(config.Settings(), section), name)
    row = re.search(rf"^\| `{section}\.{name}` \| `?([^|`]*)`? \| (.+) \|$", (ROOT / "docs/settings.md").read_text(), re.M)
    assert row, f"docs/settings.md has no row for {section}.{name}"
    shown = str(default).lower() if isinstance(default, bool) else str(list(default) if isinstance(default, tuple) else default)
    assert row[1].strip() == shown


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_and_option_is_described(name: str, command: Any) -> None:
    page = (ROOT / "docs/commands.md").read_text()
    section = re.search(rf"^## `{name}[` ](.*?)(?=^## |\Z)", page, re.M | re.S)
    assert section, f"docs/commands.md has no section for {name}"
    for parameter in command.params:
        for option in [option for option in parameter.opts if option.startswith("-")]:
            assert option in ("--help", "-r") or option in section[0], f"{name} {option}"
    assert command.help, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_resolve(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


TYPED = re.compile(r"(?:^|`|\$ )(ragstone [a-z][^`#\n|…]*)", re.M)
SPOKEN = sorted({(page.name, line) for page in PAGES for line in TYPED.findall(page.read_text())})


@pytest.mark.parametrize(("page", "line"), SPOKEN, ids=[f"{page}: {line[:40]}" for page, line in SPOKEN])
def test_every_command_that_the_docs_type_exists(page: str, line: str) -> None:
    known = dict(COMMANDS)
    words = line.split()
    name = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in known), "")
    if not name:
        assert any(full.startswith(f"{words[0]} {words[1]} ") for full in known), f"{page} types {line!r}"
        return
    options = {option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", line)) <= options, f"{page} types {line!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_the_docs_are_settings(page: Path, tmp_path: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S):
        (tmp_path / config.FILE).write_text(block)
        config.load(tmp_path, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_in_the_docs_run(page: Path) -> None:
    assert doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS).failed == 0


FENCED = [
    (page.relative_to(ROOT).as_posix(), language, block)
    for page in PAGES
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
]
RUN = ("docs/api.md", "docs/clients.md")
NOT_RUN = {"docs/train.md": "from ragstone import train\n"}
"""Python that no test runs as it stands: its names stand for a user's own chunks, base and folder; tests/test_tune.py trains so."""


def test_every_block_of_code_is_of_a_kind_that_a_test_runs() -> None:
    """`sh` by tests/test_shell.py, `js` and other Python by tests/test_clients.py, the rest here; without a language it is no code."""
    assert {language for _, language, _ in FENCED} <= {"", "sh", "python", "json", "toml", "js"}
    assert not [block for _, language, block in FENCED if not language and re.match(r"(?:ragstone|make|pip|curl|python) ", block)]
    python = [(page, block) for page, language, block in FENCED if language == "python" and ">>>" not in block]
    assert not [page for page, block in python if page not in RUN and not block.startswith(NOT_RUN.get(page, " "))]


@pytest.mark.parametrize(("page", "block"), [(page, block) for page, language, block in FENCED if language == "json"])
def test_json_in_the_docs_is_json_in_whole_or_by_line(page: str, block: str) -> None:
    try:
        json.loads(block)
    except ValueError:
        assert [json.loads(line) for line in block.splitlines()], page


FIGURES = re.findall(r"^\| .+ \| ([\d.]+) \| ([\w-]+) \| (.+) \| (\w{7}) \|$", (ROOT / "docs/operations.md").read_text(), re.M)


def test_every_figure_of_the_operations_page_is_that_of_its_benchmark() -> None:
    assert len(FIGURES) >= 10
    for shown, name, key, commit in FIGURES:
        result = json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text())
        digits = len(shown.partition(".")[2])
        measured = f"{round(float(result['figures'][key]), digits):.{digits}f}"
        assert (shown, commit) == (measured, result["commit"]), f"docs/operations.md: {name}, {key}"


MODULES = sorted(module.name for module in pkgutil.walk_packages(ragstone.__path__, "ragstone.") if not module.name.endswith("__main__"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    tree = ast.parse(inspect.getsource(module))
    assert ast.get_docstring(tree), f"{name} does not say what it does"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            plain = (isinstance(node, ast.ClassDef) and "Error" in name) or name == "ragstone.errors"
            assert plain or ast.get_docstring(node), f"{name}.{node.name} has no docstring"
