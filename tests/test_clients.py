"""The examples of docs/clients.md and docs/api.md, run as they stand there against a real origin: only its port is put in."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragstone import npm
from tests.origins import Origin, running, site
from tests.packages import packages
from tests.shell import ROOT, Shell, blocks
from tests.speaker import speaking

TRUE = "Prime the feed pump for ninety seconds before it is started."
EDGES = ("http://127.0.0.1:8800", "localhost:8800")
LLAMAINDEX = "RAGSTONE_TEST_LLAMAINDEX"
"""Names an environment that has LlamaIndex, whose packages ask for other versions than ours."""
PYTHON = [block for block in blocks("docs/clients.md", "python") if "llama_index" not in block]
CURL = [(page, block) for page in ("README.md", "docs/clients.md", "docs/edge.md") for block in blocks(page, "sh") if "curl" in block]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """The manuals, served; its key lies where `ragstone up` leaves one, for a project and for the demo below it."""
    with speaking() as speaker, running(site(tmp_path_factory.mktemp("clients"), speaker.url)) as made:
        speaker.reset(TRUE)
        for folder in (made.site.settings.folder, made.site.settings.folder / "demo"):
            (folder / ".ragstone/keys").mkdir(parents=True, exist_ok=True)
            (folder / ".ragstone/keys/local.token").write_text(f"{made.token}\n")
        yield made


def here(example: str, origin: Origin) -> str:
    """The example, with the origin's own address."""
    for address in EDGES:
        example = example.replace(address, origin.url)
    return example


def printed(example: str, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(origin.site.settings.folder)
    assert EDGES[0] in example
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(here(example, origin), "example", "exec"), {})
    return out.getvalue()


@pytest.mark.parametrize("example", PYTHON, ids=["openai", "langchain", "haystack"])
def test_an_example_in_python_prints_the_answer(example: str, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")  # it would tell its makers
    told = printed(example, origin, monkeypatch)
    assert TRUE in told
    assert ("stream" not in example) or told.count(TRUE) == 2


@pytest.mark.skipif(not os.environ.get(LLAMAINDEX), reason=f"{LLAMAINDEX} names no environment with LlamaIndex: its example was NOT run")
def test_the_example_with_llamaindex_prints_the_answer_whole_and_in_pieces(origin: Origin) -> None:
    (example,) = (block for block in blocks("docs/clients.md", "python") if "llama_index" in block)
    command = [str(Path(os.environ[LLAMAINDEX]) / "bin/python"), "-c", here(example, origin)]
    alone = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=origin.site.settings.folder, env=alone, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(TRUE) == 2


def test_the_example_of_the_api_page_reads_the_citations(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    example = "import openai\n" + blocks("docs/api.md", "python")[0].replace("<key>", origin.token)
    assert printed(f"{example}\nprint(answer.model_extra['ragstone']['citations'][0]['document'])", origin, monkeypatch) == "pump.md\n"


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed: its examples were NOT run")
@pytest.mark.parametrize(("page", "block"), CURL, ids=[page for page, _ in CURL])
def test_an_example_with_curl_gets_an_answer(page: str, block: str, origin: Origin, tmp_path: Path) -> None:
    shell = Shell(tmp_path, KEY=origin.token)
    shell.folder = origin.site.settings.folder
    lines = block.splitlines(keepends=True)
    typed = "".join(line for line in lines if not line.startswith("ragstone edge"))  # it runs until Ctrl-C
    answer = shell.type(here(typed, origin).replace("What does a context manager do?", "How long is the feed pump primed?"))
    assert TRUE in answer


def test_the_example_in_node_prints_the_answer_with_its_source(origin: Origin, tmp_path: Path) -> None:
    (example,) = blocks("docs/clients.md", "js")
    installed = packages(ROOT / "examples/node/package.json", "the example in Node")
    (tmp_path / "ask.mjs").write_text(here(example, origin))
    (tmp_path / "node_modules").symlink_to(installed / "node_modules")
    command = [str(npm.node(installed)), str(tmp_path / "ask.mjs")]
    done = subprocess.run(command, cwd=origin.site.settings.folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert TRUE in done.stdout
    assert "[1] pump.md" in done.stdout
