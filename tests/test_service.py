"""Versions of generators, deployed from a service.json and given shares of the questions by releases."""

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from ragstone import project, release, service, store, telemetry
from ragstone.api import releases
from ragstone.api.app import JsonLines
from ragstone.cli import app
from ragstone.config import Serve, Settings, override
from ragstone.errors import ConfigError, Conflict, GeneratorError, ReleaseError
from ragstone.serve import Deployment
from ragstone.serve import deployed as settings_of
from ragstone.serve.local import LocalGenerator
from ragstone.show import Silence
from ragstone.store import Store

SEEDS: dict[str, Any] = {"AutoScaling": {"MinInstances": 2, "MaxInstances": 10, "TargetCpuUtilization": 70}}
EAS: dict[str, Any] = {
    "metadata": {"name": "llm", "instance": 2, "cpu": 4, "memory": 8000, "gpu": 1},
    "containers": [{"image": "registry/vllm", "port": 8000}],
    "storage": [{"mount_path": "/model", "oss": {"path": "oss://bucket/model"}}],
    "autoscaler": {"min": 2, "max": 10, "scaleStrategies": [{"metricName": "qps", "threshold": 9}, {"metricName": "cpu", "threshold": 60}]},
    "model": "local://smollm2",
}


@pytest.fixture
def opened(settings: Settings) -> Store:
    return store.connect(settings.store_url)


def written(folder: Path, told: object, name: str = "service.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


def deployment(settings: Settings, tmp_path: Path, version: str = "v1", **told: Any) -> Deployment:
    return service.read(written(tmp_path, {"name": "llm", "context": 1024, "slots": 1, **told}), version, settings)


def test_the_seeds_service_json_is_taken_as_written(settings: Settings, tmp_path: Path) -> None:
    found = service.read(written(tmp_path, SEEDS, "pump-llm.json"), "v1", settings)
    assert found.id == "pump-llm/v1"
    assert found.serve == {"url": settings.serve.url, "replicas": 2, "replicas_most": 10, "target_cpu": 70.0}
    assert found.unused == ()


def test_pai_eas_fields_mean_what_they_mean_there_and_the_rest_is_named(settings: Settings, tmp_path: Path) -> None:
    found = service.read(written(tmp_path, EAS), "v2", settings)
    assert found.id == "llm/v2"
    assert found.serve == {"url": "local://smollm2", "replicas": 2, "replicas_most": 10, "target_cpu": 60.0, "threads": 4}
    told = service.explain(found)
    assert "serve.target_cpu = 60.0  <- AutoScaling.TargetCpuUtilization" not in told
    assert "serve.target_cpu = 60.0  <- autoscaler.scaleStrategies" in told
    assert "metadata.gpu is not used here" in told
    assert "storage is not used here" in told


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([], "must hold a JSON object"),
        ({"AutoScaling": {"MinInstance": 2}}, "'AutoScaling.MinInstance' is unknown"),
        ({"modle": "x"}, "'modle' is unknown"),
        ({"AutoScaling": {"MinInstances": "2"}}, "MinInstances = '2' is no number"),
        ({"replicas": {"min": 3, "max": 2}}, "3 replicas at least and 2 at most"),
        ({"replicas": {"min": 0}}, "0 replicas at least"),
        ({"AutoScaling": {"TargetCpuUtilization": 170}}, "a CPU target of 170 %"),
        ({"metadata": "small"}, "metadata must hold an object"),
        ({"containers": {"image": "registry/vllm"}}, "containers must hold a list"),
        ({"name": "Big Model"}, "'Big Model'"),
        ({"name": "0123456789ab"}, "not 12 hex digits"),
    ],
)
def test_what_can_not_be_meant_is_an_error_that_names_it(settings: Settings, tmp_path: Path, told: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        service.read(written(tmp_path, told), "v1", settings)


def test_a_file_that_is_no_json_is_an_error(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "service.json").write_text("{")
    with pytest.raises(ConfigError, match=r"service\.json can't be read as JSON"):
        service.read(tmp_path / "service.json", "v1", settings)


def test_versions_share_the_questions_and_can_be_taken_back(settings: Settings, opened: Store, manuals: Path, tmp_path: Path) -> None:
    first = project.build(settings, opened, Silence())
    for version in ("v1", "v2"):
        service.deploy(settings, opened, deployment(settings, tmp_path, version, max_tokens=16 if version == "v1" else 32), print)
    assert release.current(opened, "production") is not None
    assert release.load(opened, release.resolve(opened, "production")).id == first.id  # deployed is not in force

    shared = service.share(opened, "production", {"v1": 90, "llm/v2": 10})
    now = release.load(opened, shared.release)
    assert now == replace(first, generator={"llm/v1": 90, "llm/v2": 10})
    assert settings_of(opened, "llm/v2", settings).serve.max_tokens == 32

    only = service.share(opened, "production", {"v2": 100})
    assert release.load(opened, only.release).generator == {"llm/v2": 100}
    assert project.build(settings, opened, Silence()).generator == {"llm/v2": 100}  # serve.url counts no more

    (manuals / "new.md").write_text("# New\n\nThe bearing is greased every 400 hours.\n")
    built = project.build(settings, opened, Silence())
    back = release.load(opened, service.rollback(opened, "production").release)
    assert back == replace(built, generator={"llm/v1": 90, "llm/v2": 10})
    assert "".join(project.ask(settings, opened, "How often is the bearing greased?", ("public",)))


def test_a_version_that_can_not_answer_is_not_kept(settings: Settings, opened: Store, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    with pytest.raises(GeneratorError, match="can't be loaded"):
        service.deploy(settings, opened, deployment(settings, tmp_path, model=f"local://{broken}"), print)
    assert service.deployed(opened) == []


def test_a_version_never_changes(settings: Settings, opened: Store, tmp_path: Path) -> None:
    service.deploy(settings, opened, deployment(settings, tmp_path), print)
    service.deploy(settings, opened, deployment(settings, tmp_path), print)
    with pytest.raises(Conflict, match="llm/v1 is deployed with other settings"):
        service.deploy(settings, opened, deployment(settings, tmp_path, max_tokens=5), print)


def test_shares_that_can_not_be_are_errors(settings: Settings, opened: Store, manuals: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="has no release to put a generator in"):
        service.share(opened, "production", {"v1": 100})
    project.build(settings, opened, Silence())
    with pytest.raises(ReleaseError, match="'v1' is no version"):
        service.share(opened, "production", {"v1": 100})
    with pytest.raises(ReleaseError, match="never had other generators"):
        service.rollback(opened, "production")
    opened.create("services/a/v1.json", b"{}")
    opened.create("services/b/v1.json", b"{}")
    with pytest.raises(ReleaseError, match="'v1' could be a/v1 or b/v1"):
        service.share(opened, "production", {"v1": 100})
    with pytest.raises(ReleaseError, match="must add up to 100"):
        service.share(opened, "production", {"a/v1": 60, "b/v1": 60})


def test_the_commands_do_it_as_the_help_says(settings: Settings, manuals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(settings.folder)
    project.build(settings, store.connect(settings.store_url), Silence())
    file = written(settings.folder, {**SEEDS, "context": 1024, "slots": 1})

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "serve.replicas_most = 10  <- AutoScaling.MaxInstances" in said("deploy", str(file), "--version", "v1", "--explain")
    assert "ragstone service promote service/v1" in said("deploy", str(file), "--version", "v1")
    assert "service/v1" in said("service", "list")
    said("service", "promote", "v1")
    assert "100 %" in said("service", "list").split("service/v1")[1]
    said("service", "rollback")
    assert "  0 %" in said("service", "list").split("service/v1")[1]


def test_settings_of_a_deployment_are_over_those_of_the_machine(settings: Settings, opened: Store, tmp_path: Path) -> None:
    service.deploy(settings, opened, deployment(settings, tmp_path, **SEEDS), print)
    serve = settings_of(opened, "llm/v1", override(settings, "serve", replicas=1, timeout=7.0)).serve
    assert (serve.replicas, serve.replicas_most, serve.timeout) == (2, 10, 7.0)


def test_a_log_is_that_of_one_version(settings: Settings, opened: Store) -> None:
    opened.create("services/llm/v1.json", b'{"url": "local://smollm2"}')
    with pytest.raises(ConfigError, match=r"there is no log .*origin\.log"):
        service.logs(settings, opened, "v1", 5)
    lines = [{"at": str(at), "service": id, "message": f"line {at}"} for at, id in enumerate(["llm/v1", "llm/v2", "llm/v1"])]
    settings.origin_log.parent.mkdir(parents=True)
    settings.origin_log.write_text("\n".join([*map(json.dumps, lines), "Traceback", "[]"]))
    assert service.logs(settings, opened, "v1", 5) == ["0  line 0", "2  line 2"]
    assert service.logs(settings, opened, "llm/v1", 1) == ["2  line 2"]


def test_what_a_replica_does_is_logged_under_the_version_it_serves(caplog: pytest.LogCaptureFixture) -> None:
    handler = logging.Handler()
    told: list[str] = []
    handler.emit = lambda record: told.append(JsonLines().format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("ragstone.replicas")
    logger.addHandler(handler)
    caplog.set_level(logging.INFO, "ragstone.replicas")

    async def case() -> None:
        made = await releases._generator("llm/v1", Settings(serve=Serve(threads=1, slots=1, context=1024)))
        assert isinstance(made, LocalGenerator)
        assert made._replicas is not None
        psutil.Process(made._replicas.ready[0].pid).kill()
        async with asyncio.timeout(60):
            while not any("ended with status" in line for line in told):
                await asyncio.sleep(0.05)
        await made.close()

    asyncio.run(case())
    logger.removeHandler(handler)
    assert {json.loads(line)["service"] for line in told} == {"llm/v1"}
    assert telemetry.service() == ""
