"""`eas://service?region=cn-hangzhou`: a service on PAI-EAS answers, and a deployment becomes one.

Keys come from the SDK's own chain, the service's token from DescribeService when it is needed; nothing here stores or prints either.
Verified against the SDK's contract, not against a live account.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from alibabacloud_credentials.client import Client as Credentials
from alibabacloud_eas20210701 import models as eas
from alibabacloud_eas20210701.client import Client
from alibabacloud_tea_openapi.utils_models import Config

from ragstone import alibaba
from ragstone.completions import Completions, Endpoint, Patience
from ragstone.config import Settings
from ragstone.connect import is_here, scheme
from ragstone.errors import ConfigError, Conflict, GeneratorError
from ragstone.serve import Deployment, Say
from ragstone.wire import Message, Piece, Sampling

RUNS = ("containers", "processor", "model_path")
"""Fields that say what a service runs: one of them at least must be there."""
LABEL = "ragstone"
"""The label of a service that holds the digest of what was asked for: that is how it is found again."""
ENDED = ("Failed", "Stopped", "Deleting", "Deleted", "DeleteFailed")
FLAG = re.compile(r"(--[\w-]*(?:api-key|password|secret|token)[= ])\S+")
PATIENCE = 10
"""Looks at a service that may fail in a row, for want of a connection or a server, before it is left to itself."""
SECRET = re.compile(r"token|key|secret|passw|auth", re.IGNORECASE)
AGAIN = "give the same command again: it finds the service and goes on"
RENEWED = "the token is PAI-EAS's own: is the service's name right?"
EXAMPLE = "--to eas://?region=cn-hangzhou, or serve.url = eas://<service>?region=cn-hangzhou"


@dataclass(frozen=True)
class Place:
    """Which service it is, and where: what the URL says."""

    service: str = ""
    region: str = ""
    group: str = ""
    """The service group that it belongs to."""
    workspace: str = ""
    """Where it is created; empty is the account's default workspace."""
    model: str = ""
    """The name that requests ask for; empty is the first that the service lists."""
    digest: str = ""
    """Of the deployment: the same service with other content is another version."""
    network: str = "internet"
    """`vpc` calls the service by its address within its network, over http when PAI-EAS says so."""
    endpoint: str = ""
    """PAI-EAS's own, where it is not the region's; `http://` on this machine only."""
    poll: float = 5.0
    """Seconds between two looks at a service that is being made."""

    @property
    def url(self) -> str:
        """What is kept of it: all that names the service, and nothing of how it was made."""
        told = {name: getattr(self, name) for name in OPTIONS if name not in ("workspace", "poll")}
        given = {name: value for name, value in told.items() if value != getattr(Place, name)}
        return f"eas://{self.service}?{urlencode(given, safe='/:')}"


OPTIONS = tuple(one.name for one in fields(Place) if one.name != "service")


def read(url: str) -> Place:
    """What `eas://service?…` says, complete or not. Raises `ConfigError` on what it can't mean.

    >>> read("eas://pump_v1?region=cn-hangzhou&group=pump").group
    'pump'
    """
    parts = urlsplit(url if "://" in url else f"{url}://")
    values: dict[str, Any] = dict(parse_qsl(parts.query))
    if "@" in parts.netloc:  # not quoted: it may hold a token
        raise ConfigError("an eas:// URL takes no token: it is asked for when it is needed", EXAMPLE)
    if unknown := sorted(set(values) - set(OPTIONS)):
        raise ConfigError(f"eas:// has no {unknown[0]!r}; there are {', '.join(OPTIONS)}", EXAMPLE)
    if values.get("network", "vpc") not in ("internet", "vpc"):
        raise ConfigError(f"network={values['network']} is none: internet and vpc are")
    try:
        place = Place(**{**values, "poll": float(values.get("poll", Place.poll))}, service=parts.netloc)
    except ValueError as error:
        raise ConfigError(f"poll={values['poll']} is no number of seconds") from error
    alibaba.server(place.endpoint)
    return place


def connect(settings: Settings, say: Say | None = None) -> EasGenerator:
    """The generator behind an `eas://` URL. Raises `ConfigError` when it does not say which service and region."""
    place = read(settings.serve.url)
    if not place.service or not place.region:
        raise ConfigError(f"serve.url = {settings.serve.url!r} must name a service and its region", EXAMPLE)
    return EasGenerator(place, settings.serve.timeout)


class EasGenerator:
    """A model that PAI-EAS serves by OpenAI's chat completions."""

    def __init__(self, place: Place, timeout: float) -> None:
        self.place = place
        self._services = _Services(place, _client(place, Credentials()))
        self._completions = Completions(Patience(total=timeout))
        self._endpoint: Endpoint | None = None

    @property
    def version(self) -> str:
        """SHA-256 of the URL, which holds the deployment's digest: what the service does behind it can't be seen from here."""
        return hashlib.sha256(self.place.url.encode()).hexdigest()

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        for again in (True, False):
            endpoint = self._endpoint or await self._look()
            try:
                async with aclosing(self._completions.stream(endpoint, messages, sampling)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except GeneratorError as error:
                self._endpoint = None  # a service that was made anew has another token
                if not (again and error.hint == RENEWED):
                    raise

    async def start(self) -> None:
        """Ask PAI-EAS where the service is, and the service for its models. Raises `GeneratorError`."""
        await self._look()

    async def healthy(self) -> bool:
        try:
            await (self._completions.models(self._endpoint) if self._endpoint else self._look())
        except GeneratorError:
            self._endpoint = None
            return False
        return True

    async def close(self) -> None:
        await self._completions.close()

    async def _look(self) -> Endpoint:
        endpoint = await asyncio.to_thread(self._services.endpoint)
        listed = await self._completions.models(endpoint)
        if not endpoint.model and not listed:
            raise GeneratorError(f"the PAI-EAS service {self.place.service} lists no model", "name it: eas://…&model=name")
        self._endpoint = replace(endpoint, model=endpoint.model or listed[0])
        return self._endpoint


def address(deployment: Deployment, to: str) -> str:
    """The URL of the service that a deployment becomes. Raises `ConfigError` when something is missing for that."""
    place = _place(deployment, to)
    missing = [] if place.region else [f"a region ({EXAMPLE})"]
    if not any(name in deployment.told for name in RUNS):
        missing.append("what it runs: containers (image, script, port), or a processor")
    if missing:
        raise ConfigError(f"a service on PAI-EAS needs {', and '.join(missing)}", "ragstone deploy service.json --to eas --explain")
    return place.url


def deploy(deployment: Deployment, to: str, say: Say) -> None:
    """The service, running, with its autoscaler: found, or made. Raises `GeneratorError`, and `Conflict` when its name is taken."""
    place = _place(deployment, to)
    _made(_Services(place, _client(place, Credentials())), deployment, body(deployment, place), say)


def explain(deployment: Deployment, to: str) -> str:
    """What PAI-EAS would be asked for, call by call; capitals stand for what is not known yet. Nothing is sent, and no secret is shown."""
    place = _place(deployment, to)
    lines = [f"# {deployment.id} on PAI-EAS 2021-07-01 (ACS3-HMAC-SHA256), as the service {place.service}"]
    asked = body(deployment, place)
    if not any(name in asked for name in RUNS):
        lines.append("# still to be said in the file: what it runs, as containers (image, script, port) or a processor")
        asked["containers"] = [{"image": "IMAGE", "script": "SCRIPT", "port": 8000}]
    if not place.region:
        lines.append(f"# still to be said: the region ({EXAMPLE})")
    told = _Told(replace(place, region=place.region or "REGION"))
    _made(_Services(told.place, told), deployment, _shown(asked), lambda line: None)
    return "\n".join([*lines, *told.told, "# then it must answer, and is kept as", f"# {place.url}"])


def status(url: str) -> str:
    """How the service is, in words. Raises `GeneratorError`."""
    return _described(_services(url).look())


def scale(url: str, count: int) -> None:
    """So many instances, whatever the load: an autoscaler of the service is taken away. Raises `GeneratorError`."""
    _services(url).fix(count)


def remove(url: str) -> None:
    """End the service, and what it costs. Raises `GeneratorError`; one that is gone is no error."""
    services = _unseen(url)
    if services.find():
        services.remove()


def body(deployment: Deployment, place: Place) -> dict[str, Any]:
    """The service.json that PAI-EAS takes: its own fields as they were written, ours translated."""
    metadata = {**deployment.told.get("metadata", {}), "instance": deployment.least}
    placed = {"group": place.group, "workspace_id": place.workspace}
    metadata |= {name: value for name, value in placed.items() if value}
    if "name" in metadata:
        metadata["name"] = place.service
    own = {name: value for name, value in deployment.foreign.items() if name != "autoscaler"}
    return {**own, "name": place.service, "metadata": metadata}


def scaler(deployment: Deployment) -> dict[str, Any]:
    """What CreateServiceAutoScaler takes, in the spelling of its API; empty when the number of instances is fixed."""
    if deployment.most <= deployment.least:
        return {}
    written = deployment.told.get("autoscaler", {})
    strategies = written.get("scaleStrategies") or written.get("strategies")
    if not strategies or not deployment.origins.get("target_cpu", "autoscaler").startswith("autoscaler"):
        strategies = [{"metricName": "cpu", "threshold": deployment.serve.get("target_cpu", 70)}]
    asked = {"min": deployment.least, "max": deployment.most, "scaleStrategies": [_strategy(one) for one in strategies]}
    behavior = dict(written.get("behavior", {}))
    if "scale_down" in deployment.serve:
        behavior["scaleDown"] = {"stabilizationWindowSeconds": int(float(str(deployment.serve["scale_down"])))}
    return {**asked, "behavior": behavior} if behavior else asked


def _strategy(told: dict[str, Any]) -> dict[str, Any]:
    threshold = float(told.get("threshold", 0))
    named = {"metricName": told.get("metricName", told.get("metric_name")), "service": told.get("service")}
    return {name: value for name, value in named.items() if value} | {"threshold": int(threshold) if threshold.is_integer() else threshold}


def _place(deployment: Deployment, to: str) -> Place:
    """The service of this version: one for each, so that shares move by releases and a rollback finds the old one as it was."""
    usual = str(deployment.serve["url"])
    place = read(usual if to == "eas" and scheme(usual) == "eas" else to)
    told = str(deployment.told.get("model", ""))
    place = replace(
        place,
        service=re.sub(r"[^a-z0-9_]", "_", f"{deployment.name}_{deployment.version}"),
        group=place.group or str(deployment.told.get("metadata", {}).get("group", "")),
        model=place.model or ("" if "://" in told else told),
    )
    asked = json.dumps([body(deployment, place), scaler(deployment)], sort_keys=True)
    return replace(place, digest=hashlib.sha256(asked.encode()).hexdigest()[:12])


def _made(services: _Services, deployment: Deployment, asked: dict[str, Any], say: Say) -> None:
    found = services.find()
    if found is None:
        services.create(asked)
        say(f"deploy    {services.place.service} is created in {services.place.region}")
    else:
        services.take(found)
    services.wait(say)
    if wanted := scaler(deployment):
        services.autoscale(wanted)


class _Services:
    """One of PAI-EAS's services, through the SDK."""

    def __init__(self, place: Place, client: Client) -> None:
        self.place, self.client = place, client
        self.name = place.service

    def find(self) -> eas.Service | None:
        """The service, if there is one. Within a group PAI-EAS's docs also write its name with the group's before it."""
        for name in (self.place.service, f"{self.place.group}.{self.place.service}") if self.place.group else (self.place.service,):
            with _asking(f"can't look for the PAI-EAS service {name}"):
                try:
                    found = self.client.describe_service(self.place.region, name).body
                except alibaba.FAILURES as error:
                    if not _absent(error):
                        raise
                    continue
            if found.service_name:
                self.name = name
                return found
        return None

    def create(self, asked: dict[str, Any]) -> None:
        text = json.dumps(asked, ensure_ascii=False)
        request = eas.CreateServiceRequest(body=text, labels={LABEL: self.place.digest}, workspace_id=self.place.workspace or None)
        with _asking(f"can't create the PAI-EAS service {self.place.service}"):
            self.name = str(self.client.create_service(request).body.service_name or self.name)

    def take(self, found: eas.Service) -> None:
        """Go on with a service that is there; one that was stopped is started. Raises `Conflict` when it is not this deployment's."""
        labels = {one.label_key: one.label_value for one in found.labels or []}
        if labels.get(LABEL) != self.place.digest:
            whose = "it was deployed with other settings" if LABEL in labels else "Ragstone did not make it"
            hint = f"give another --version, or end it: ragstone service delete '{replace(self.place, digest='').url}'"
            raise Conflict(f"{self.place.region} has a PAI-EAS service {self.name} already, and {whose}", hint)
        if found.status == "Stopped":
            with _asking(f"can't start the PAI-EAS service {self.name}"):
                self.client.start_service(self.place.region, self.name)

    def wait(self, say: Say) -> None:
        """Until it runs, telling what changes. Raises `GeneratorError` with PAI-EAS's own words when it will not."""
        last, started = "", False
        while (now := self.look()).status != "Running":
            if (line := _described(now)) != last:
                say(f"deploy    {line}")
            started = started or now.status not in ENDED
            if now.status in ENDED and (started or now.status != "Stopped"):
                hint = f"look at its log in the PAI console; then: ragstone service delete '{replace(self.place, digest='').url}'"
                raise GeneratorError(f"the PAI-EAS service {_described(now)}", hint)
            last = line
            time.sleep(self.place.poll)

    def look(self) -> eas.Service:
        """The service as it is. A lost connection is no end: it is asked for again, so often in a row."""
        for left in reversed(range(PATIENCE)):
            try:
                return self.client.describe_service(self.place.region, self.name).body
            except alibaba.FAILURES as error:
                if not left or not alibaba.passes(error):
                    told = f"lost sight of the PAI-EAS service {self.name}: {alibaba.told(error)}"
                    raise GeneratorError(told, _hint(error), retryable=alibaba.passes(error)) from error
            time.sleep(self.place.poll)
        raise AssertionError("unreachable")

    def endpoint(self) -> Endpoint:
        """Where it answers, with its token. The public address is called over TLS, also where PAI-EAS writes http."""
        found = self.find()
        if found is None:
            raise GeneratorError(f"{self.place.region} has no PAI-EAS service {self.name}", "ragstone deploy service.json --to eas")
        within = self.place.network == "vpc"
        url = str((found.intranet_endpoint if within else found.internet_endpoint) or "").rstrip("/")
        if not url:
            raise GeneratorError(f"the PAI-EAS service {_described(found)} and has no {self.place.network} address yet", retryable=True)
        if not within and not is_here(urlsplit(url).hostname):
            url = re.sub(r"^(http://)?(?=[^/]+\.)", "https://", url)
        return Endpoint(f"{url}/v1", self.place.model, str(found.access_token or ""), "eas", RENEWED)

    def autoscale(self, wanted: dict[str, Any]) -> None:
        """Have this autoscaler, and not a second one."""
        with _asking(f"can't scale the PAI-EAS service {self.name}"):
            there = self.scaler()
            if not there:
                self.client.create_service_auto_scaler(
                    self.place.region, self.name, eas.CreateServiceAutoScalerRequest().from_map(wanted)
                )
            elif there != (wanted["min"], wanted["max"]):
                self.client.update_service_auto_scaler(
                    self.place.region, self.name, eas.UpdateServiceAutoScalerRequest().from_map(wanted)
                )

    def scaler(self) -> tuple[int, int] | None:
        """The bounds of its autoscaler, if it has one."""
        try:
            there = self.client.describe_service_auto_scaler(self.place.region, self.name).body
        except alibaba.FAILURES as error:
            if not _absent(error):
                raise
            return None
        return (int(there.min_replica or 0), int(there.max_replica)) if there.max_replica else None

    def fix(self, count: int) -> None:
        asked = json.dumps({"metadata": {"instance": count}})
        with _asking(f"can't scale the PAI-EAS service {self.name}"):
            if self.scaler():
                self.client.delete_service_auto_scaler(self.place.region, self.name)
            self.client.update_service(self.place.region, self.name, eas.UpdateServiceRequest(body=asked, update_type="merge"))

    def remove(self) -> None:
        with _asking(f"can't delete the PAI-EAS service {self.name}"):
            self.client.delete_service(self.place.region, self.name)


class _Told(Client):  # type: ignore[misc]  # the SDK is not typed
    """The SDK's client with no network: it keeps what it was to send."""

    def __init__(self, place: Place) -> None:
        super().__init__(_config(place))
        self.place = place
        self.told: list[str] = []
        self.answer: dict[str, str] = {}

    def call_api(self, params: Any, sent: Any, runtime: Any) -> dict[str, Any]:
        """In place of sending it. There is no service until it is created, and then it runs."""
        query = f"?{urlencode(sent.query)}" if sent.query else ""
        self.told.append(f"{params.method} {self._protocol}://{self._endpoint}{params.pathname}{query}")
        if sent.body:
            told = json.loads(sent.body) if isinstance(sent.body, str) else sent.body
            self.told.append(json.dumps(told, indent=1, ensure_ascii=False))
        if params.action == "CreateService":
            self.told.append(f"# every {self.place.poll:g} s until it is Running")
            self.answer = {"ServiceName": self.place.service, "Status": "Running"}
        return {"statusCode": 200, "headers": {}, "body": {} if "Scaler" in params.action else self.answer}


def _services(url: str) -> _Services:
    """The service of a URL, which must be there. Raises `GeneratorError`."""
    services = _unseen(url)
    if services.find() is None:
        raise GeneratorError(f"{services.place.region} has no PAI-EAS service {services.name}")
    return services


def _unseen(url: str) -> _Services:
    """The service of a URL, there or not."""
    place = read(url)
    return _Services(place, _client(place, Credentials()))


def _config(place: Place, credentials: Credentials | None = None) -> Config:
    protocol, host = alibaba.server(place.endpoint)
    host = host or f"pai-eas.{place.region}.aliyuncs.com"  # the SDK's table lacks regions, and its rule has another name for them
    return Config(credential=credentials, region_id=place.region, endpoint=host, protocol=protocol)


def _client(place: Place, credentials: Credentials) -> Client:
    return Client(_config(place, credentials))


def _described(now: eas.Service) -> str:
    """`pump_v1 is Creating: pulling the image (0 of 2 instances)`; of the token nothing."""
    why = ": ".join(part for part in (now.reason, now.message) if part)
    instances = f" ({now.running_instance or 0} of {now.total_instance} instances)" if now.total_instance else ""
    return f"{now.service_name} is {now.status}{f': {why}' if why else ''}{instances}"


def _shown(value: Any, name: str = "") -> Any:
    """The value without what may be a secret: a field, a variable or a flag that is named like one."""
    if isinstance(value, dict):
        named = {"value"} if SECRET.search(str(value.get("name", ""))) else set()
        return {key: "***" if key in named else _shown(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [_shown(one, name) for one in value]
    if isinstance(value, str):
        return "***" if SECRET.search(name) else FLAG.sub(r"\1***", value)
    return value


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """The SDK's errors as ours."""
    try:
        yield
    except alibaba.FAILURES as error:
        raise GeneratorError(f"{what}: {alibaba.told(error)}", _hint(error), retryable=alibaba.passes(error)) from error


def _hint(error: BaseException) -> str:
    return alibaba.REFUSED if alibaba.refused(error) else AGAIN


def _absent(error: BaseException) -> bool:
    """Whether it says that there is no such thing; an unknown key is 404 as well."""
    first = alibaba.root(error)
    return getattr(first, "status_code", 0) == 404 and "AccessKey" not in str(getattr(first, "code", ""))
