"""Inference in Elasticsearch: endpoints that ask Ragstone's own `/v1/embeddings` for vectors of questions and chunks. It knows no index.

Two endpoints of the service `openai` stand for an embedding model, one for each kind of text; their ids are digests of what defines them.
The service sends no field that says what a text is, so the address does (`?input_type=`). Written to Elasticsearch's documentation and held
against its API specification; no node of Maven Central has the module, so it was not run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ragstone.cluster import Cluster, Request
from ragstone.errors import ConfigError, IndexingError
from ragstone.inference import CHUNK, KEY, PASSAGE, QUERY, Model, check_address

KINDS = (QUERY, CHUNK)

CLIENT = 'index.inference = "client": Ragstone makes the vectors'
TRIAL = f"{CLIENT}; or a licence that covers it, for 30 days by POST /_license/start_trial?acknowledge=true"
REMEDIES = {
    "license is non-compliant": TRIAL,
    "no handler found": CLIENT,
    "no processor type": CLIENT,
    "invalid_api_key": KEY,
    "status [401]": KEY,
    "model_not_found": "let index.embeddings name the origin of this project's store",
    "refused": "ragstone serve, and let index.embeddings be its address as the engine reaches it",
}
"""What helps, by words of the engine's refusal."""


class Endpoints:
    """What an engine has of Ragstone's embedding models."""

    def __init__(self, cluster: Cluster, url: str, key: str) -> None:
        check_address(url)
        self.url = url
        self._cluster = cluster
        self._key = key

    def prepare(self, model: Model) -> None:
        """Have both endpoints in the engine, which tries each, with today's key. Raises `ConfigError`, `IndexingError`."""
        if not self._key:
            raise ConfigError("the engine has no key to ask for embeddings with: index.embeddings_key is empty", KEY)
        for kind in KINDS:
            id = self.name(kind, model)
            there = self._ask(finding(id), missing=True)
            told = self._ask(renewal(id, self._key) if there else registration(self.url, model.digest, kind, self._key))
            self._check(told, model)

    def name(self, kind: str, model: Model) -> str:
        """What the engine calls the endpoint for texts of this kind."""
        return name(self.url, model.digest, kind)

    def pipeline(self, model: Model) -> Request:
        """What makes a vector of each chunk that is sent without one."""
        return pipeline(self.name(CHUNK, model), model.digest)

    def send(self, request: Request) -> None:
        """A request that the module must know. Raises `IndexingError`, with what helps."""
        self._ask(request)

    def explain(self, model: Model) -> list[Request]:
        """What `prepare` sends, in order, where the engine knows nothing yet."""
        names = [(kind, self.name(kind, model)) for kind in KINDS]
        both = ((finding(name), registration(self.url, model.digest, kind, "THE_KEY"), renewal(name, "THE_KEY")) for kind, name in names)
        return [request for three in both for request in three]

    def _check(self, told: Mapping[str, Any], model: Model) -> None:
        width = told.get("service_settings", {}).get("dimensions", model.dimensions)
        if width != model.dimensions:
            wrong = f"{self.url} gives the engine vectors of {width} dimensions; the model {model.digest[:12]} has {model.dimensions}"
            raise IndexingError(wrong, "let index.embeddings name the origin of this project's store")

    def _ask(self, request: Request, missing: bool = False) -> Any:
        try:
            return self._cluster.send(request, missing=missing)
        except IndexingError as error:
            raise self._told(error) from None

    def _told(self, error: IndexingError) -> IndexingError:
        """The engine's refusal with what helps, and without the key, whatever the engine quotes."""
        message = error.message.replace(self._key, "…") if self._key else error.message
        for words, hint in REMEDIES.items():
            if words in message:
                unable = f"Elasticsearch at {self._cluster.url} makes no vectors by {self.url}: {message.partition(': ')[2]}"
                return IndexingError(unable, hint)
        return IndexingError(message, error.hint)


def name(url: str, digest: str, kind: str) -> str:
    """What the engine calls the endpoint for texts of this kind, and the pipeline that asks it."""
    defined = json.dumps(_settings(url, digest, kind), sort_keys=True)
    return f"ragstone-{kind}-{hashlib.sha256(defined.encode()).hexdigest()[:32]}"


def finding(name: str) -> Request:
    """Is it there?"""
    return Request("GET", f"/_inference/text_embedding/{name}", why="an endpoint by its name, a digest of what defines it")


def registration(url: str, digest: str, kind: str, key: str) -> Request:
    """The endpoint; the engine asks it for one vector before it keeps it."""
    settings = {**_settings(url, digest, kind), "api_key": key}
    why = "an endpoint that asks Ragstone's own /v1/embeddings, where there is none"
    body = {"service": "openai", "service_settings": settings}
    return Request("PUT", f"/_inference/text_embedding/{name(url, digest, kind)}", body, why)


def renewal(name: str, key: str) -> Request:
    """Today's key."""
    given = {"service_settings": {"api_key": key}}
    return Request("PUT", f"/_inference/text_embedding/{name}/_update", given, "today's key, if the endpoint was there")


def pipeline(id: str, digest: str) -> Request:
    """What makes a vector of each chunk that is sent without one. The processor also leaves its own name, which goes again."""
    ask = {"inference": {"model_id": id, "input_output": [{"input_field": PASSAGE, "output_field": "vector"}]}}
    tidy = {"remove": {"field": [PASSAGE, "model_id"], "ignore_missing": True}}
    body = {"description": f"Ragstone's {digest}", "processors": [ask, tidy]}
    return Request("PUT", f"/_ingest/pipeline/{id}", body, "the ingest pipeline: of each chunk its vector is kept")


def _settings(url: str, digest: str, kind: str) -> dict[str, Any]:
    """Everything but the key."""
    return {"url": f"{url}?input_type={kind}", "model_id": f"models/{digest}", "similarity": "cosine"}
