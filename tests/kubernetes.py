"""An API server of Kubernetes on loopback, as far as kubectl needs one: discovery, server-side apply, get, watch, patch, delete, logs.

It knows four kinds and what their fields may be called: a field that the real one would refuse under strict validation is refused here. The
names were read from KServe's v1beta1, `apps/v1`, `v1` and `autoscaling/v2`. What it can't show is that a cluster does what it says.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from ragstone.listen import Certificate
from tests import certificate

TOKEN = "a-token-that-no-message-may-show"
FREE: dict[str, Any] = {}
"""An object with any fields: labels, annotations."""
META = {"name": None, "namespace": None, "labels": FREE, "annotations": FREE}
TARGET = {"type": None, "averageUtilization": None}
CONTAINER = {
    "name": None,
    "image": None,
    "command": None,
    "args": None,
    "env": [{"name": None, "value": None}],
    "ports": [{"name": None, "containerPort": None}],
    "resources": {"requests": FREE, "limits": FREE},
    "readinessProbe": {"httpGet": {"path": None, "port": None}, "periodSeconds": None},
}
MODEL = {"name": None, "modelFormat": {"name": None}, "args": None, "storageUri": None, "resources": {"requests": FREE, "limits": FREE}}
SCALING = {"minReplicas": None, "maxReplicas": None, "scaleMetric": None, "scaleTarget": None}
POD = {"metadata": META, "spec": {"containers": [CONTAINER]}}
METRIC = {"type": None, "resource": {"name": None, "target": TARGET}}
SPECS: dict[tuple[str, str], dict[str, Any]] = {
    ("serving.kserve.io/v1beta1", "InferenceService"): {
        "predictor": {**SCALING, "name": None, "canaryTrafficPercent": None, "model": MODEL},
        "canary": [{"trafficPercent": None, "predictor": {"name": None, "model": MODEL}}],
    },
    ("apps/v1", "Deployment"): {"replicas": None, "selector": {"matchLabels": FREE}, "template": POD},
    ("v1", "Service"): {"selector": FREE, "ports": [{"name": None, "port": None, "targetPort": None}]},
    ("autoscaling/v2", "HorizontalPodAutoscaler"): {
        "scaleTargetRef": {"apiVersion": None, "kind": None, "name": None},
        "minReplicas": None,
        "maxReplicas": None,
        "metrics": [METRIC],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": None}},
    },
    ("v1", "Pod"): {"containers": [CONTAINER]},
    ("metrics.k8s.io/v1beta1", "PodMetrics"): {},
}


def resource(kind: str) -> str:
    return "pods" if kind == "PodMetrics" else f"{kind.lower()}s"


def unknown(value: Any, known: Any, path: str) -> list[str]:
    """The fields that the kind does not have; `known` is the same shape, with None where any value may be."""
    if isinstance(known, list):
        return [fault for one in value for fault in unknown(one, known[0], path)]
    if known is None or known == FREE:
        return []
    odd = [f"{path}.{name}" for name in value if name not in known]
    return odd + [fault for name in value if name in known for fault in unknown(value[name], known[name], f"{path}.{name}")]


def merged(old: Any, new: Any) -> Any:
    """A merge patch: null takes a field away."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    return {name: merged(old.get(name), new.get(name, old.get(name))) for name in {**old, **new} if new.get(name, 0) is not None}


class Cluster:
    """`objects` by resource and name; `looks` is how often one must look before an object is ready; `refuses` are verbs with 403."""

    def __init__(self, certificate: Certificate) -> None:
        self.certificate = certificate
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.looks: dict[tuple[str, str], int] = {}
        self.ready = True
        self.refuses: set[str] = set()
        self.service_url = ""
        """Where what was made answers."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        speaking = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        speaking.load_cert_chain(certificate.chain, certificate.key)
        self.server.socket = speaking.wrap_socket(self.server.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server.server_address[1]}"

    @property
    def configuration(self) -> str:
        """A kubeconfig for it, with the context `test`."""
        told = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.certificate.chain)}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "models"}}],
            "current-context": "test",
        }
        return str(yaml.safe_dump(told))

    def spec(self, name: str, kind: str = "InferenceService") -> dict[str, Any]:
        found: dict[str, Any] = self.objects[(resource(kind), name)]["spec"]
        return found

    def _handler(cluster) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                if self.headers.get("authorization") != f"Bearer {TOKEN}":
                    self.send(401, status(401, "Unauthorized", "Unauthorized"))
                    return
                found = discovery(parts.path)
                if found is not None:
                    self.send(200, found)
                elif parts.path.endswith("/log"):
                    self.text(f"2026-11-26T10:00:00Z said by {parts.path.split('/')[-2]}\n".encode())
                elif "watch" in query:
                    self.watch(parts.path, query)
                else:
                    self.send(*cluster.answer(self.command, parts.path, query, body))

            do_GET = do_PATCH = do_DELETE = do_POST = do_PUT = answer

            def send(self, code: int, told: Any) -> None:
                self.text(json.dumps(told).encode(), code, "application/json")

            def text(self, content: bytes, code: int = 200, kind: str = "text/plain") -> None:
                self.send_response(code)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def watch(self, path: str, query: dict[str, str]) -> None:
                """One event with the object as it is after another look, and the end: kubectl watches again."""
                name = query["fieldSelector"].partition("=")[2]
                _, told = cluster.answer("GET", f"{path}/{name}", {}, b"")
                self.text(json.dumps({"type": "MODIFIED", "object": told}).encode() + b"\n", kind="application/json")

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
        words = path.strip("/").split("/")
        if "namespaces" not in words:
            return 404, status(404, "NotFound", f"the server has no {path}")
        at = words.index("namespaces")
        namespace, plural, name = words[at + 1], words[at + 2], words[at + 3] if len(words) > at + 3 else ""
        told = yaml.safe_load(body) if body else {}
        self.asked.append((method, f"{plural}/{name}", told))
        if method in self.refuses:
            why = f'{plural}.x "{name}" is forbidden: User "u" cannot {method.lower()} resource'
            return 403, status(403, "Forbidden", why)
        key = (plural, name)
        if method == "PATCH":
            return self._patch(key, namespace, query, told)
        if not name:
            return 200, self._list("/".join(words[1:at]), plural, query)
        if key not in self.objects:
            return 404, status(404, "NotFound", f'{plural} "{name}" not found')
        if method == "DELETE":
            del self.objects[key]
            return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return 200, self._look(key)

    def _list(self, group: str, plural: str, query: dict[str, str]) -> dict[str, Any]:
        wanted, (label, _, value) = query.get("fieldSelector", "").partition("=")[2], query.get("labelSelector", "").partition("=")
        kind = next(kind for version, kind in SPECS if version == group and resource(kind) == plural)
        found = [(key, one) for key, one in self.objects.items() if one["kind"] == kind and wanted in ("", key[1])]
        items = [self._look(key) for key, one in found if not label or one["metadata"].get("labels", {}).get(label) == value]
        return {"kind": f"{kind}List", "apiVersion": group, "metadata": {"resourceVersion": "1"}, "items": items}

    def _patch(self, key: tuple[str, str], namespace: str, query: dict[str, str], told: dict[str, Any]) -> tuple[int, Any]:
        old = self.objects.get(key, {})
        new = merged(old, told)
        identity = (new["apiVersion"], new["kind"])
        odd = unknown(new["spec"], SPECS[identity], "spec") + unknown(told.get("metadata", {}), META, "metadata")
        if odd:
            return 400, status(400, "BadRequest", f"strict decoding error: unknown field {odd[0]}")
        assert query["fieldManager"] == "ragstone"
        meta = {"uid": "u-1", "resourceVersion": str(len(self.asked)), "generation": 1, "creationTimestamp": "2026-11-26T10:00:00Z"}
        new["metadata"] = {"namespace": namespace, **new["metadata"], **meta}
        self.objects[key] = new
        self.looks.setdefault(key, 1)
        return 200, self._look(key)

    def _look(self, key: tuple[str, str]) -> dict[str, Any]:
        """The object with its status, ready after some looks if at all."""
        self.looks[key] = self.looks.get(key, 0) - 1
        ready = self.ready and self.looks[key] < 0
        made = self.objects[key]
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        if not ready:
            condition |= {"reason": "PredictorNotReady", "message": "pulling the image"}
        told: dict[str, Any] = {"conditions": [condition], "observedGeneration": 1}
        if ready and made["kind"] == "InferenceService":
            told["url"] = self.service_url
        if made.get("spec", {}).get("canary"):
            told["conditions"].append({**condition, "type": "CanaryReady"})
        if made["kind"] == "Deployment":
            there = made["spec"].get("replicas", 1)
            told |= {"replicas": there, "updatedReplicas": there, "readyReplicas": there if ready else 0}
            told |= {"availableReplicas": told["readyReplicas"]}
        return {**made, "status": told}


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    """An error of the API."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}


def discovery(path: str) -> dict[str, Any] | None:
    """What kubectl asks before anything else: groups, resources, and that strict validation is done here."""
    groups = sorted({version for version, _ in SPECS})
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        told = [(group.partition("/")[0], {"groupVersion": group, "version": group.partition("/")[2]}) for group in groups if "/" in group]
        return {"kind": "APIGroupList", "groups": [{"name": name, "versions": [one], "preferredVersion": one} for name, one in told]}
    if path == "/openapi/v3":
        return {"paths": {_root(group)[1:]: {"serverRelativeURL": f"/openapi/v3{_root(group)}"} for group in groups}}
    for group in groups:
        kinds = [kind for version, kind in SPECS if version == group]
        if path == _root(group):
            verbs = ["get", "list", "watch", "patch", "delete"]
            told_kinds = [
                {"name": resource(kind), "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs} for kind in kinds
            ]
            return {"kind": "APIResourceList", "groupVersion": group, "resources": told_kinds}
        if path == f"/openapi/v3{_root(group)}":
            paths = {f"{_root(group)}/namespaces/{{namespace}}/{resource(kind)}/{{name}}": _patches(group, kind) for kind in kinds}
            return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": paths}
    return None


def _root(group: str) -> str:
    return f"/apis/{group}" if "/" in group else f"/api/{group}"


def _patches(group: str, kind: str) -> dict[str, Any]:
    name, _, version = group.rpartition("/")
    named = {"group": name, "version": version, "kind": kind}
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    return {"patch": {"parameters": [parameter], "x-kubernetes-group-version-kind": named, "responses": {"200": {"description": "OK"}}}}


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster that answers while the block runs, over TLS: without, kubectl sends no token."""
    cluster = Cluster(certificate.made(folder, "cluster"))
    threading.Thread(target=cluster.server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield cluster
    finally:
        cluster.server.shutdown()
        cluster.server.server_close()
