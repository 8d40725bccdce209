"""How busy the pods of a service are, as a cluster's metrics server has it."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from ragstone.errors import ConfigError, GeneratorError
from ragstone.kubectl import Kubectl
from ragstone.load import Load

MEASURED = 15.0
"""Seconds between two measurements of a metrics server, unless it was told otherwise."""
GLANCE = 5.0
"""Seconds that the cluster may take to tell of them."""
PARTS = {"n": 1e-9, "u": 1e-6, "m": 1e-3}
"""Of a core, as Kubernetes writes them."""

log = logging.getLogger(__name__)


class Pods:
    """Those of a service, found by a label; asked no more often than they are measured."""

    def __init__(self, kubectl: Kubectl, service: str, label: str) -> None:
        self._kubectl, self._service, self._label = kubectl, service, label
        self._looked, self._loads = float("-inf"), list[Load]()

    def load(self) -> list[Load]:
        """What each pod takes of the cores that it requests; nothing where there is no metrics server."""
        if time.monotonic() - self._looked > MEASURED:
            try:
                self._loads = self._measured()
            except (GeneratorError, ConfigError) as error:
                log.warning("pods of %s do not tell how busy they are: %s", self._service, error)
                self._loads = []
            self._looked = time.monotonic()
        return self._loads

    def _measured(self) -> list[Load]:
        """Raises `GeneratorError` without a metrics server, `ConfigError` without the right to ask it."""
        measured, pods = (self._get(kind) for kind in ("pods.metrics.k8s.io", "pods"))
        asked = {name: [one.get("resources", {}).get("requests", {}) for one in pod["spec"]["containers"]] for name, pod in pods.items()}
        requested = {name: sum(map(_cores, told)) for name, told in asked.items()}
        used = {name: sum(_cores(one["usage"]) for one in pod["containers"]) for name, pod in measured.items()}
        return [Load(f"pod {name}", 100 * cores / requested[name]) for name, cores in sorted(used.items()) if requested.get(name)]

    def _get(self, kind: str) -> dict[str, Any]:
        told = self._kubectl.run("get", kind, "-l", f"{self._label}={self._service}", "-o", "json", seconds=GLANCE)
        return {pod["metadata"]["name"]: pod for pod in json.loads(told)["items"]}


def _cores(told: dict[str, str]) -> float:
    """
    >>> _cores({"cpu": "250m", "memory": "1Gi"}), _cores({})
    (0.25, 0.0)
    """
    cpu = told.get("cpu", "0")
    return float(cpu.rstrip("num")) * PARTS.get(cpu[-1], 1)
