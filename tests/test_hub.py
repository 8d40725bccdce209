"""Base models by their id. A server on this machine stands for the hub; the client is the hub's own, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

from ragstone import embedder, hub, weights
from ragstone.embedder import Embedder
from ragstone.errors import WeightsError
from tests.bases import base

COMMIT = "c0ffee" * 6 + "c0ff"
ID = "intfloat/e5-small-v2"


class Hub(ThreadingHTTPServer):
    """A hub with one model, and what it was asked."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.files = files
        self.asked: list[str] = []
        self.lies: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def listed(self) -> list[dict[str, object]]:
        return [{"rfilename": name, "path": name, "type": "file", **self.facts(name)} for name in self.files]

    def facts(self, name: str) -> dict[str, object]:
        data = self.files[name]
        sha256 = hashlib.sha256(b"other bytes" if name in self.lies else data).hexdigest()
        large = {"lfs": {"sha256": sha256, "oid": sha256, "size": len(data), "pointerSize": 130}} if name.endswith(".safetensors") else {}
        return {"size": len(data), "oid": hashlib.sha1(data).hexdigest(), "blobId": hashlib.sha1(data).hexdigest(), **large}


class _Asked(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        if path.startswith(f"/api/models/{ID}/tree/"):
            self._send(json.dumps(self.server.listed()).encode(), "application/json")
        elif path.startswith(f"/api/models/{ID}"):
            self._send(json.dumps({"id": ID, "sha": COMMIT, "siblings": self.server.listed()}).encode(), "application/json")
        elif path.startswith(f"/{ID}/resolve/{COMMIT}/"):
            data = self.server.files[path.removeprefix(f"/{ID}/resolve/{COMMIT}/")]
            self._send(data, "application/octet-stream", {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A model as it lies on a hub, among much that is not wanted."""
    folder = base(tmp_path_factory.mktemp("model") / "source", "bert", dense=["torch.nn.modules.linear.Identity"])
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {**found, "README.md": b"#", "pytorch_model.bin": b"pickle", "code.py": b"raise", "onnx/model.onnx": b"graph"}


@pytest.fixture
def server(files: dict[str, bytes]) -> Iterator[Hub]:
    with Hub(dict(files)) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


def pulled(name: str, cache: Path, endpoint: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`ragstone models pull` in a process of its own: the client reads its endpoint when it is loaded."""
    told = {**os.environ, "RAGSTONE_CACHE": str(cache), "HF_ENDPOINT": endpoint, "HF_HOME": str(cache / "hf"), **environment}
    command = [sys.executable, "-m", "ragstone", "models", "pull", name]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=told, cwd=cache)


def test_a_model_comes_by_its_id_and_knows_its_familys_prefixes(server: Hub, tmp_path: Path) -> None:
    done = pulled(f"hub://{ID}", tmp_path, server.url)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split()[-1])
    got = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "tokenizer.json", "1_Pooling/config.json", "2_Dense/model.safetensors"} <= got
    assert not got & {"README.md", "pytorch_model.bin", "code.py", "onnx/model.onnx"}
    embedder.prepare(folder, tmp_path / "model", name=ID, base=ID)
    assert Embedder(tmp_path / "model").card.query_prefix == "query: "


def test_a_second_pull_asks_nobody(server: Hub, tmp_path: Path) -> None:
    first = pulled(ID, tmp_path, server.url)
    asked = list(server.asked)
    again = pulled(ID, tmp_path, server.url, HF_HUB_OFFLINE="1")
    assert again.stdout.split()[-1] == first.stdout.split()[-1]
    assert server.asked == asked


def test_a_revision_is_asked_for_and_kept_apart(server: Hub, tmp_path: Path) -> None:
    done = pulled(f"{ID}@v1.5", tmp_path, server.url)
    assert done.stdout.split()[-1].endswith("intfloat--e5-small-v2@v1.5"), done.stderr
    assert f"/api/models/{ID}/revision/v1.5" in server.asked


def test_other_bytes_than_the_hub_lists_are_not_kept(server: Hub, tmp_path: Path) -> None:
    server.lies.add("model.safetensors")
    done = pulled(ID, tmp_path, server.url)
    assert done.returncode == 1
    assert "model.safetensors has SHA-256" in done.stderr
    assert [path.name for path in (tmp_path / "hub").iterdir()] == []


def test_a_model_of_pickles_alone_is_refused_before_it_is_downloaded(server: Hub, tmp_path: Path) -> None:
    server.files = {name: data for name, data in server.files.items() if not name.endswith(".safetensors")}
    done = pulled(ID, tmp_path, server.url)
    assert "has no weights in safetensors" in done.stderr
    assert not any("/resolve/" in path for path in server.asked)


def test_an_id_that_the_hub_lacks_is_named(server: Hub, tmp_path: Path) -> None:
    done = pulled("org/no-such-model", tmp_path, server.url)
    assert done.returncode == 1
    assert f"{server.url} has no model org/no-such-model" in done.stderr


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["no answer", "told to be offline"])
def test_offline_the_error_says_how_to_go_on(tmp_path: Path, environment: dict[str, str]) -> None:
    done = pulled(ID, tmp_path, "http://127.0.0.1:9", **environment)
    assert done.returncode == 1
    assert f"can't reach http://127.0.0.1:9 for {ID}" in done.stderr
    assert "set train.base to its path" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["minilm", "/models/e5", "./e5", "~/models/e5", "a/b/c", "hub://org", "org/", "s3://bucket/e5"])
def test_what_is_no_id_is_not_asked_for(name: str) -> None:
    assert not hub.is_id(name)


def test_a_folder_of_that_name_counts_before_the_hub(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org/model").mkdir(parents=True)
    (tmp_path / "org/model/model.safetensors").write_bytes(files["model.safetensors"])
    monkeypatch.chdir(tmp_path)
    assert weights.pull("org/model") == tmp_path / "org/model"


def test_an_id_that_no_hub_has_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no id of a model hub"):
        weights.pull("no such thing")
