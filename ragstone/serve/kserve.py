"""`--to kserve`, `--to kserve://plain`: a deployment as manifests for a cluster with KServe, or without. It renders, and applies nothing.

Sources: KServe's v1beta1 API and its page on the HPA autoscaler, vLLM's page on Kubernetes, Kubernetes' `apps/v1` and `autoscaling/v2`.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn
from urllib.parse import urlsplit

import yaml

from ragstone.config import Settings
from ragstone.errors import ConfigError
from ragstone.serve import Deployment, Say

VLLM = "vllm/vllm-openai"
"""The image when the file names none; a cluster should pin its version."""
PORT = 8000
APPLY = "ragstone deploy service.json --to kserve --explain | kubectl apply -f -"
HUB = re.compile(r"(?:hub://|hf://)?([\w-][\w.-]*/[\w.-]+)")


def connect(settings: Settings, say: Say | None = None) -> NoReturn:
    """None: what was applied to a cluster is called like any server. Raises `ConfigError`."""
    raise ConfigError("kserve:// names no generator: what was applied to a cluster is called like any server", "serve.url = openai://host/v1?model=name")


def address(deployment: Deployment, to: str) -> NoReturn:
    """None: nothing is applied from here. Raises `ConfigError`, which says how it is."""
    raise ConfigError("manifests for Kubernetes are printed, and applied by its own tools", APPLY)


def deploy(deployment: Deployment, to: str, say: Say) -> NoReturn:
    """Likewise."""
    address(deployment, to)


def explain(deployment: Deployment, to: str) -> str:
    """The manifests as YAML, with what is to be known about them as comments. Raises `ConfigError` on a model that a cluster can't get."""
    kind = urlsplit(to if "://" in to else f"{to}://").netloc
    if kind not in ("", "plain"):
        raise ConfigError(f"{to} is no kind of cluster", "--to kserve, or --to kserve://plain without KServe")
    host, path = (name(deployment), "v1") if kind else (f"{name(deployment)}-predictor", "openai/v1")
    notes = [f"{deployment.id} on Kubernetes, {'without' if kind else 'with'} KServe. Nothing was applied.", *_notes(deployment, kind)]
    notes.append(f"Within the cluster it is serve.url = openai+http://{host}/{path}?model={deployment.name}")
    made = plain(deployment) if kind else [inference_service(deployment)]
    return "\n".join([*(f"# {note}" for note in notes), yaml.safe_dump_all(made, sort_keys=False).rstrip()])


def inference_service(deployment: Deployment) -> dict[str, Any]:
    """KServe's: its Hugging Face runtime, which runs vLLM, behind an HPA. In its Standard mode, so that no Knative is needed."""
    annotations = {"serving.kserve.io/deploymentMode": "Standard", "serving.kserve.io/autoscalerClass": "hpa"}
    target = {"scaleMetric": "cpu", "scaleTarget": _target(deployment)} if _scales(deployment) else {}
    model = {
        "modelFormat": {"name": "huggingface"},
        "args": [f"--model_name={deployment.name}", *_context(deployment)],
        "storageUri": _storage(deployment),
        "resources": _resources(deployment),
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {**_metadata(deployment), "annotations": annotations},
        "spec": {"predictor": {"minReplicas": deployment.least, "maxReplicas": deployment.most, **target, "model": model}},
    }


def plain(deployment: Deployment) -> list[dict[str, Any]]:
    """A Deployment of vLLM's server, a Service before it, and an HPA when the number of replicas is not fixed."""
    scaled = [autoscaler(deployment)] if _scales(deployment) else []
    return [workload(deployment), service(deployment), *scaled]


def workload(deployment: Deployment) -> dict[str, Any]:
    """The Deployment. With an HPA it says no number of replicas: applied again, it would undo what the HPA did."""
    container = {**_container(deployment), "resources": _resources(deployment)}
    container["readinessProbe"] = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5}
    replicas = {} if _scales(deployment) else {"replicas": deployment.least}
    template = {"metadata": {"labels": _labels(deployment)}, "spec": {"containers": [container]}}
    spec = {**replicas, "selector": {"matchLabels": _labels(deployment)}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _metadata(deployment), "spec": spec}


def service(deployment: Deployment) -> dict[str, Any]:
    """The Service, on port 80."""
    spec = {"selector": _labels(deployment), "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(deployment), "spec": spec}


def autoscaler(deployment: Deployment) -> dict[str, Any]:
    """The HorizontalPodAutoscaler, by the use of the CPU."""
    target = {"type": "Utilization", "averageUtilization": _target(deployment)}
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name(deployment)},
        "minReplicas": deployment.least,
        "maxReplicas": deployment.most,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }
    if "scale_down" in deployment.serve:
        spec["behavior"] = {"scaleDown": {"stabilizationWindowSeconds": int(float(str(deployment.serve["scale_down"])))}}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": _metadata(deployment), "spec": spec}


def name(deployment: Deployment) -> str:
    """What the objects are called: a name that a Service may have, a letter first."""
    made = re.sub(r"[^a-z0-9]+", "-", f"{deployment.name}-{deployment.version}").strip("-")
    return (made if made[0].isalpha() else f"s-{made}")[:50].rstrip("-")


def _labels(deployment: Deployment) -> dict[str, str]:
    return {"app.kubernetes.io/name": deployment.name, "app.kubernetes.io/version": deployment.version}


def _metadata(deployment: Deployment) -> dict[str, Any]:
    return {"name": name(deployment), "labels": {**_labels(deployment), "app.kubernetes.io/managed-by": "ragstone"}}


def _scales(deployment: Deployment) -> bool:
    return deployment.most > deployment.least


def _target(deployment: Deployment) -> int:
    return round(float(str(deployment.serve.get("target_cpu", 70))))


def _model(deployment: Deployment) -> str:
    """What the file asks to be served; capitals when it says nothing. Raises `ConfigError` when a cluster can't get it."""
    model = str(deployment.told.get("model", "hf://ORG/MODEL"))
    if model.startswith(("local", "/", "openai", "eas")):
        raise ConfigError(f"a cluster can't get the model {model!r}", 'model = "hub://org/name", or s3://, oss://, gs://, pvc://, https://')
    return model


def _storage(deployment: Deployment) -> str:
    hub = HUB.fullmatch(_model(deployment))
    return f"hf://{hub[1]}" if hub else _model(deployment)


def _container(deployment: Deployment) -> dict[str, Any]:
    """The file's own container, in PAI-EAS's spelling, else vLLM's server."""
    told = (deployment.told.get("containers") or [{}])[0]
    port = int(told.get("port", PORT))
    made = {"name": "server", "image": told.get("image", VLLM), "ports": [{"name": "http", "containerPort": port}]}
    if told.get("script"):
        return {**made, "command": ["sh", "-c", told["script"]], **({"env": told["env"]} if told.get("env") else {})}
    hub = HUB.fullmatch(_model(deployment))
    served = [f"--model={hub[1] if hub else '/model'}", f"--served-model-name={deployment.name}", f"--port={port}"]
    return {**made, "args": [*served, *(f"--{one.removeprefix('--').replace('_', '-')}" for one in _context(deployment))]}


def _context(deployment: Deployment) -> list[str]:
    return [f"--max_model_len={deployment.serve['context']}"] if "context" in deployment.serve else []


def _resources(deployment: Deployment) -> dict[str, Any]:
    """PAI-EAS's cpu, memory (MB) and gpu. A target of the CPU is a share of what is requested, so there is a request always."""
    told = deployment.told.get("metadata", {})
    asked = {"cpu": str(told.get("cpu", 1)), **({"memory": f"{told['memory']}Mi"} if "memory" in told else {})}
    gpus = {"nvidia.com/gpu": str(told["gpu"])} if told.get("gpu") else {}
    return {"requests": {**asked, **gpus}, **({"limits": gpus} if gpus else {})}


def _notes(deployment: Deployment, kind: str) -> list[str]:
    """What the reader has to add or know."""
    told, metadata = deployment.told, deployment.told.get("metadata", {})
    notes = [] if kind else ["Before KServe 0.16 the deploymentMode is called RawDeployment."]
    if "model" not in told and not (kind and told.get("containers")):
        notes.append('Still to be said in the file: "model", such as hub://org/name.')
    if _scales(deployment) and "cpu" not in metadata:
        notes.append("The CPU target is a share of the request, 1 core unless metadata.cpu says another.")
    if kind and not told.get("containers"):
        notes.append(f"Pin the version of {VLLM}.")
    if kind and not HUB.fullmatch(str(told.get("model", "org/name"))):
        notes.append(f"Mount {told['model']} at /model: vLLM reads a folder.")
    used = {"metadata.cpu", "metadata.memory", "metadata.gpu", "metadata.instance", *({"containers"} if kind else ())}
    if unused := [field for field in deployment.unused if field not in used]:
        notes.append(f"Not used here: {', '.join(unused)}.")
    return notes
