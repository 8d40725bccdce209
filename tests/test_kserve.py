"""A deployment as manifests: the fields that KServe's v1beta1, apps/v1 and autoscaling/v2 have, by a YAML reader that is not ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ragstone import service, store
from ragstone.cli import app
from ragstone.config import Settings
from ragstone.errors import ConfigError
from ragstone.serve import kserve
from tests.test_service import SEEDS, written

LLM: dict[str, Any] = {
    "name": "pump-llm",
    "model": "hub://Qwen/Qwen3-8B",
    "metadata": {"cpu": 8, "memory": 32000, "gpu": 1},
    "replicas": {"min": 2, "max": 10, "target_cpu": 65, "scale_down": 120},
    "context": 4096,
}


def rendered(settings: Settings, folder: Path, to: str = "kserve", **told: Any) -> list[Any]:
    found = service.read(written(folder, {**LLM, **told}), "v1", settings)
    return list(yaml.safe_load_all(service.explain(found, to)))


def test_an_inference_service_runs_vllm_between_its_bounds(settings: Settings, tmp_path: Path) -> None:
    (found,) = rendered(settings, tmp_path)
    assert (found["apiVersion"], found["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert found["metadata"]["name"] == "pump-llm-v1"
    assert found["metadata"]["annotations"] == {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "hpa",
    }
    assert found["spec"] == {
        "predictor": {
            "minReplicas": 2,
            "maxReplicas": 10,
            "scaleMetric": "cpu",
            "scaleTarget": 65,
            "model": {
                "modelFormat": {"name": "huggingface"},
                "args": ["--model_name=pump-llm", "--max_model_len=4096"],
                "storageUri": "hf://Qwen/Qwen3-8B",
                "resources": {
                    "requests": {"cpu": "8", "memory": "32000Mi", "nvidia.com/gpu": "1"},
                    "limits": {"nvidia.com/gpu": "1"},
                },
            },
        }
    }


def test_without_kserve_a_deployment_a_service_and_an_autoscaler_do_it(settings: Settings, tmp_path: Path) -> None:
    workload, front, scaler = rendered(settings, tmp_path, "kserve://plain")
    assert [(one["apiVersion"], one["kind"]) for one in (workload, front, scaler)] == [
        ("apps/v1", "Deployment"),
        ("v1", "Service"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ]
    pod = workload["spec"]["template"]
    assert workload["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == front["spec"]["selector"]
    assert "replicas" not in workload["spec"]
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["--model=Qwen/Qwen3-8B", "--served-model-name=pump-llm", "--port=8000", "--max-model-len=4096"]
    assert container["ports"] == [{"name": "http", "containerPort": 8000}]
    assert front["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    assert scaler["spec"] == {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload["metadata"]["name"]},
        "minReplicas": 2,
        "maxReplicas": 10,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 65}}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 120}},
    }


def test_the_seeds_service_json_is_enough_to_see_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, SEEDS)
    told = CliRunner().invoke(app, ["deploy", str(file), "--to", "kserve", "--dry-run"], catch_exceptions=False).output
    (found,) = yaml.safe_load_all(told)
    assert found["spec"]["predictor"]["maxReplicas"] == 10
    assert 'Still to be said in the file: "model"' in told
    assert not (tmp_path / ".ragstone").exists()


def test_a_fixed_number_of_replicas_has_no_autoscaler(settings: Settings, tmp_path: Path) -> None:
    workload, _ = rendered(settings, tmp_path, "kserve://plain", replicas={"min": 3})
    assert workload["spec"]["replicas"] == 3
    (found,) = rendered(settings, tmp_path, replicas={"min": 3})
    assert found["spec"]["predictor"].keys() == {"minReplicas", "maxReplicas", "model"}


def test_a_container_of_pai_eas_is_taken_as_it_is(settings: Settings, tmp_path: Path) -> None:
    told = {"image": "registry/own:1", "script": "serve --port 9000 # as 'it' is: \"so\"", "port": 9000}
    workload, *_ = rendered(settings, tmp_path, "kserve://plain", containers=[told])
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["sh", "-c", told["script"]]
    assert (container["image"], container["ports"][0]["containerPort"]) == (told["image"], 9000)


def test_a_canary_by_revisions_is_scaled_by_the_cpu_as_knative_needs_it_told(settings: Settings, tmp_path: Path) -> None:
    """KServe refuses `scaleMetric: cpu` in its Knative mode without this class."""
    told = {"serving.kserve.io/deploymentMode": "Knative"}
    (found,) = rendered(settings, tmp_path, "kserve://?canary=10")
    assert found["metadata"]["annotations"] == {**told, "autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"}
    (fixed,) = rendered(settings, tmp_path, "kserve://?canary=10", replicas={"min": 3})
    assert fixed["metadata"]["annotations"] == told


def test_a_canary_of_the_standard_mode_says_what_it_would_patch(settings: Settings, tmp_path: Path) -> None:
    told = service.explain(service.read(written(tmp_path, LLM), "v2", settings), "kserve://?canary=10&mode=standard")
    assert '"canary": [{"trafficPercent": 10, "predictor": {"name": "v2"' in told
    (found,) = yaml.safe_load_all(told)
    assert (found["metadata"]["name"], found["spec"]["predictor"]["name"]) == ("pump-llm", "v2")
    with pytest.raises(ConfigError, match="mode=raw can't be"):
        kserve.read("kserve://?canary=10&mode=raw")
    with pytest.raises(ConfigError, match="and of a canary"):
        kserve.read("kserve://?mode=standard")


@pytest.mark.parametrize(
    ("model", "uri"),
    [("Qwen/Qwen3-8B", "hf://Qwen/Qwen3-8B"), ("s3://bucket/model", "s3://bucket/model"), ("pvc://claim/model", "pvc://claim/model")],
)
def test_a_model_is_named_as_kserve_names_it(settings: Settings, tmp_path: Path, model: str, uri: str) -> None:
    (found,) = rendered(settings, tmp_path, model=model)
    assert found["spec"]["predictor"]["model"]["storageUri"] == uri


def test_what_a_cluster_can_not_do_is_an_error(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a cluster can't get the model 'local://smollm2'"):
        rendered(settings, tmp_path, model="local://smollm2")
    with pytest.raises(ConfigError, match="no kind of cluster"):
        rendered(settings, tmp_path, "kserve://knative")
    found = service.read(written(tmp_path, SEEDS), "v1", settings)
    with pytest.raises(ConfigError, match="needs a model"):
        service.deploy(settings, store.connect(settings.store_url), found, print, "kserve")


@pytest.mark.parametrize(("given", "made"), [("pump.llm", "pump-llm-v1"), ("7b", "s-7b-v1"), ("p" * 31, "p" * 31 + "-v1")])
def test_names_are_such_as_a_service_may_have(settings: Settings, tmp_path: Path, given: str, made: str) -> None:
    assert kserve.name(service.read(written(tmp_path, {**LLM, "name": given}), "v1", settings)) == made
