"""Deploying to a cluster: the real kubectl against an API server on loopback (`kubernetes.py`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragstone import serve, service, store
from ragstone.config import Settings, override
from ragstone.errors import ConfigError, GeneratorError, ReleaseError
from ragstone.kubectl import Kubectl
from ragstone.load import Load
from ragstone.serve import kserve
from ragstone.store import Store
from tests import kubernetes
from tests.kubernetes import TOKEN, Cluster
from tests.speaker import Speaker
from tests.test_service import written

LLM: dict[str, Any] = {"name": "pump-llm", "model": "hub://Qwen/Qwen3-8B", "metadata": {"cpu": 8}, "replicas": {"min": 2, "max": 10}}
NAME = "pump-llm-v1"


@pytest.fixture
def cluster(tmp_path: Path, speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster that the kubectl of this machine is configured for. What is made there answers as the speaker does."""
    if shutil.which("kubectl") is None:
        pytest.skip("deploying to a cluster was NOT run: kubectl is not on the PATH")
    speaker.reset("Yes.")
    with kubernetes.running(tmp_path) as running:
        running.service_url = speaker.url.removeprefix("openai+").partition("/v1")[0]
        (tmp_path / "kubeconfig").write_text(running.configuration)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture
def opened(settings: Settings) -> Store:
    return store.connect(settings.store_url)


def deployed(settings: Settings, opened: Store, folder: Path, to: str = "kserve", version: str = "v1", **told: Any) -> list[str]:
    """What was said meanwhile."""
    said: list[str] = []
    service.deploy(settings, opened, service.read(written(folder, {**LLM, **told}), version, settings), said.append, to)
    return said


def kept(opened: Store, name: str = "pump-llm/v1") -> str:
    return str(json.loads(opened.get(f"services/{name}.json"))["url"])


def test_a_deployment_becomes_an_inference_service_that_answers(
    cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path, speaker: Speaker
) -> None:
    cluster.looks[("inferenceservices", NAME)] = 3
    said = deployed(settings, opened, tmp_path)
    assert cluster.spec(NAME)["predictor"]["maxReplicas"] == 10
    assert any("serverside-applied" in line for line in said)
    assert any(line.endswith(f"{NAME}: Ready") for line in said)
    assert kept(opened).startswith(f"kserve:///{NAME}?model=pump-llm&digest=")
    assert speaker.asked[-1]["model"] == "pump-llm"


def test_what_is_applied_is_what_a_dry_run_prints(cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path) -> None:
    to = "kserve://plain?endpoint=" + cluster.service_url + "/v1"
    told = service.explain(service.read(written(tmp_path, LLM), "v1", settings), to)
    assert not cluster.asked
    deployed(settings, opened, tmp_path, to)
    applied = [body for method, _, body in cluster.asked if method == "PATCH"]
    assert [body["metadata"].pop("namespace") for body in applied] == ["models"] * 3
    assert applied == list(yaml.safe_load_all(told))
    assert {kind for kind, _ in cluster.objects} == {"deployments", "services", "horizontalpodautoscalers"}


def test_deploying_again_applies_the_same_and_keeps_it(cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path) -> None:
    deployed(settings, opened, tmp_path)
    url = kept(opened)
    deployed(settings, opened, tmp_path)
    assert kept(opened) == url
    assert len(cluster.objects) == 1


def test_one_that_does_not_get_ready_is_an_error_in_the_clusters_words_and_is_not_kept(
    cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path
) -> None:
    cluster.ready = False
    with pytest.raises(GeneratorError, match="not Ready \\(PredictorNotReady: pulling the image\\)") as late:
        deployed(settings, opened, tmp_path, "kserve://?wait=1")
    assert "ragstone service logs" in late.value.hint
    assert service.deployed(opened) == []


def test_status_scale_logs_and_delete_are_kubectls(cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path) -> None:
    deployed(settings, opened, tmp_path)
    assert service.status(opened, "v1") == f"{NAME}: Ready"
    service.scale(opened, "v1", 3)
    assert cluster.spec(NAME)["predictor"]["minReplicas"] == cluster.spec(NAME)["predictor"]["maxReplicas"] == 3
    meta = {"name": "pod-1", "namespace": "models", "labels": {"serving.kserve.io/inferenceservice": NAME}}
    cluster.objects["pods", "pod-1"] = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [{"name": "server"}]}}
    (line,) = service.logs(settings, opened, "v1", 10)
    assert line.endswith("said by pod-1")
    kserve.remove(kept(opened))
    assert ("inferenceservices", NAME) not in cluster.objects
    assert service.status(opened, "v1") == f"{NAME} is not there"
    kserve.remove(kept(opened))


def runs(cluster: Cluster, pod: str, used: str, service: str = NAME) -> None:
    """A pod of a service with two containers, which request two cores and a half; the first uses so much, the other a quarter."""
    meta = {"name": pod, "namespace": "models", "labels": {"serving.kserve.io/inferenceservice": service}}
    containers = [{"name": name, "resources": {"requests": {"cpu": cpu}}} for name, cpu in (("server", "2"), ("proxy", "500m"))]
    measured = [{"name": name, "usage": {"cpu": cpu, "memory": "9Mi"}} for name, cpu in (("server", used), ("proxy", "250000000n"))]
    cluster.objects["pods", pod] = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": containers}}
    told = {"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "metadata": meta, "containers": measured}
    cluster.objects["measured", pod] = {**told, "timestamp": "2026-11-26T10:00:00Z", "window": "15s"}


def test_each_pod_tells_what_it_takes_of_the_cores_that_it_requests(
    cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path
) -> None:
    deployed(settings, opened, tmp_path)
    runs(cluster, "pod-1", "1")
    runs(cluster, "pod-2", "2250m")
    runs(cluster, "stranger", "1", "another")
    made = kserve.connect(override(settings, "serve", url=kept(opened)))
    assert made.load() == [Load("pod pod-1", 50.0), Load("pod pod-2", 100.0)]
    asked = len(cluster.asked)
    assert len(made.load()) == 2
    assert len(cluster.asked) == asked


def test_a_cluster_that_tells_nothing_of_its_pods_is_no_error(cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path) -> None:
    deployed(settings, opened, tmp_path)
    cluster.refuses.add("GET")
    assert kserve.connect(override(settings, "serve", url=kept(opened))).load() == []


def test_without_kserve_it_is_scaled_by_its_deployment_and_the_autoscaler_goes(
    cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path
) -> None:
    deployed(settings, opened, tmp_path, f"kserve://plain?endpoint={cluster.service_url}/v1")
    service.scale(opened, "v1", 4)
    assert cluster.spec(NAME, "Deployment")["replicas"] == 4
    assert ("horizontalpodautoscalers", NAME) not in cluster.objects
    assert service.status(opened, "v1").startswith(f"{NAME}: 4 of 4 replicas ready")
    kserve.remove(kept(opened))
    assert not cluster.objects


def test_a_canary_is_a_revision_whose_share_is_moved_by_patches(
    cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path
) -> None:
    deployed(settings, opened, tmp_path, "kserve://?canary=100")
    deployed(settings, opened, tmp_path, "kserve://?canary=10", version="v2", context=2048)
    assert list(cluster.objects) == [("inferenceservices", "pump-llm")]
    assert cluster.spec("pump-llm")["predictor"]["canaryTrafficPercent"] == 10
    url = kept(opened, "pump-llm/v2")
    for percent in (25, 100, 0):
        service.split(url, percent)
        assert cluster.spec("pump-llm")["predictor"]["canaryTrafficPercent"] == percent
        assert f"{percent} % of the questions to the newest revision" in service.status(opened, url)
    assert url != kept(opened)


def test_a_canary_of_the_standard_mode_stands_beside_the_version_in_force_until_it_is_promoted(
    cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path
) -> None:
    to = "kserve://?canary=10&mode=standard"
    other: dict[str, Any] = {"model": "hub://Qwen/Qwen3-4B", "metadata": {"cpu": 4, "gpu": 1}}
    deployed(settings, opened, tmp_path, to, "v1", **other)
    assert cluster.spec("pump-llm")["predictor"]["name"] == "v1"
    with pytest.raises(ConfigError, match="promotes another model only"):
        deployed(settings, opened, tmp_path, to, "v2", **other, context=2048)
    cluster.looks[("inferenceservices", "pump-llm")] = 4
    deployed(settings, opened, tmp_path, to, version="v2")
    assert list(cluster.objects) == [("inferenceservices", "pump-llm")]
    url = kept(opened, "pump-llm/v2")
    assert "Ready, CanaryReady" in service.status(opened, url)
    assert "10 % of the questions to v2" in service.status(opened, url)
    for percent in (25, 0):
        service.split(url, percent)
        (canary,) = cluster.spec("pump-llm")["canary"]
        assert (canary["predictor"]["name"], canary["trafficPercent"]) == ("v2", percent)
        assert cluster.spec("pump-llm")["predictor"]["model"]["storageUri"] == "hf://Qwen/Qwen3-4B"
    expected = canary["predictor"]["model"]
    service.split(url, 100)
    assert "canary" not in cluster.spec("pump-llm")
    assert cluster.spec("pump-llm")["predictor"]["name"] == "v2"
    assert cluster.spec("pump-llm")["predictor"]["model"] == expected
    with pytest.raises(GeneratorError, match="pump-llm has no canary"):
        service.split(url, 0)


def test_a_call_that_is_refused_is_an_error_with_kubectls_words(
    cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path
) -> None:
    cluster.refuses = {"PATCH"}
    with pytest.raises(ConfigError, match="is forbidden") as refused:
        deployed(settings, opened, tmp_path)
    assert "kubectl auth can-i" in refused.value.hint
    assert TOKEN not in str(refused.value)


def test_a_token_that_is_wrong_is_an_error(cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(config.read_text().replace(TOKEN, "wrong"))
    with pytest.raises(ConfigError, match=r"(?i)unauthorized|logged in|credentials"):
        deployed(settings, opened, tmp_path)


def test_a_field_that_the_cluster_does_not_know_is_refused_there(cluster: Cluster) -> None:
    with pytest.raises(GeneratorError, match=r"unknown field spec\.predicter"):
        Kubectl().apply("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: x}\nspec: {predicter: {}}")


def test_a_cluster_that_is_gone_may_be_back(cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(config.read_text().replace(cluster.url, "https://localhost:9"))
    with pytest.raises(GeneratorError) as gone:
        deployed(settings, opened, tmp_path)
    assert gone.value.retryable


def test_without_a_context_or_with_another_it_says_so(cluster: Cluster, settings: Settings, opened: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kubectl"):
        deployed(settings, opened, tmp_path, "kserve://?context=other")
    (tmp_path / "kubeconfig").write_text("apiVersion: v1\nkind: Config\n")
    with pytest.raises(ConfigError, match="current-context is not set"):
        deployed(settings, opened, tmp_path)


def test_without_kubectl_it_says_so(settings: Settings, opened: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="kubectl is not on the PATH"):
        deployed(settings, opened, tmp_path)


@pytest.mark.parametrize(
    "url", ["kserve://knative", "kserve://?canary=101", "kserve://plain?canary=1", "kserve://?space=x", "kserve://?wait=x"]
)
def test_a_place_that_can_t_be_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        kserve.read(url)


@pytest.mark.parametrize("url", ["kserve://", "kserve:///pump-v1"])
def test_a_generator_needs_its_service_and_model(settings: Settings, url: str) -> None:
    with pytest.raises(ConfigError, match="must name a"):
        serve.connect(override(settings, "serve", url=url))


def test_without_kserve_traffic_is_split_in_the_release(settings: Settings, opened: Store) -> None:
    with pytest.raises(ConfigError, match="splits no traffic"):
        service.split("kserve://plain/pump-v1", 10)
    with pytest.raises(ReleaseError):
        service.share(opened, "production", {"v1": 100})
