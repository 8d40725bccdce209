"""`--to kserve`, `--to kserve://plain`: a deployment on a cluster with KServe, or without, by the user's own kubectl.

Sources: KServe's v1beta1 API and its pages on the HPA autoscaler and canary rollouts, vLLM's page on Kubernetes, Kubernetes' `apps/v1` and
`autoscaling/v2`. Run against an API server of the tests, not against a cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import yaml

from ragstone.completions import Completions, Endpoint, Patience
from ragstone.config import Settings
from ragstone.errors import ConfigError, GeneratorError
from ragstone.kubectl import Kubectl
from ragstone.load import Load
from ragstone.pods import Pods
from ragstone.serve import Deployment, Say
from ragstone.wire import Message, Piece, Sampling

VLLM = "vllm/vllm-openai"
"""The image when the file names none; a cluster should pin its version."""
PORT = 8000
HUB = re.compile(r"(?:hub://|hf://)?([\w-][\w.-]*/[\w.-]+)")
INFERENCE = "inferenceservices.serving.kserve.io"
PLAIN = "plain"
KINDS = {"": (INFERENCE,), PLAIN: ("deployments.apps", "services", "horizontalpodautoscalers.autoscaling")}
"""What is made, with KServe and without, the first of them what is looked at."""
KNATIVE, STANDARD = MODES = ("knative", "standard")
KNATIVE_HPA = {"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"}
"""Without it KServe's webhook refuses a target of the CPU in the Knative mode: its usual autoscaler knows none."""
CONTAINER = "kserve-container"
"""What KServe calls the container of a model."""
POD = {"": "serving.kserve.io/inferenceservice", PLAIN: "app.kubernetes.io/instance"}
"""The label by which the pods of a service are found."""


@dataclass(frozen=True)
class Place:
    """Which service it is, and where: what the URL says."""

    kind: str = ""
    """`plain` is a cluster without KServe."""
    service: str = ""
    """What the objects are called; a deployment makes it."""
    model: str = ""
    """The name that requests ask for, likewise."""
    namespace: str = ""
    context: str = ""
    """Of the user's kubeconfig; empty is the current one."""
    endpoint: str = ""
    """Where it is called, such as `https://host/openai/v1`; empty is what KServe says, or the name within the cluster."""
    canary: str = ""
    """Per cent of the questions for this version, the rest for the one before: KServe splits them."""
    mode: str = KNATIVE
    """Of KServe under a canary: `knative` has revisions, `standard` a canary beside the predictor, from its 0.20 on."""
    digest: str = ""
    """Of what was applied: the same service with other content is another version."""
    wait: float = 900.0
    """Seconds until it must be ready."""

    @property
    def url(self) -> str:
        """What is kept of it: all that names the service, and nothing of how it was made."""
        given = {name: value for name in OPTIONS if name not in ("wait", "canary", "mode") and (value := getattr(self, name))}
        return f"kserve://{self.kind}/{self.service}?{urlencode(given, safe='/:')}"

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.context, self.namespace)


OPTIONS = tuple(one.name for one in fields(Place) if one.name not in ("kind", "service"))
EXAMPLE = "--to kserve, or --to 'kserve://plain?namespace=name' without KServe"


def read(url: str) -> Place:
    """What `kserve://…` says. Raises `ConfigError` on what it can't mean.

    >>> read("kserve://plain?namespace=models").namespace
    'models'
    """
    parts = urlsplit(url if "://" in url else f"{url}://")
    values: dict[str, Any] = dict(parse_qsl(parts.query))
    if parts.netloc not in KINDS:
        raise ConfigError(f"{url} is no kind of cluster", EXAMPLE)
    if unknown := sorted(set(values) - set(OPTIONS)):
        raise ConfigError(f"kserve:// has no {unknown[0]!r}; there are {', '.join(OPTIONS)}", EXAMPLE)
    share = str(values.get("canary", "0"))
    if not (share.isdecimal() and int(share) <= 100) or (parts.netloc and "canary" in values):
        raise ConfigError(f"canary={share} can't be: 0 to 100 per cent, and with KServe alone", EXAMPLE)
    if values.get("mode", KNATIVE) not in MODES or ("mode" in values and "canary" not in values):
        raise ConfigError(f"mode={values['mode']} can't be: it is {' or '.join(MODES)}, and of a canary", EXAMPLE)
    try:
        return Place(parts.netloc, parts.path.strip("/"), **{**values, "wait": float(values.get("wait", Place.wait))})
    except ValueError as error:
        raise ConfigError(f"wait={values['wait']} is no number of seconds") from error


def connect(settings: Settings, say: Say | None = None) -> KserveGenerator:
    """The generator behind a `kserve://` URL. Raises `ConfigError` when it does not say which service."""
    place = _one(settings.serve.url)
    if not place.model:
        raise ConfigError(f"serve.url = {settings.serve.url!r} must name a model", "ragstone deploy service.json --to kserve")
    return KserveGenerator(place, settings.serve.api_key, settings.serve.timeout)


class KserveGenerator:
    """A model on a cluster that answers OpenAI's chat completions."""

    def __init__(self, place: Place, key: str, timeout: float) -> None:
        self.place = place
        self._key = key
        self._completions = Completions(Patience(total=timeout))
        self._endpoint: Endpoint | None = None
        self._pods = Pods(place.kubectl, place.service, POD[place.kind])

    @property
    def version(self) -> str:
        """SHA-256 of the URL, which holds the digest of what was applied."""
        return hashlib.sha256(self.place.url.encode()).hexdigest()

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        if self._endpoint is None:
            await self.start()
        assert self._endpoint
        async with aclosing(self._completions.stream(self._endpoint, messages, sampling)) as pieces:
            async for piece in pieces:
                yield piece

    async def start(self) -> None:
        """Ask the cluster where the service is, and the service for its models. Raises `GeneratorError`."""
        endpoint = Endpoint(await asyncio.to_thread(_address, self.place), self.place.model, self._key, "kserve")
        await self._completions.models(endpoint)
        self._endpoint = endpoint

    async def healthy(self) -> bool:
        try:
            await self.start()
        except (GeneratorError, ConfigError):
            return False
        return True

    def load(self) -> list[Load]:
        """What each pod takes of the cores that it requests, as the cluster's metrics server has it; nothing where there is none."""
        return self._pods.load()

    async def close(self) -> None:
        await self._completions.close()


def address(deployment: Deployment, to: str) -> str:
    """The URL of the service that a deployment becomes. Raises `ConfigError` where a manifest would not be whole."""
    if "model" not in deployment.told and not deployment.told.get("containers"):
        raise ConfigError("a service on a cluster needs a model", '"model": "hub://org/name" in the file')
    return _place(deployment, to).url


def deploy(deployment: Deployment, to: str, say: Say) -> None:
    """The service, applied and ready. Raises `ConfigError` without kubectl, a context or the right to; `GeneratorError`, `Conflict`."""
    place = _place(deployment, to)
    say(f"deploy    {place.service} in {place.kubectl.context_name()}")
    beside = bool(place.canary) and place.mode == STANDARD and _stood_beside(deployment, place)
    if not beside:
        for line in place.kubectl.apply(yaml.safe_dump_all(manifests(deployment, place), sort_keys=False)).splitlines():
            say(f"deploy    {line}")
    try:
        place.kubectl.run(*_until_ready(place, beside), seconds=place.wait + 30)
    except GeneratorError as error:
        raise GeneratorError(f"{_described(place)}: {error.message}", f"ragstone service logs '{place.url}'") from error
    say(f"deploy    {_described(place)}")


def status(url: str) -> str:
    """How the service is, in the cluster's words. Raises `GeneratorError`."""
    return _described(_one(url))


def scale(url: str, count: int) -> None:
    """So many replicas, whatever the load: both bounds are set so, or the autoscaler of a plain Deployment is taken away."""
    place = _one(url)
    if not place.kind:
        place.kubectl.patch(INFERENCE, place.service, {"spec": {"predictor": {"minReplicas": count, "maxReplicas": max(1, count)}}})
        return
    place.kubectl.run("delete", KINDS[PLAIN][2], place.service, "--ignore-not-found")
    place.kubectl.patch(KINDS[PLAIN][0], place.service, {"spec": {"replicas": count}})


def traffic(url: str, percent: int) -> None:
    """Of the questions, so many per cent to the newest version, the rest to the one before. Raises `ConfigError`, `GeneratorError`."""
    place = _one(url)
    if place.kind:
        raise ConfigError("a cluster without KServe splits no traffic", "ragstone service traffic v1=90 v2=10 splits it in the release")
    spec = (place.kubectl.get(INFERENCE, place.service) or {}).get("spec") or {}
    if "name" not in spec.get("predictor", {}):
        place.kubectl.patch(INFERENCE, place.service, {"spec": {"predictor": {"canaryTrafficPercent": percent}}})
        return
    if not spec.get("canary"):
        raise GeneratorError(f"{place.service} has no canary", "ragstone deploy service.json --to 'kserve://?canary=10&mode=standard'")
    place.kubectl.patch(INFERENCE, place.service, {"spec": _shared(spec, percent)})


def _shared(spec: Any, percent: int) -> dict[str, Any]:
    """The change of a canary's share; all of the questions make it the predictor, and then its pods go on as they are."""
    first, *others = spec["canary"]
    if percent < 100:
        return {"canary": [{**first, "trafficPercent": percent}, *others]}
    old, new = spec["predictor"], first["predictor"]
    return {"canary": None, "predictor": {"name": new["name"], "model": _instead(old["model"], new["model"])}}


def _instead(old: Any, new: Any) -> Any:
    """A merge patch that leaves nothing of the old value."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**dict.fromkeys(old), **{name: _instead(old.get(name), value) for name, value in new.items()}}


def _stood_beside(deployment: Deployment, place: Place) -> bool:
    """Whether another version is in force, beside which this one now stands as its canary. Raises `ConfigError`."""
    found = place.kubectl.get(INFERENCE, place.service)
    if found is None or found["spec"]["predictor"].get("name") == _named(deployment.version):
        return False
    if found["spec"]["predictor"].get("model", {}).get("storageUri") == _storage(deployment):
        raise ConfigError(
            f"{place.service} has the model {_storage(deployment)} already, and KServe promotes another model only", "mode=knative"
        )
    place.kubectl.patch(INFERENCE, place.service, {"spec": {"canary": [candidate(deployment, int(place.canary))]}})
    return True


def logs(url: str, most: int) -> list[str]:
    """The last lines of the pods, each with its time."""
    place = _one(url)
    which = ["-l", f"{POD[place.kind]}={place.service}", "--all-containers", "--timestamps", "--prefix", f"--tail={most}"]
    return place.kubectl.run("logs", *which).splitlines()[-most:]


def remove(url: str) -> None:
    """End the service, and what it costs; one that is gone is no error. Raises `GeneratorError`."""
    place = _one(url)
    for kind in KINDS[place.kind]:
        place.kubectl.run("delete", kind, place.service, "--ignore-not-found", "--wait=false")


def explain(deployment: Deployment, to: str) -> str:
    """The manifests as YAML, with what is to be known about them as comments. Raises `ConfigError` on a model that a cluster can't get."""
    place = _place(deployment, to)
    notes = [f"{deployment.id} on Kubernetes, {'without' if place.kind else 'with'} KServe. Nothing was applied."]
    notes += _notes(deployment, place.kind)
    if place.canary and place.mode == STANDARD:
        beside = json.dumps({"spec": {"canary": [candidate(deployment, int(place.canary))]}})
        notes.append(f"Where another version is in force, it is patched instead, for KServe 0.20 with the Gateway API: {beside}")
    notes.append(f"Within the cluster it is serve.url = {_within(place).replace('http', 'openai+http', 1)}?model={deployment.name}")
    notes.append(f"Applied from here, by kubectl, it is kept as {place.url}")
    made = manifests(deployment, place)
    return "\n".join([*(f"# {note}" for note in notes), yaml.safe_dump_all(made, sort_keys=False).rstrip()])


def manifests(deployment: Deployment, place: Place) -> list[dict[str, Any]]:
    """What is applied."""
    if place.kind:
        return plain(deployment)
    if not place.canary:
        return [inference_service(deployment)]
    return [_first(deployment) if place.mode == STANDARD else _revision(deployment, int(place.canary))]


def inference_service(deployment: Deployment) -> dict[str, Any]:
    """KServe's: its Hugging Face runtime, which runs vLLM, behind an HPA. In its Standard mode, so that no Knative is needed."""
    annotations = {"serving.kserve.io/deploymentMode": "Standard", "serving.kserve.io/autoscalerClass": "hpa"}
    target = {"scaleMetric": "cpu", "scaleTarget": _target(deployment)} if _scales(deployment) else {}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {**_metadata(deployment), "annotations": annotations},
        "spec": {"predictor": {"minReplicas": deployment.least, "maxReplicas": deployment.most, **target, "model": _runtime(deployment)}},
    }


def candidate(deployment: Deployment, percent: int) -> dict[str, Any]:
    """The canary beside another version, in KServe's Standard mode. It has no bounds: KServe gives it replicas by its share."""
    model = {"name": CONTAINER, **_runtime(deployment)}  # here, and not in a predictor, KServe's schema wants the container's name
    return {"trafficPercent": percent, "predictor": {"name": _named(deployment.version), "model": model}}


def _runtime(deployment: Deployment) -> dict[str, Any]:
    return {
        "modelFormat": {"name": "huggingface"},
        "args": [f"--model_name={deployment.name}", *_context(deployment)],
        "storageUri": _storage(deployment),
        "resources": _resources(deployment),
    }


def _first(deployment: Deployment) -> dict[str, Any]:
    """One service for all versions; this one is in force, by its name."""
    made = inference_service(deployment)
    made["metadata"]["name"] = _named(deployment.name)
    made["spec"]["predictor"] = {"name": _named(deployment.version), **made["spec"]["predictor"]}
    return made


def _revision(deployment: Deployment, percent: int) -> dict[str, Any]:
    """One service for all versions, each a revision of it."""
    made = inference_service(deployment)
    made["metadata"] = {**_metadata(deployment), "name": _named(deployment.name)}
    made["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": "Knative", **(KNATIVE_HPA if _scales(deployment) else {})}
    made["spec"]["predictor"]["canaryTrafficPercent"] = percent
    return made


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
    return _named(f"{deployment.name}-{deployment.version}")


def _named(text: str) -> str:
    made = re.sub(r"[^a-z0-9]+", "-", text).strip("-")
    return (made if made[0].isalpha() else f"s-{made}")[:50].rstrip("-")


def _place(deployment: Deployment, to: str) -> Place:
    """The service of this version; under a canary that of all versions."""
    place = read(to)
    place = replace(place, service=_named(deployment.name) if place.canary else name(deployment), model=deployment.name)
    asked = json.dumps(manifests(deployment, place), sort_keys=True)
    return replace(place, digest=hashlib.sha256(asked.encode()).hexdigest()[:12])


def _one(url: str) -> Place:
    """A place that names a service. Raises `ConfigError`."""
    place = read(url)
    if not place.service:
        raise ConfigError(f"{url!r} must name a service", "kserve:///name?namespace=… as `ragstone release show` has it")
    return place


def _until_ready(place: Place, beside: bool) -> list[str]:
    if place.kind:
        return ["rollout", "status", f"deployment/{place.service}", f"--timeout={place.wait:g}s"]
    condition = "CanaryReady" if beside else "Ready"  # the latter is so while a canary still loads
    return ["wait", f"--for=condition={condition}", f"{INFERENCE}/{place.service}", f"--timeout={place.wait:g}s"]


def _within(place: Place) -> str:
    """Where it is called within the cluster."""
    where = f".{place.namespace}" if place.namespace else ""
    return f"http://{place.service}{where}/v1" if place.kind else f"http://{place.service}-predictor{where}/openai/v1"


def _address(place: Place) -> str:
    """Where it is called: as the URL says, as KServe says, or within the cluster."""
    if place.endpoint:
        return place.endpoint.rstrip("/")
    if place.kind:
        return _within(place)
    found = place.kubectl.get(INFERENCE, place.service)
    url = ((found or {}).get("status") or {}).get("url")
    if not url:
        raise GeneratorError(f"{_described(place)}, and has no address", f"ragstone service status '{place.url}'", retryable=True)
    return f"{url}/openai/v1"


def _described(place: Place) -> str:
    """`pump-v1 is Ready: …`, or why it is not, in the cluster's words."""
    found = place.kubectl.get(KINDS[place.kind][0], place.service)
    if found is None:
        return f"{place.service} is not there"
    told = found.get("status") or {}
    said = [_condition(one) for one in told.get("conditions") or []]
    if place.kind:
        said.insert(0, f"{told.get('readyReplicas', 0)} of {told.get('replicas', 0)} replicas ready")
    spec = found.get("spec") or {}
    shared = spec.get("predictor", {}).get("canaryTrafficPercent")
    said += [f"{shared} % of the questions to the newest revision"] if shared is not None else []
    said += [f"{one['trafficPercent']} % of the questions to {one['predictor']['name']}" for one in spec.get("canary") or []]
    return f"{place.service}: {', '.join(said) or 'no status yet'}"


def _condition(one: dict[str, Any]) -> str:
    why = ": ".join(part for part in (one.get("reason"), one.get("message")) if part)
    return str(one["type"]) if one["status"] == "True" else f"not {one['type']}{f' ({why})' if why else ''}"


def _labels(deployment: Deployment) -> dict[str, str]:
    named = {"app.kubernetes.io/name": deployment.name, "app.kubernetes.io/version": deployment.version}
    return {**named, POD[PLAIN]: name(deployment)}


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
