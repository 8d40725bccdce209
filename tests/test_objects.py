"""What is applied to a cluster is what the official schemas know; skipped, loudly, where those are not given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from ragstone import service
from ragstone.config import Settings
from ragstone.serve import kserve
from tests import objects, specification
from tests.test_deploy import DEPLOY, manifests
from tests.test_kserve import LLM, rendered
from tests.test_service import written

PLACES = ["kserve", "kserve://?namespace=models&canary=10", "kserve://?canary=10&mode=standard", "kserve://plain"]
REPLICAS: list[dict[str, Any]] = [{"min": 3}, {"min": 2, "max": 10, "target_cpu": 65, "scale_down": 120}]


@pytest.mark.parametrize("to", PLACES)
@pytest.mark.parametrize("replicas", REPLICAS)
def test_a_service_is_applied_as_the_official_schemas_have_it(
    settings: Settings, tmp_path: Path, to: str, replicas: dict[str, Any]
) -> None:
    found = rendered(settings, tmp_path, to, replicas=replicas)
    assert found
    assert [fault for one in found for fault in objects.faults(one)] == []


def test_a_canary_beside_another_version_is_as_the_official_schema_has_it(settings: Settings, tmp_path: Path) -> None:
    (found,) = rendered(settings, tmp_path, "kserve://?canary=10&mode=standard")
    other = service.read(written(tmp_path, {**LLM, "model": "hub://Qwen/Qwen3-4B"}), "v2", settings)
    found["spec"]["canary"] = [kserve.candidate(other, 10)]
    assert objects.faults(found) == []
    found["spec"]["canary"][0]["trafficPercent"] = 101
    assert "101 is greater than the maximum" in objects.faults(found)[0]


def test_a_container_of_the_files_own_is_one_that_a_pod_may_have(settings: Settings, tmp_path: Path) -> None:
    told = {"image": "registry/own:1", "script": "serve --port 9000", "port": 9000}
    found = rendered(settings, tmp_path, "kserve://plain", containers=[told])
    assert [fault for one in found for fault in objects.faults(one)] == []


def test_the_base_of_the_roles_is_what_the_official_schemas_know() -> None:
    assert [fault for one in manifests() for fault in objects.faults(one)] == []


SPELT = """
{apiVersion: serving.kserve.io/v1beta1, kind: InferenceService, metadata: {name: a}, spec: {predictor: {minReplica: 1, maxReplicas: "2"}}}
---
{apiVersion: apps/v1, kind: Deployment, spec: {selector: {}, template: {spec: {containers: [{name: a, imagePullPolice: Always}]}}}}
---
{apiVersion: autoscaling/v2beta1, kind: HorizontalPodAutoscaler}
"""


def test_a_misspelt_field_is_a_fault() -> None:
    """So the tests above can fail."""
    inference, workload, old = (" ".join(objects.faults(one)) for one in yaml.safe_load_all(SPELT))
    assert "'minReplica' was unexpected" in inference
    assert "maxReplicas: '2' is not of type 'integer'" in inference
    assert "'imagePullPolice' was unexpected" in workload
    assert old == "autoscaling/v2beta1 has no HorizontalPodAutoscaler"


def test_the_compose_file_is_what_compose_knows() -> None:
    schema = json.loads(specification.file("Compose", ("compose-spec.json",))[0].read_bytes())
    told = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    check = Draft7Validator(schema)
    assert [error.message for error in check.iter_errors(told)] == []
    told["services"]["edge"]["read_olny"] = True
    assert "'read_olny' does not match" in next(check.iter_errors(told)).message
