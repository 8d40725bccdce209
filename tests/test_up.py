"""`ragstone up` as a user runs it: one command, the official client, and what happens when a process is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import openai
import psutil
import pytest

from tests import engines

ROOT = Path(__file__).parent.parent
QUESTION = "How long is the feed pump primed before it is started?"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A started `ragstone up`."""

    def __init__(self, folder: Path, engine: str = "") -> None:
        self.folder = folder
        self.port, self.origin_port = free_port(), free_port()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAGSTONE_EDGE_PORT": str(self.port),
            "RAGSTONE_API_PORT": str(self.origin_port),
            "RAGSTONE_EDGE_RELEASE_CHECK": "0.2",
        }
        if engine:
            self.environment |= {
                "RAGSTONE_INDEX_URL": engine,
                "RAGSTONE_INDEX_INFERENCE": "engine",
                "RAGSTONE_INDEX_EMBEDDINGS": f"http://127.0.0.1:{self.origin_port}/v1/embeddings",
                "RAGSTONE_INDEX_EMBEDDINGS_KEY": self.ragstone("keys", "create", "--tenant", "engine"),
            }
        self.log = folder / "up.log"
        with self.log.open("wb") as output:
            command = [sys.executable, "-m", "ragstone", "up", "docs", "--minutes", "0"]
            self.process = subprocess.Popen(command, cwd=folder, env=self.environment, stdout=output, stderr=output)

    def wait(self, true: Callable[[], bool], seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "ready after" in self.log.read_text()

    def children(self) -> dict[str, psutil.Process]:
        """Origin and edge by their command's name."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            words = child.cmdline() if child.status() != psutil.STATUS_ZOMBIE else []
            if "ragstone" in words:
                found[words[words.index("ragstone") + 1]] = child
        return found

    def client(self) -> openai.OpenAI:
        key = (self.folder / ".ragstone/keys/local.token").read_text()
        return openai.OpenAI(api_key=key, base_url=f"http://127.0.0.1:{self.port}/v1", max_retries=0, timeout=60)

    def ragstone(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "ragstone", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment, check=True, capture_output=True, text=True).stdout.strip()

    def ask(self, question: str = QUESTION) -> tuple[openai.types.chat.ChatCompletion, dict[str, str]]:
        raw = self.client().chat.completions.with_raw_response.create(
            model="production", messages=[{"role": "user", "content": question}], max_tokens=48
        )
        return raw.parse(), dict(raw.headers)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(120)
        finally:
            self.process.kill()


@pytest.fixture
def running(tmp_path: Path, manuals: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    try:
        running.wait(running.ready)
        yield running
    finally:
        running.stop()


@pytest.mark.slow
def test_a_folder_answers_with_citations_through_the_official_client(running: Running) -> None:
    answer, headers = running.ask()
    text = answer.choices[0].message.content or ""
    assert "ninety seconds" in text
    assert "[1]" in text
    extra = answer.model_extra or {}
    citation = extra["ragstone"]["citations"][0]
    assert citation["document"] == "pump.md"
    assert headers["x-ragstone-cache"] == "miss"
    assert headers["x-ragstone-release"] == extra["ragstone"]["release"]
    again, headers = running.ask()
    assert headers["x-ragstone-cache"] == "hit"
    assert again.choices[0].message.content == text

    stream = running.client().chat.completions.create(
        model="production", messages=[{"role": "user", "content": QUESTION}], max_tokens=48, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == text


@pytest.mark.slow
def test_the_console_is_told_of_and_the_machine_s_key_may_administer(running: Running) -> None:
    address = f"http://127.0.0.1:{running.port}"
    running.wait(lambda: f"{address}/console" in running.log.read_text())
    key = (running.folder / ".ragstone/keys/local.token").read_text()
    with urllib.request.urlopen(f"{address}/console", timeout=60) as page:
        assert b"/console/console-" in page.read()
    asked = urllib.request.Request(f"{address}/admin/releases", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        (release,) = json.load(answer)["releases"]
    asked = urllib.request.Request(f"{address}/admin/sync", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        told = json.load(answer)
    assert told["source"] == str(running.folder / "docs")
    assert [run["result"]["release"] for run in told["runs"]] == [release["release"]]


@pytest.mark.slow
def test_an_engine_that_asks_for_vectors_finds_the_origin_up(tmp_path: Path, manuals: Path) -> None:
    running = Running(tmp_path, engines.url(f"test-{uuid4().hex}"))
    try:
        running.wait(running.ready, 240)
        assert "ninety seconds" in (running.ask()[0].choices[0].message.content or "")
    finally:
        running.stop()


@pytest.mark.slow
def test_a_deleted_document_is_never_quoted_from_the_cache(running: Running) -> None:
    running.ask()
    (running.folder / "docs/pump.md").unlink()
    release = running.ragstone("build", "docs")

    def taken() -> bool:  # the edge reads the pointer now and then; till it does, the answer that it keeps is of the old release
        return running.ask()[1]["x-ragstone-release"] == release

    running.wait(taken)
    answer, headers = running.ask()
    assert headers["x-ragstone-release"] == release
    cited = (answer.model_extra or {})["ragstone"]["citations"]
    assert "pump.md" not in {citation["document"] for citation in cited}


@pytest.mark.slow
def test_an_origin_that_is_killed_comes_back(running: Running) -> None:
    first = running.children()["serve"]
    first.kill()
    running.wait(lambda: running.children().get("serve", first).pid != first.pid)

    def answers() -> bool:
        try:
            running.ask("What is kept between 40 and 60 percent?")
        except openai.InternalServerError:  # 502, 503 or 504 while it is away, as OpenAI's JSON
            return False
        return True

    running.wait(answers)


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_behind(running: Running) -> None:
    everything = psutil.Process(running.process.pid).children(recursive=True)
    assert len(everything) >= 2
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(120) == 0
    running.wait(lambda: not [child for child in everything if child.is_running() and child.status() != psutil.STATUS_ZOMBIE])


@pytest.mark.slow
def test_a_killed_up_leaves_no_process_behind_either(running: Running) -> None:
    everything = psutil.Process(running.process.pid).children(recursive=True)
    running.process.kill()
    running.process.wait()
    running.wait(lambda: not [child for child in everything if child.is_running() and child.status() != psutil.STATUS_ZOMBIE])


def test_a_taken_port_is_an_error_that_names_it(tmp_path: Path, manuals: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "ragstone", "up", "docs", "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAGSTONE_API_PORT": str(free_port())}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"edge.port = {port}" in done.stderr
