"""PAI-EAS against a cloud on loopback (`cloud.py`): every request is signed and checked, and the service that it makes answers."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from typer.testing import CliRunner

from ragstone import config, project, release, serve, service, store
from ragstone.cli import app
from ragstone.config import Settings, override
from ragstone.errors import ConfigError, Conflict, GeneratorError, ReleaseError
from ragstone.serve import Deployment, Message, Sampling
from ragstone.show import Silence
from ragstone.store import Store
from tests import cloud as clouds
from tests.cloud import KEY, REGION, SECRET, Cloud
from tests.services import TOKEN
from tests.test_service import written

eas = pytest.importorskip("ragstone.serve.eas", reason="pip install 'ragstone[eas]'")

LLM: dict[str, Any] = {
    "name": "pump-llm",
    "metadata": {"cpu": 8, "memory": 32000, "gpu": 1},
    "containers": [{"image": "registry/vllm", "script": "vllm serve /model", "port": 8000}],
    "AutoScaling": {"MinInstances": 2, "MaxInstances": 10, "TargetCpuUtilization": 70},
}
NAME = "pump_llm_v1"


@pytest.fixture
def opened(settings: Settings) -> Store:
    return store.connect(settings.store_url)


def place(cloud: Cloud, **options: str) -> str:
    given = {"region": REGION, "endpoint": cloud.endpoint, "poll": "0.01", **options}
    return "eas://?" + "&".join(f"{name}={quote(value)}" for name, value in given.items())


def deployment(settings: Settings, folder: Path, version: str = "v1", **told: Any) -> Deployment:
    return service.read(written(folder, {**LLM, **told}), version, settings)


def deployed(cloud: Cloud, settings: Settings, opened: Store, folder: Path, version: str = "v1", **told: Any) -> list[str]:
    """What was said meanwhile."""
    said: list[str] = []
    service.deploy(settings, opened, deployment(settings, folder, version, **told), said.append, place(cloud))
    return said


def kept(opened: Store, name: str = "pump-llm/v1") -> str:
    return str(json.loads(opened.get(f"services/{name}.json"))["url"])


def answer(settings: Settings, url: str) -> str:
    async def case() -> str:
        generator = serve.connect(override(settings, "serve", url=url))
        try:
            await generator.start()
            assert await generator.healthy()
            return "".join([piece.text async for piece in generator.stream([Message("user", "What is it?")], Sampling())])
        finally:
            await generator.close()

    return asyncio.run(case())


def test_a_deployment_becomes_a_service_that_answers(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    said = deployed(cloud, settings, opened, tmp_path)
    made = cloud.services.there[NAME]
    assert made.asked == {"name": NAME, "metadata": {**LLM["metadata"], "instance": 2}, "containers": LLM["containers"]}
    assert made.scaler == {"min": 2, "max": 10, "scaleStrategies": [{"metricName": "cpu", "threshold": 70}]}
    assert any("pump_llm_v1 is Creating: pulling the image (0 of 2 instances)" in line for line in said)
    assert kept(opened).startswith(f"eas://{NAME}?region={REGION}&digest=")
    assert answer(settings, kept(opened)) == "The pump."
    assert {asked["model"] for asked in cloud.services.asked} == {"qwen"}


def test_what_is_asked_for_is_what_explain_says(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    told = service.explain(deployment(settings, tmp_path), place(cloud))
    assert not cloud.calls
    deployed(cloud, settings, opened, tmp_path)
    lines = told.splitlines()
    explained = [unquote(re.sub(r"https?://[^/]*", "", line)) for line in lines if re.match(r"(GET|POST|PUT) ", line)]
    sent = [unquote(call) for call in cloud.calls if "/api/predict" not in call]
    assert set(sent) <= set(explained)
    assert [call for call in sent if call[:4] == "POST"] == [call for call in explained if call[:4] == "POST"]
    bodies = re.findall(r"^\{$.*?^\}$", told, re.M | re.S)
    assert [json.loads(one) for one in bodies] == [cloud.services.there[NAME].asked, cloud.services.there[NAME].scaler]
    assert lines[-1] == f"# {kept(opened)}"


def test_explain_needs_neither_keys_nor_a_region_nor_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clouds.keys(monkeypatch, None, None)
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, {"AutoScaling": LLM["AutoScaling"]})
    told = CliRunner().invoke(app, ["deploy", str(file), "--version", "v1", "--to", "eas", "--explain"], catch_exceptions=False).output
    assert "POST https://pai-eas.REGION.aliyuncs.com/api/v2/services?Labels=" in told
    assert '"max": 10' in told
    assert "still to be said in the file: what it runs" in told
    assert not (tmp_path / ".ragstone").exists()


def test_explain_shows_no_secret_of_the_file(settings: Settings, tmp_path: Path) -> None:
    env = [{"name": "HF_TOKEN", "value": "hidden-1"}, {"name": "MODE", "value": "shown"}]
    secret = [{**LLM["containers"][0], "script": "vllm serve --api-key hidden-2 --max-tokens 9", "env": env}]
    told = service.explain(
        deployment(settings, tmp_path, containers=secret, token="hidden-3", dockerAuth="hidden-4"), "eas://?region=cn-hangzhou"
    )
    assert "hidden" not in told
    assert '"value": "shown"' in told
    assert "--max-tokens 9" in told


def test_a_second_deploy_creates_nothing(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    deployed(cloud, settings, opened, tmp_path)
    cloud.calls.clear()
    deployed(cloud, settings, opened, tmp_path)
    assert not [call for call in cloud.calls if call.startswith(("POST /api/v2", "PUT /api/v2"))]


@pytest.mark.parametrize("call", [r"POST /api/v2/services\?", r"GET /api/v2/services/\S+/autoscaler", r"POST /api/v2\S+/autoscaler"])
def test_an_interrupted_deploy_goes_on(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path, call: str) -> None:
    cloud.cut = {call: 1}
    with pytest.raises(GeneratorError) as lost:
        deployed(cloud, settings, opened, tmp_path)
    assert lost.value.hint == eas.AGAIN
    assert service.deployed(opened) == []
    deployed(cloud, settings, opened, tmp_path)
    assert cloud.services.there[NAME].scaler["max"] == 10
    assert service.deployed(opened) == ["pump-llm/v1"]


def test_a_creation_whose_answer_was_lost_is_not_made_twice(
    cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = cloud.services._create

    def lose(query: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        create(query, body)
        raise clouds.Refused(504, "GatewayTimeout", "no answer")

    monkeypatch.setattr(cloud.services, "_create", lose)
    with pytest.raises(GeneratorError, match=f"can't create the PAI-EAS service {NAME}: GatewayTimeout: .*no answer"):
        deployed(cloud, settings, opened, tmp_path)
    deployed(cloud, settings, opened, tmp_path)
    assert len(cloud.services.there) == 1


def test_a_lost_connection_while_it_starts_is_borne(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    create = cloud.services._create

    def cut(query: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        cloud.cut = {rf"GET /api/v2/services/{REGION}/{NAME}$": 3}
        return create(query, body)

    cloud.services._create = cut  # type: ignore[method-assign, assignment]
    deployed(cloud, settings, opened, tmp_path)
    assert set(cloud.cut.values()) == {0}


def test_a_service_that_fails_says_why_and_is_not_kept(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    cloud.services.fails, cloud.services.message = True, "the image can't be pulled"
    with pytest.raises(GeneratorError, match=f"{NAME} is Failed: the image can't be pulled") as failed:
        deployed(cloud, settings, opened, tmp_path)
    assert "ragstone service delete 'eas://" in failed.value.hint
    assert service.deployed(opened) == []

    url = re.findall("'(.*)'", failed.value.hint)[0]
    service.delete(opened, "production", url)
    cloud.services.fails = False
    deployed(cloud, settings, opened, tmp_path, containers=[{**LLM["containers"][0], "image": "another"}])
    assert service.deployed(opened) == ["pump-llm/v1"]


def test_a_stopped_service_is_started_again(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    deployed(cloud, settings, opened, tmp_path)
    cloud.services.there[NAME].status = "Stopped"
    deployed(cloud, settings, opened, tmp_path)
    assert cloud.services.there[NAME].status == "Running"


def test_a_name_that_another_has_is_left_alone(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    theirs = cloud.services.answer("POST", "", {}, {**LLM, "name": NAME, "metadata": {}})
    assert theirs["ServiceName"] == NAME
    with pytest.raises(Conflict, match=f"has a PAI-EAS service {NAME} already, and Ragstone did not make it"):
        deployed(cloud, settings, opened, tmp_path)
    del cloud.services.there[NAME]
    deployed(cloud, settings, opened, tmp_path)
    with pytest.raises(Conflict, match="pump-llm/v1 is deployed with other settings"):
        deployed(cloud, settings, opened, tmp_path, storage=[])
    opened.delete("services/pump-llm/v1.json")
    with pytest.raises(Conflict, match="it was deployed with other settings"):
        deployed(cloud, settings, opened, tmp_path, storage=[])


def test_missing_rights_and_wrong_keys_are_errors_that_say_what_to_set(
    cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(query: object, body: object) -> dict[str, Any]:
        raise clouds.Refused(403, "Forbidden", "the user may not do eas:CreateService")

    monkeypatch.setattr(cloud.services, "_create", forbid)
    with pytest.raises(GeneratorError, match="may not do eas:CreateService") as refused:
        deployed(cloud, settings, opened, tmp_path)
    assert "ALIBABA_CLOUD_ACCESS_KEY_ID" in refused.value.hint
    cloud.secrets["eas"] = "another-secret"
    with pytest.raises(GeneratorError, match="SignatureDoesNotMatch") as refused:
        deployed(cloud, settings, opened, tmp_path)
    assert "ALIBABA_CLOUD_ACCESS_KEY_ID" in refused.value.hint


def test_no_token_and_no_key_is_in_a_log_an_error_a_message_or_a_file(
    cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    said = deployed(cloud, settings, opened, tmp_path)
    url = kept(opened)
    said.append(service.status(opened, "v1"))
    generator = serve.connect(override(settings, "serve", url=url))
    asyncio.run(generator.start())
    said += [repr(vars(generator)), repr(generator._endpoint)]  # type: ignore[attr-defined]
    asyncio.run(generator.close())
    cloud.services.predict = refuse  # type: ignore[method-assign]
    with pytest.raises(GeneratorError) as refused:
        answer(settings, url)
    said += [str(refused.value), repr(refused.value.__cause__), caplog.text, *capfd.readouterr()]
    said += [path.read_text(errors="replace") for path in settings.folder.rglob("*") if path.is_file()]
    for text in said:
        for secret in (TOKEN, SECRET, KEY):
            assert secret not in text


def refuse(method: str, target: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
    raise clouds.Refused(401, "Unauthorized", f"the token {headers['authorization']} is wrong")


def test_a_token_that_was_renewed_is_asked_for_again(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    deployed(cloud, settings, opened, tmp_path)

    async def case() -> str:
        generator = serve.connect(override(settings, "serve", url=kept(opened)))
        await generator.start()
        cloud.services.token = "a-new-token"
        try:
            return "".join([piece.text async for piece in generator.stream([Message("user", "What is it?")], Sampling())])
        finally:
            await generator.close()

    assert asyncio.run(case()) == "The pump."


def test_versions_on_pai_eas_share_the_questions_by_releases(
    cloud: Cloud, settings: Settings, opened: Store, manuals: Path, tmp_path: Path
) -> None:
    project.build(settings, opened, Silence())
    for version in ("v1", "v2"):
        deployed(cloud, settings, opened, tmp_path, version)
    service.share(opened, "production", {"v1": 90, "v2": 10})
    assert set(cloud.services.there) == {"pump_llm_v1", "pump_llm_v2"}
    calls = len(cloud.calls)
    service.rollback(opened, "production")
    service.share(opened, "production", {"v2": 100})
    assert len(cloud.calls) == calls  # what moves shares is a release
    assert release.load(opened, release.resolve(opened, "production")).generator == {"pump-llm/v2": 100}
    questions = len(cloud.services.asked)
    assert "".join(project.ask(settings, opened, "How long is the feed pump primed before it is started?", ("public",)))
    assert len(cloud.services.asked) == questions + 1

    with pytest.raises(ReleaseError, match="pump-llm/v2 answers questions"):
        service.delete(opened, "production", "v2")
    service.delete(opened, "production", "v1")
    assert set(cloud.services.there) == {"pump_llm_v2"}


def test_a_fixed_scale_takes_the_autoscaler_away(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    deployed(cloud, settings, opened, tmp_path)
    service.scale(opened, "v1", 5)
    assert service.status(opened, "v1") == f"{NAME} is Running (5 of 5 instances)"
    assert not cloud.services.there[NAME].scaler


def test_equal_bounds_need_no_autoscaler(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    deployed(cloud, settings, opened, tmp_path, AutoScaling={"MinInstances": 3, "MaxInstances": 3})
    assert cloud.services.there[NAME].instances == 3
    assert not cloud.services.there[NAME].scaler


def test_strategies_of_pai_eas_are_passed_on(settings: Settings, tmp_path: Path) -> None:
    written = {"min": 1, "max": 4, "scaleStrategies": [{"metric_name": "qps", "threshold": 9}, {"metricName": "cpu", "threshold": 62.5}]}
    behavior = {"onZero": {"scaleUpActivationReplicas": 1}}
    found = deployment(settings, tmp_path, AutoScaling={}, autoscaler={**written, "behavior": behavior})
    assert eas.scaler(found) == {
        "min": 1,
        "max": 4,
        "scaleStrategies": [{"metricName": "qps", "threshold": 9}, {"metricName": "cpu", "threshold": 62.5}],
        "behavior": behavior,
    }
    assert "autoscaler" not in eas.body(found, eas.Place())


def test_a_group_is_passed_on_and_is_part_of_the_url(settings: Settings, tmp_path: Path) -> None:
    found = deployment(settings, tmp_path)
    url = eas.address(found, "eas://?region=cn-hangzhou&group=pump")
    assert url.startswith("eas://pump_llm_v1?region=cn-hangzhou&group=pump&digest=")
    assert eas.body(found, eas.read(url))["metadata"]["group"] == "pump"
    assert url != eas.address(found, "eas://?region=cn-hangzhou")


def test_a_public_address_is_called_over_tls(
    cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(cloud, settings, opened, tmp_path)
    cloud.services.endpoint = "http://1234.cn-hangzhou.pai-eas.aliyuncs.com"
    assert eas._services(kept(opened)).endpoint().url == f"https://1234.cn-hangzhou.pai-eas.aliyuncs.com/api/predict/{NAME}/v1"
    assert eas._services(f"{kept(opened)}&network=vpc").endpoint().url.startswith("http://1234.")


@pytest.mark.parametrize(
    ("to", "told", "message"),
    [
        ("eas", {}, "needs a region"),
        ("eas://?region=cn-hangzhou", {"containers": None}, "needs what it runs"),
        ("eas://?regoin=x", {}, "no 'regoin'"),
        ("eas://?region=x&network=both", {}, "network=both"),
        ("eas://token@?region=x", {}, "takes no token"),
        ("eas://?region=x&poll=soon", {}, "poll=soon"),
        ("eas://?region=x&endpoint=http://example.com", {}, "is not encrypted"),
        ("openai", {}, "nothing is deployed to 'openai'"),
    ],
)
def test_what_can_not_be_meant_is_an_error_before_anything_is_sent(
    settings: Settings, opened: Store, tmp_path: Path, to: str, told: dict[str, Any], message: str
) -> None:
    file = written(tmp_path, {name: value for name, value in {**LLM, **told}.items() if value is not None})
    with pytest.raises(ConfigError, match=re.escape(message)):
        service.deploy(settings, opened, service.read(file, "v1", settings), print, to)


def test_a_url_without_a_service_is_no_generator(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="must name a service and its region"):
        serve.connect(override(settings, "serve", url="eas://?region=cn-hangzhou"))


def test_the_commands_do_it_as_the_help_says(cloud: Cloud, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(settings.folder)
    (settings.folder / config.FILE).write_text(f'serve.url = "{place(cloud)}"\n')
    file = written(settings.folder, LLM)

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "ragstone service promote pump-llm/v1" in said("deploy", str(file), "--version", "v1", "--to", "eas")
    said("service", "scale", "v1", "3")
    assert "is Running (3 of 3 instances)" in said("service", "status", "v1")
    for _ in range(2):  # what is gone is no error
        said("service", "delete", "v1")
    assert not cloud.services.there
