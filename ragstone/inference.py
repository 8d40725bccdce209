"""Inference in OpenSearch: the engine asks Ragstone's own `/v1/embeddings` for the vectors of questions and chunks. It knows no index.

Two models of ML Commons stand for an embedding model, one for each kind of text. Their names are digests of what defines them, so one is
found again instead of registered twice. The key lies in the engine, encrypted, and nowhere else; every run brings it today's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ragstone.cluster import Cluster, Request
from ragstone.errors import ConfigError, IndexingError

QUERY, CHUNK = "query", "chunk"
"""What the texts of a model are, as `/v1/embeddings` names them."""

PROBES = {QUERY: "?", CHUNK: '["", "?"]'}
"""A text of each kind that stands for all when the engine is asked whether it gets vectors."""

PASSAGE = "passage"
"""The field that a chunk is sent in; the pipeline leaves its vector instead."""

BATCH = 16
"""Chunks that the engine asks the vectors of at once: well below the origin's largest body."""

PLUGINS = {"opensearch-ml": "ML Commons", "opensearch-neural-search": "neural-search"}

REGISTER, SEARCH = "/_plugins/_ml/models/_register", "/_plugins/_ml/models/_search"

KEY = "export RAGSTONE_INDEX_EMBEDDINGS_KEY=$(ragstone keys create --tenant engine --expires never)"

UNKNOWN = "MODEL_ID_OF_"
"""What stands for an id that only the engine can give, in an explanation."""


@dataclass(frozen=True)
class Model:
    """An embedding model of the store."""

    digest: str
    dimensions: int


class Inference:
    """What an engine has of Ragstone's embedding models."""

    def __init__(self, cluster: Cluster, url: str, key: str) -> None:
        check_address(url)
        self.url = url
        self._cluster = cluster
        self._key = key

    def check_plugins(self, installed: Sequence[str]) -> None:
        """Raises `IndexingError` when the engine can ask no model."""
        missing = [name for name in PLUGINS if name not in installed]
        if missing:
            lacks = f"OpenSearch at {self._cluster.url} has no {PLUGINS[missing[0]]} plugin, which index.inference = \"engine\" needs"
            raise IndexingError(lacks, f"bin/opensearch-plugin install {missing[0]}")

    def prepare(self, model: Model) -> None:
        """Have both models in the engine, with today's key, and a vector of each. Raises `ConfigError`, `IndexingError`."""
        if not self._key:
            raise ConfigError("the engine has no key to ask for embeddings with: index.embeddings_key is empty", KEY)
        for kind in PROBES:
            id = find(self._cluster, self.name(kind, model))
            if id:
                for request in renewal(id, self._key):
                    self._ask(request)
            else:
                id = str(self._ask(registration(self.url, model.digest, kind, self._key))["model_id"])
            self._probe(id, kind, model)

    def name(self, kind: str, model: Model) -> str:
        """What the engine calls the model for texts of this kind."""
        return name(self.url, model.digest, kind)

    def explain(self, model: Model) -> list[Request]:
        """What `prepare` sends, in order, where the engine knows nothing yet."""
        asked = []
        for kind in PROBES:
            id = UNKNOWN + kind.upper()
            asked += [search(self.name(kind, model)), registration(self.url, model.digest, kind, "THE_KEY")]
            asked += [*renewal(id, "THE_KEY"), prediction(id, kind)]
        return asked

    def _probe(self, id: str, kind: str, model: Model) -> None:
        answer = self._ask(prediction(id, kind))
        width = len(answer["inference_results"][0]["output"][0]["data"])
        if width != model.dimensions:
            wrong = f"{self.url} gives the engine vectors of {width} dimensions; the model {model.digest[:12]} has {model.dimensions}"
            raise IndexingError(wrong, "let index.embeddings name the origin of this project's store")

    def _ask(self, request: Request) -> Any:
        try:
            return self._cluster.send(request)
        except IndexingError as error:
            raise self._told(error) from None

    def _told(self, error: IndexingError) -> IndexingError:
        """The engine's refusal with what helps, and without the key, whatever the engine quotes."""
        message = error.message.replace(self._key, "…")
        for words, hint in self._remedies().items():
            if words in message:
                return IndexingError(f"OpenSearch at {self._cluster.url} can't ask {self.url}: {message.partition(': ')[2]}", hint)
        return IndexingError(message, error.hint)

    def _remedies(self) -> Mapping[str, str]:
        place = urlsplit(self.url)
        trusted = [f"^{re.escape(f'{place.scheme}://{place.netloc}')}/.*$"]
        return {
            "trusted connector endpoint": _setting("trusted_connector_endpoints_regex", trusted),
            "private ip": _setting("connector.private_ip_enabled", True),
            "Remote Inference is currently disabled": _setting("remote_inference.enabled", True),
            "invalid_api_key": KEY,
            "model_not_found": "let index.embeddings name the origin of this project's store",
            "Error communicating with remote model": "ragstone serve, and let index.embeddings be its address as the engine reaches it",
        }


def name(url: str, digest: str, kind: str) -> str:
    """What the engine calls the model for texts of this kind, and the pipeline that asks it."""
    defined = json.dumps(_connector(url, digest, kind), sort_keys=True)
    return f"ragstone-{kind}-{hashlib.sha256(defined.encode()).hexdigest()[:32]}"


def find(cluster: Cluster, name: str) -> str:
    """The engine's id of the model of this name, or nothing; of two that were registered at the same moment everybody takes the same."""
    found = cluster.send(search(name), missing=True)
    return min((hit["_id"] for hit in found["hits"]["hits"]), default="") if found else ""


def known(cluster: Cluster, name: str) -> str:
    """The same for one that must be there. Raises `IndexingError`."""
    id = find(cluster, name)
    if not id:
        raise IndexingError(f"OpenSearch at {cluster.url} has lost its model {name}", "ragstone index")
    return id


def search(name: str) -> Request:
    """Is the model there?"""
    wanted = {"query": {"term": {"name.keyword": name}}, "_source": False}
    return Request("POST", SEARCH, wanted, "a model by its name, a digest of what defines it; the next only where there is none")


def registration(url: str, digest: str, kind: str, key: str) -> Request:
    """The model with its connector."""
    connector = {**_connector(url, digest, kind), "credential": {"api_key": key}}
    body = {"name": name(url, digest, kind), "function_name": "remote", "description": f"Ragstone's {digest}", "connector": connector}
    return Request("POST", REGISTER, body, "a connector to Ragstone's own /v1/embeddings, and the model that uses it")


def renewal(id: str, key: str) -> list[Request]:
    """Today's key. A model in memory goes on with the old one for a while, so it is put out; the next that asks for it brings it back."""
    given = {"connector": {"credential": {"api_key": key}}}
    deploying = (409,)
    return [
        Request("PUT", f"/_plugins/_ml/models/{id}", given, "today's key, if the model was there", busy=deploying),
        Request("POST", f"/_plugins/_ml/models/{id}/_undeploy", why="which counts from now on"),
    ]


def prediction(id: str, kind: str) -> Request:
    """One vector."""
    asked = {"parameters": {"input": [PROBES[kind]]}}
    return Request("POST", f"/_plugins/_ml/models/{id}/_predict", asked, "one vector: are its dimensions the model's?")


def pipeline(url: str, digest: str, id: str) -> Request:
    """What makes a vector of each chunk that is sent without one."""
    ask = {"text_embedding": {"model_id": id, "field_map": {PASSAGE: "vector"}, "batch_size": BATCH}}
    body = {"description": f"Ragstone's {digest}", "processors": [ask, {"remove": {"field": PASSAGE}}]}
    return Request("PUT", f"/_ingest/pipeline/{name(url, digest, CHUNK)}", body, "the ingest pipeline: of each chunk its vector is kept")


def alias(given: str, own: Request) -> Request:
    """Another name for a pipeline."""
    to = own.path.rpartition("/")[2]
    return Request("PUT", f"/_ingest/pipeline/{given}", {"processors": [{"pipeline": {"name": to}}]}, f"{given} is another name for it")


def check_address(url: str) -> None:
    """Raises `ConfigError` when `/v1/embeddings` can't be there."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname or "@" in url:
        raise ConfigError(f"index.embeddings = {url.rpartition('@')[2]!r} is no address of a /v1/embeddings, or has credentials")


def check_name(given: str) -> None:
    """Raises `ConfigError` when another name for the pipeline can't be one."""
    if given and not re.fullmatch("[a-z0-9][a-z0-9._-]*", given):
        raise ConfigError(f"index.pipeline = {given!r} can't be a name: lower-case letters, digits, ., - and _ can")


def _connector(url: str, digest: str, kind: str) -> dict[str, Any]:
    """Everything but the key."""
    action = {
        "action_type": "predict",
        "method": "POST",
        "url": url,
        "headers": {"Authorization": "Bearer ${credential.api_key}"},
        "request_body": '{"model": "${parameters.model}", "input": ${parameters.input}, "ragstone": {"input_type": "${parameters.kind}"}}',
        "pre_process_function": "connector.pre_process.openai.embedding",
        "post_process_function": "connector.post_process.openai.embedding",
    }
    return {
        "name": f"ragstone-{kind}",
        "description": "Ragstone's /v1/embeddings",
        "version": "1",
        "protocol": "http",
        "parameters": {"model": f"models/{digest}", "kind": kind},
        "actions": [action],
    }


def _setting(name: str, value: object) -> str:
    return f'PUT /_cluster/settings {json.dumps({"persistent": {f"plugins.ml_commons.{name}": value}})}'
