"""Objects of Kubernetes held against the official schemas: every field must be one that they name, as under strict validation.

The schemas are their projects' own and not in this repository. RAGSTONE_TEST_SPECIFICATIONS (`tests/specification.py`) names a folder with
`serving.kserve.io_inferenceservices.yaml` of KServe's `config/crd/full` and Kubernetes' `api/openapi-spec/swagger.json` as
`kubernetes-swagger.json`; and, for `deploy/compose.yaml`, with `schema/compose-spec.json` of the Compose Specification.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests import specification

CUSTOM, SWAGGER = "serving.kserve.io_inferenceservices.yaml", "kubernetes-swagger.json"

Definitions = Mapping[tuple[str, str], dict[str, Any]]
"""A schema by `apiVersion` and `kind`."""


def faults(told: Mapping[str, Any]) -> list[str]:
    """What the schema of its kind does not know in an object, or refuses. Skips the test without the schema."""
    known = _custom() if told["kind"] == "InferenceService" else _kubernetes()
    schema = known.get((told["apiVersion"], told["kind"]))
    if schema is None:
        return [f"{told['apiVersion']} has no {told['kind']}"]
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in Draft202012Validator(schema).iter_errors(told)]


@cache
def _custom() -> Definitions:
    """Of the versions that KServe's own definition has."""
    read = yaml.load(_file(CUSTOM).read_text(encoding="utf-8"), yaml.CSafeLoader)["spec"]
    found = {}
    for version in read["versions"]:
        found[f"{read['group']}/{version['name']}", read["names"]["kind"]] = _shut(version["schema"]["openAPIV3Schema"])
    return found


@cache
def _kubernetes() -> Definitions:
    definitions = {name: _shut(schema) for name, schema in json.loads(_file(SWAGGER).read_bytes())["definitions"].items()}
    found = {}
    for schema in definitions.values():
        for one in schema.get("x-kubernetes-group-version-kind", ()):
            version = "/".join(filter(None, (one["group"], one["version"])))
            found[version, one["kind"]] = {**schema, "definitions": definitions}
    return found


def _file(name: str) -> Path:
    return specification.file("Kubernetes", (name,))[0]


def _shut(schema: Any) -> Any:
    """The schema, refusing fields that it does not name; what may be a number or a text may be either."""
    if isinstance(schema, list):
        return [_shut(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _shut(value) for name, value in schema.items()}
    if made.get("format") == "int-or-string":
        made["type"] = ["integer", "string"]
    if isinstance(made.get("properties"), dict) and "type" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made
