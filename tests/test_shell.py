"""The shell blocks of the docs, typed as they stand there. What is not run says why."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shell import ROOT, Shell, blocks
from tests.speaker import Speaker
from tests.test_up import free_port

PAGES = [path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))]
BLOCKS = [(page, block) for page in sorted(PAGES) for block in blocks(page, "sh")]
TRUE = "Prime the feed pump for ninety seconds before it is started."
NOT_RUN = {
    "make check": "these are what runs the tests, and what takes minutes",
    "make demo": "it serves until Ctrl-C; tests/test_up.py runs what it runs",
    "mkdir handbook && cd handbook\nragstone up": "it serves until Ctrl-C; the tutorial has the same commands",
    "pip install": "packages come from a registry",
    "ragstone edge deploy": "it takes npm; tests/test_cloudflare.py runs it",
    "docker build": "it takes a container engine; tests/test_deploy.py holds the images to their rules",
    "BASE=": "it takes a container engine; tests/test_deploy.py holds the compose file to its rules",
    "ragstone deploy service.json --version v1 --to ray": "it takes clusters; tests/conformance/test_serve_ray.py runs it on this machine",
    "ragstone deploy service.json --version v1 --to 'kserve": "it takes a cluster; tests/test_kubectl.py runs it against one of its own",
    "ragstone app create --to 'bailian": "it takes an account; the block before it prints what it would send",
    "ragstone deploy service.json --version v1 --to 'eas": "docs/from/eas.md has its first line, the others need an account",
}
"""How a block begins that no test runs, and why."""
ACCOUNT = ("docs/train.md", "ragstone train --job-name")
"""It takes an account of PAI; docs/from/pai.md has what it would send."""
CURL = ("curl ", "ragstone edge --origin")
"""How those begin that tests/test_clients.py runs, against an origin."""
TUTORIAL = "docs/tutorial.md"
HERE = [(page, block) for page, block in BLOCKS if page not in (TUTORIAL, ACCOUNT[0]) and not block.startswith((*NOT_RUN, *CURL))]
HERE += [(page, block) for page, block in BLOCKS if page == ACCOUNT[0] and not block.startswith(ACCOUNT[1])]
OWN = {
    "k-3f2a90c1d4e5b677": "$(ragstone keys list | awk 'NR == 1 {print $1}')",
    "r-0a1b2c3d4e5f": "$(ragstone release list | awk 'NR == 1 {print $2}')",
    "file:///tmp/": "file://$HOME/",
    "forget handbook/pump.md": "forget gate.txt",
}
"""What the docs write, and what it is here."""


def test_every_reason_for_not_running_a_block_is_still_needed() -> None:
    assert not [start for start in NOT_RUN if not any(block.startswith(start) for _, block in BLOCKS)]


@pytest.fixture(scope="module")
def shell(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """In a project with two releases and with the files that the pages speak of."""
    speaker.reset(TRUE)
    shell = Shell(tmp_path_factory.mktemp("shell"), RAGSTONE_SERVE_URL=speaker.url, SPEAKER=speaker.url)
    shell.type("mkdir house && cd house && ragstone build ~/documents && echo 'Grease the fan.' > ~/documents/fan.txt")
    shell.type("ragstone build ~/documents && ragstone keys create --tenant acme && touch ragstone.toml")
    asked, labels = blocks("docs/evaluate.md", "json")[0], blocks("docs/train.md", "json")
    (shell.folder / "questions.jsonl").write_text(asked)
    (shell.folder / "clicks.jsonl").write_text(labels[1])
    with (shell.folder / "faq.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question", "passage"], ["How long is the feed pump primed?", TRUE]])
    judged = shell.folder / "judged"
    (judged / "qrels").mkdir(parents=True)
    (judged / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": "How is the bonnet tightened?"}))
    (judged / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tvalve.md\t1\n")
    return shell


def prepare(shell: Shell, page: str, block: str) -> None:
    """What the page took for granted just before."""
    if page == "docs/serve.md":
        model = '"$SPEAKER"' if "kserve" not in block else "hub://Qwen/Qwen3-8B"
        shell.type(f"printf '{{\"name\": \"support\", \"model\": \"%s\"}}' {model} > service.json")
    if block.startswith("ragstone forget"):
        shell.type("echo 'Oil the gate.' > ~/documents/gate.txt && ragstone build ~/documents && rm ~/documents/gate.txt")
    if block.startswith("ragstone deploy embed.json"):
        (shell.folder / "embed.json").write_text(next(text for text in blocks(page, "json") if "embedding" in text))
    if block.startswith("ragstone deploy service.json --version v2"):
        shell.type("ragstone deploy service.json --version v1 && ragstone service promote v1")


@pytest.mark.parametrize(("page", "block"), HERE, ids=[f"{page}: {block[:40].strip()}" for page, block in HERE])
def test_a_block_of_the_docs_can_be_typed(shell: Shell, page: str, block: str) -> None:
    place = shell.folder
    prepare(shell, page, block)
    for there, here in OWN.items():
        block = block.replace(there, here)
    assert shell.type(block)
    shell.folder = place


# ---- the tutorial

SHOWN = [
    ("ragstone build ~/documents", ["4 documents", "is in force on production"]),
    ("ragstone ask", ["[1]", "pump.md", "do not answer this", "P(relevant)", "valve.md"]),
    ("cat > ragstone.toml", ["is in force on production", "crew/rota.txt"]),
    ("cat > questions.jsonl", ["recall@10", "nDCG@10", "refused"]),
    ("ragstone train", ["the base model stays"]),
    ("echo", ["5 documents", "too few documents to tell", "<- current"]),
]
"""How each block of the tutorial begins, or goes on, and what it prints."""


def wait(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed: the tutorial was NOT run")
def test_the_tutorial_works_as_it_is_written(speaker: Speaker, tmp_path: Path) -> None:
    speaker.reset(TRUE)
    edge = str(free_port())
    shell = Shell(tmp_path, RAGSTONE_EDGE_PORT=edge, RAGSTONE_API_PORT=str(free_port()), RAGSTONE_SERVE_URL=speaker.url)
    *offline, up, served = blocks(TUTORIAL, "sh")
    assert len(offline) == len(SHOWN)
    for block, (begins, shown) in zip(offline, SHOWN, strict=True):
        assert begins in block
        printed = shell.type(block)
        assert not [words for words in shown if words not in printed], printed
    log = tmp_path / "up.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            ["bash", "-c", f"exec {up}"], cwd=shell.folder, env=shell.environment, stdout=output, stderr=output
        )
    try:
        wait(lambda: "speaks OpenAI's API" in log.read_text() or running.poll() is not None)
        assert running.poll() is None, log.read_text()
        answered = shell.type(served.replace("8800", edge))
        assert "ninety seconds" in answered
        assert '"document":"pump.md"' in answered.replace(": ", ":")
    finally:
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
