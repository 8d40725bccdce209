"""A search engine's official API specification, held against requests: every field that is sent must be one that it names.

The documents are their projects' own and not in this repository. RAGSTONE_TEST_SPECIFICATIONS names a folder with `opensearch-openapi.yaml`
(a release of opensearch-api-specification) or its `spec` folder as `opensearch`, and with `elasticsearch-openapi.json` of
elasticsearch-specification's `output/openapi` (`elasticsearch-serverless-openapi.json` will do).

Both leave objects open, so a misspelt field would pass. Here what a schema does not name is refused, wherever it names anything at all.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FOLDER = "RAGSTONE_TEST_SPECIFICATIONS"

FILES = {
    "opensearch": ("opensearch-openapi.yaml", "opensearch/namespaces/*.yaml"),
    "elasticsearch": ("elasticsearch-openapi.json", "elasticsearch-serverless-openapi.json"),
}
"""Where each may be; the first that is there counts."""

KEYS = re.compile(r"^ {2}(/\S*):$|^    \"(/[^\"]*)\": \{$", re.MULTILINE)
"""The paths of a document, before it is parsed: a namespace without the path need not be."""


class Specification:
    """The documents of one project."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._read: dict[str, Any] = {}
        read: Any = Registry  # its arguments are attrs', which mypy does not see
        self._registry = read(retrieve=lambda uri: DRAFT202012.create_resource(self._document(uri)))

    def faults(self, method: str, path: str, body: bytes) -> list[str]:
        """What the specification does not know in a request; with a body in JSON, or in lines of it."""
        found = self._operation(method, path)
        if found is None:
            return [f"{method} {path}: no such operation"]
        uri, operation = found
        if not body:
            return []
        uri, asked = self._resolved(uri, operation.get("requestBody", {}))
        if not asked:
            return [f"{method} {path}: takes no body"]
        schema = next(iter(asked["content"].values()))["schema"]
        validator = Draft202012Validator(self._rooted(uri, schema), registry=self._registry)
        return [f"{method} {path}: {_told(error)}" for error in validator.iter_errors(_json(body, schema))]

    def _rooted(self, uri: str, schema: Mapping[str, Any]) -> dict[str, str]:
        """A reference to the schema of a body, so that its own references start from the document that it stands in."""
        held = self._document(uri).setdefault("bodies", [])
        held.append(self._shut(uri, schema))
        return {"$ref": f"{uri}#/bodies/{len(held) - 1}"}

    def _operation(self, method: str, path: str) -> tuple[str, Any] | None:
        """The document and the operation whose template fits the path, the one with the fewest variables."""
        fits = [(template.count("{"), file, template) for template, file in self._paths if _fits(template, path)]
        for _, file, template in sorted(fits, key=lambda fit: fit[0]):
            found = self._document(file.as_uri())["paths"][template].get(method.lower())
            if found:
                return file.as_uri(), found
        return None

    @cached_property
    def _paths(self) -> list[tuple[str, Path]]:
        return [("".join(found), file) for file in self._files for found in KEYS.findall(file.read_text(encoding="utf-8"))]

    def _document(self, uri: str) -> Any:
        """A document with its schemas shut."""
        if uri not in self._read:
            text = _path(uri).read_text(encoding="utf-8")
            self._read[uri] = json.loads(text) if uri.endswith(".json") else yaml.load(text, yaml.CSafeLoader)
            for schema in self._read[uri].get("components", {}).get("schemas", {}).values():
                self._shut_within(uri, schema)
        return self._read[uri]

    def _resolved(self, uri: str, value: Any) -> tuple[str, Any]:
        """What a chain of references ends at, with the document that it is in."""
        while isinstance(value, dict) and "$ref" in value:
            place, _, pointer = value["$ref"].partition("#")
            uri = (_path(uri).parent / place).resolve().as_uri() if place else uri
            value = self._document(uri)
            for part in pointer.strip("/").split("/"):
                value = value[part.replace("~1", "/").replace("~0", "~")]
        return uri, value

    def _shut(self, uri: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The schema of a value, refusing what it does not name."""
        self._shut_within(uri, schema)
        return {**schema, "unevaluatedProperties": False} if self._names(uri, schema, set()) else dict(schema)

    def _shut_within(self, uri: str, schema: Any) -> None:
        """The same for the values inside it, in place. One of several that fit is enough: some alternatives overlap."""
        if not isinstance(schema, dict) or schema.get("x-shut"):
            return
        schema["x-shut"] = True
        if "oneOf" in schema:
            schema["anyOf"] = schema.pop("oneOf")
        for member in (*schema.get("allOf", ()), *schema.get("anyOf", ())):
            self._shut_within(uri, member)
        for name, value in schema.get("properties", {}).items():
            schema["properties"][name] = self._shut(uri, value)
        for name in ("items", "additionalProperties"):
            if isinstance(schema.get(name), dict):
                schema[name] = self._shut(uri, schema[name])

    def _names(self, uri: str, schema: Any, seen: set[int]) -> bool:
        """Whether a schema names fields, and leaves no part of itself open."""
        parts = list(self._parts(uri, schema, seen))
        objects = [part for part in parts if "properties" in part or part.get("type") == "object" or "additionalProperties" in part]
        return bool(objects) and all("properties" in part or part.get("additionalProperties") for part in objects)

    def _parts(self, uri: str, schema: Any, seen: set[int]) -> Iterator[dict[str, Any]]:
        """The schemas that hold for one value together, or one instead of the other."""
        if "$ref" in schema:
            uri, target = self._resolved(uri, schema)
            if id(target) not in seen:
                seen.add(id(target))
                yield from self._parts(uri, target, seen)
            return
        yield schema
        for kind in ("allOf", "oneOf", "anyOf"):
            for member in schema.get(kind, ()):
                yield from self._parts(uri, member, seen)


def read(engine: str) -> Specification:
    """That of a project; skips the test without it."""
    return Specification(file(engine, FILES[engine]))


def file(project: str, names: Sequence[str]) -> list[Path]:
    """The files of the first of the names that is there; skips the test without any."""
    folder = os.environ.get(FOLDER)
    if not folder:
        pytest.skip(f"no specification of {project}: {FOLDER} is not set (see tests/specification.py)")
    found = next((files for name in names if (files := sorted(Path(folder).resolve().glob(name)))), None)
    if not found:
        pytest.skip(f"no specification of {project}: {folder} has none of {', '.join(names)}")
    return found


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _fits(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(template)), path) is not None


def _json(body: bytes, schema: Mapping[str, Any]) -> Any:
    return [json.loads(line) for line in body.splitlines()] if schema.get("type") == "array" else json.loads(body)


def _told(error: Any) -> str:
    """The deepest reason, with where it is."""
    while error.context:
        error = max(error.context, key=lambda one: len(one.absolute_path))
    return f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
