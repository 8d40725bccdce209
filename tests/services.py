"""PAI-EAS's services on loopback: what they are asked for is kept, they run after some looks, and then they answer as OpenAI's API does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ragstone.wire import DONE, Head, Usage, chunk, last_chunk, sse
from tests.refused import Refused

SERVICES, PREDICT = "/api/v2/services", "/api/predict/"
TOKEN = "a-token-that-no-message-may-show"


@dataclass
class Service:
    """One that was created."""

    asked: dict[str, Any]
    labels: dict[str, str]
    looks: int
    """Before it runs."""
    status: str = "Creating"
    scaler: dict[str, Any] = field(default_factory=dict)

    @property
    def instances(self) -> int:
        return int(self.asked["metadata"].get("instance", 1))


class Services:
    """The services of one region. `looks`, `fails` and `message` are what happens to those that are created next."""

    def __init__(self, region: str, endpoint: str) -> None:
        self.region, self.endpoint = region, endpoint
        self.there: dict[str, Service] = {}
        self.looks = 2
        self.fails = False
        self.message = "pulling the image"
        self.token = TOKEN
        self.models = ["qwen"]
        self.elsewhere = ""
        """The address of a real server that answers in a service's place."""
        self.asked: list[dict[str, Any]] = []
        """The bodies of the questions."""

    def answer(self, method: str, path: str, query: Mapping[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """PAI-EAS's API, below `/api/v2/services`."""
        if not path:
            assert method == "POST"
            return self._create(query, body)
        found = re.fullmatch(f"/{self.region}/([a-z0-9_]+)(/autoscaler|/start)?", path)
        assert found, path
        name, rest = found.groups()
        if name not in self.there:
            raise Refused(404, "InvalidService.NotFound", f"service {name} does not exist")
        return self._one(name, f"{method} {rest or ''}".strip(), body)

    def _create(self, query: Mapping[str, str], body: dict[str, Any]) -> dict[str, Any]:
        name = str(body["name"])
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or not ("containers" in body or "processor" in body):
            raise Refused(400, "InvalidParameter", "the service is not well formed")
        if name in self.there:
            raise Refused(409, "ServiceAlreadyExists", f"service {name} exists")
        self.there[name] = Service(body, json.loads(query.get("Labels", "{}")), self.looks)
        return {"ServiceName": name, "Region": self.region, "Status": "Creating"}

    def _one(self, name: str, call: str, body: dict[str, Any]) -> dict[str, Any]:
        service = self.there[name]
        if call == "GET":
            return self._described(name, service)
        if call == "DELETE":
            del self.there[name]
        elif call == "PUT":
            service.asked["metadata"] |= body["metadata"]
        elif call == "PUT /start":
            service.status = "Starting"
        elif call == "GET /autoscaler":
            if not service.scaler:
                raise Refused(404, "InvalidAutoScaler.NotFound", "no autoscaler")
            return {"MinReplica": service.scaler["min"], "MaxReplica": service.scaler["max"], "ServiceName": name}
        elif call == "DELETE /autoscaler":
            service.scaler = {}
        elif service.scaler and call.startswith("POST"):
            raise Refused(409, "AutoScalerAlreadyExists", "a second autoscaler")
        else:
            service.scaler = body
        return {}

    def _described(self, name: str, service: Service) -> dict[str, Any]:
        if service.status in ("Creating", "Starting"):
            service.looks -= 1
            if service.looks <= 0:
                service.status = "Failed" if self.fails else "Running"
        runs = service.status == "Running"
        return {
            "ServiceName": name,
            "Status": service.status,
            "Message": "" if runs else self.message,
            "RunningInstance": service.instances if runs else 0,
            "TotalInstance": service.instances,
            "AccessToken": self.token,
            "InternetEndpoint": self.elsewhere or f"{self.endpoint}{PREDICT}{name}",
            "IntranetEndpoint": self.elsewhere or f"{self.endpoint}{PREDICT}{name}",
            "Labels": [{"LabelKey": key, "LabelValue": value} for key, value in service.labels.items()],
        }

    def predict(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """A service's own address: `/v1/models` and streamed chat completions. Like some servers it quotes the token that it refuses."""
        name, _, path = target.removeprefix(PREDICT).partition("/")
        given = headers.get("authorization", "")
        if given != f"Bearer {self.token}":
            raise Refused(401, "Unauthorized", f"the token {given} is wrong")
        if name not in self.there or self.there[name].status != "Running":
            raise Refused(404, "NotFound", "no service here")
        if path == "v1/models":
            return 200, {"content-type": "application/json"}, json.dumps({"data": [{"id": one} for one in self.models]}).encode()
        assert (method, path) == ("POST", "v1/chat/completions")
        self.asked.append(json.loads(body))
        head = Head("one", 0, str(self.asked[-1]["model"]))
        said = [sse(chunk(head, word)) for word in ("The ", "pump.")]
        return (
            200,
            {"content-type": "text/event-stream"},
            b"".join([*said, sse(chunk(head, finish="stop")), sse(last_chunk(head, Usage(9, 2))), DONE]),
        )
