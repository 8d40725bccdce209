"""Training logs: real event files, a real store of MLflow's, and its official client against servers that answer, lie, die and hang."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tensorboardX.proto.event_pb2 import SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from ragstone import tracking
from ragstone.errors import ConfigError
from ragstone.recipe import Progress
from ragstone.show import Silence
from tests.events import events, scalars

ROOT = Path(__file__).parents[1]
SETTINGS = {"batch": 32, "interpolations": (0.5, 0.75), "snapshot": "0f3a"}


class Lines(Silence):
    """What is said, kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run(url: str, folder: Path, steps: range = range(1, 4), name: str = "a1b2") -> list[str]:
    """What is said while a run of these steps is logged; its loss is the step's inverse."""
    said = Lines()
    with tracking.journal(url, folder, name, SETTINGS, said) as journal:
        for step in steps:
            journal.step(Progress(step, 3, 1 / step, 3.0 - step, 1e-5))
        journal.figures({"verdict/gain": 0.02, "verdict/promoted": True, "verdict/reason": "text is no figure"})
    return said.lines


def interrupt(url: str, folder: Path) -> None:
    """A run that Ctrl-C ends after its second step."""
    with suppress(KeyboardInterrupt), tracking.journal(url, folder, "a1b2", SETTINGS, Silence()) as journal:
        journal.step(Progress(1, 3, 1.0, 2.0))
        journal.step(Progress(2, 3, 0.5, 1.0))
        raise KeyboardInterrupt


def test_steps_and_verdict_are_curves_in_tensorboard(tmp_path: Path) -> None:
    assert run("tensorboard:runs", tmp_path) == []
    found = scalars(tmp_path / "runs" / "a1b2")
    assert found["loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [step for step, _ in found["learning_rate"]] == [1, 2, 3]
    assert {name: points for name, points in found.items() if name.startswith("verdict/")} == {
        "verdict/gain": [(3, pytest.approx(0.02))],
        "verdict/promoted": [(3, 1.0)],
    }
    assert set(found) == {"loss", "seconds_left", "learning_rate", "verdict/gain", "verdict/promoted"}


def test_settings_are_tensorboards_hyperparameters(tmp_path: Path) -> None:
    run("tensorboard:runs", tmp_path)
    values = [value for event in events(tmp_path / "runs" / "a1b2") for value in event.summary.value]
    told = [HParamsPluginData.FromString(value.metadata.plugin_data.content) for value in values if value.tag.startswith("_hparams_/")]
    (start,) = [one.session_start_info for one in told if one.HasField("session_start_info")]
    assert {name: value.number_value or value.string_value for name, value in start.hparams.items()} == {
        "batch": 32,
        "interpolations": "(0.5, 0.75)",
        "snapshot": "0f3a",
    }
    assert sum(one.HasField("session_end_info") for one in told) == 1


@pytest.mark.parametrize(("steps", "starts"), [(range(2, 4), [1, 2]), (range(0), [1])], ids=["a step again", "only the verdict"])
def test_a_run_that_goes_on_takes_back_what_tensorboard_has_of_the_same_steps(steps: range, starts: list[int], tmp_path: Path) -> None:
    interrupt("tensorboard:runs", tmp_path)
    run("tensorboard:runs", tmp_path, steps)
    started = [event.step for event in events(tmp_path / "runs" / "a1b2") if event.session_log.status == SessionLog.START]
    assert started == starts


def test_a_folder_that_can_not_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    (said,) = run("tensorboard:runs", tmp_path)
    assert said.startswith("log       tensorboard:runs failed, and this run is not logged any further: ")
    assert "Not a directory" in said


def test_an_mlflow_run_has_parameters_curves_and_an_end(tmp_path: Path) -> None:
    store = (tmp_path / "mlruns").as_uri()
    assert run(f"mlflow:{store}", tmp_path) == []
    (kept,) = runs_in(store)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"batch": "32", "interpolations": "(0.5, 0.75)", "snapshot": "0f3a"}
    history = MlflowClient(store).get_metric_history(kept.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert kept.data.metrics["verdict/gain"] == 0.02


def runs_in(store: str) -> list[Any]:
    client = MlflowClient(store)
    return list(client.search_runs([client.get_experiment_by_name("ragstone").experiment_id]))


def test_an_interrupted_run_is_the_same_mlflow_run_when_it_goes_on_and_a_finished_one_is_not(tmp_path: Path) -> None:
    store = (tmp_path / "mlruns").as_uri()
    interrupt(f"mlflow:{store}", tmp_path)
    assert [kept.info.status for kept in runs_in(store)] == ["KILLED"]
    run(f"mlflow:{store}", tmp_path, range(3, 4))
    assert [kept.info.status for kept in runs_in(store)] == ["FINISHED"]
    run(f"mlflow:{store}", tmp_path)
    assert len(runs_in(store)) == 2


def test_an_error_of_the_run_is_its_own_and_the_log_says_failed(tmp_path: Path) -> None:
    store = (tmp_path / "mlruns").as_uri()
    with pytest.raises(ZeroDivisionError), tracking.journal(f"mlflow:{store}", tmp_path, "a1b2", SETTINGS, Silence()):
        _ = 1 / 0
    assert [kept.info.status for kept in runs_in(store)] == ["FAILED"]


RUN = {"run": {"info": {"run_id": "7", "run_uuid": "7", "experiment_id": "1", "status": "RUNNING"}, "data": {}}}
ANSWERS: dict[str, dict[str, Any]] = {
    "experiments/get-by-name": {"experiment": {"experiment_id": "1", "name": "ragstone"}},
    "runs/search": {},
    "runs/create": RUN,
    "runs/get": RUN,
    "runs/update": {"run_info": RUN["run"]["info"]},
    "runs/log-batch": {},
}


class Server(ThreadingHTTPServer):
    """As much of MLflow's REST as a run needs; it keeps what it was sent, and answers no batch of figures once it is `broken`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.sent: list[tuple[str, dict[str, Any], str | None]] = []
        self.broken = self.foreign = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Asked(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        path = self.path.partition("?")[0].removeprefix("/api/2.0/mlflow/")
        self.server.sent.append((path, body, self.headers["authorization"]))
        broken = self.server.broken and "metrics" in body
        content = b"<html>Welcome</html>" if self.server.foreign else json.dumps(ANSWERS.get(path, {})).encode()
        self.send_response(500 if broken else 200 if path in ANSWERS else 404)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_server_gets_the_run_and_its_credentials_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    assert run(f"mlflow:{server.url}", tmp_path) == []
    told = [metric for path, body, _ in server.sent if path == "runs/log-batch" for metric in body.get("metrics", [])]
    assert [metric["step"] for metric in told if metric["key"] == "loss"] == [1, 2, 3]
    assert {authorization for path, _, authorization in server.sent if path in ANSWERS} == {"Bearer a-token"}
    assert "a-token" not in json.dumps([body for _, body, _ in server.sent])


def test_a_server_that_fails_on_the_way_is_said_once_and_the_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.broken = True
    (said,) = run(f"mlflow:{server.url}", tmp_path)
    assert said.startswith(f"log       mlflow:{server.url} failed, and this run is not logged any further: ")
    assert "500" in said
    assert [path for path, _, _ in server.sent][-1] == "runs/log-batch"


def test_a_server_that_is_none_of_mlflow_is_said_once(server: Server, tmp_path: Path) -> None:
    server.foreign = True
    (said,) = run(f"mlflow:{server.url}", tmp_path)
    assert "not logged any further" in said


def test_a_dead_server_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (said,) = run("mlflow:http://127.0.0.1:9", tmp_path)
    assert "Connection refused" in said


def test_a_server_that_never_answers_does_not_hold_the_run_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"mlflow:http://127.0.0.1:{listener.getsockname()[1]}"
        assert run(url, tmp_path) == [f"log       {url} does not answer: the end of the run is not in it"]


def test_mlflow_reports_nothing_to_its_makers(tmp_path: Path) -> None:
    """In a process where nothing else turns that off, as CI and pytest do."""
    script = f"""
from pathlib import Path
from ragstone import show, tracking
with tracking.journal("mlflow:{(tmp_path / "mlruns").as_uri()}", Path(), "a1b2", {{}}, show.Silence()):
    from mlflow.telemetry import get_telemetry_client
    print(get_telemetry_client())
"""
    quiet = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=quiet, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("None\n", "")
    assert len(runs_in((tmp_path / "mlruns").as_uri())) == 1


@pytest.mark.parametrize("uri", ["http://user:s3cret@host:5000", "https://s3cret@host", "http://host?token=s3cret"])
def test_credentials_have_no_place_in_the_uri_and_are_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_TOKEN") as told:
        tracking.check(f"mlflow:{uri}")
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize("url", ["tensorboard", "tensorboard:", "mlflow:", "wandb:project", "runs"])
def test_a_log_that_is_none_is_a_setting_to_mend(url: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.log has no log of the kind"):
        tracking.check(url)


def test_no_log_is_kept_unless_one_is_named(tmp_path: Path) -> None:
    assert run("", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("extra", "package"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow")])
def test_what_is_missing_is_said_with_the_extra_that_brings_it(extra: str, package: str) -> None:
    script = f"import sys; sys.modules[{package!r}] = None\nfrom ragstone import tracking\ntracking.check('{extra}:runs')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"pip install 'ragstone[{extra}]'" in done.stderr
