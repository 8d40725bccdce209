"""`ray`, `ray://host:10001`, `ray+gcs://host:6379`: llama.cpp in applications of Ray Serve, one for each version, scaled by the CPU.

    ray                                Ray on this machine, on loopback only, until this process ends
    ray://host:10001?host=0.0.0.0      a cluster, through its client port; Serve's HTTP then listens on all of its interfaces
    ray+gcs://127.0.0.1:6379           a cluster that this machine is a node of

What answers on Ray is what answers on this machine, `replicas`; how many of them there are is Ray's part, by the rule of `scale`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import os
import secrets
import socket
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ragstone import raycluster, replica, weights, wire
from ragstone.completions import Completions, Endpoint, Patience
from ragstone.config import Settings, load, override
from ragstone.connect import is_here, scheme
from ragstone.errors import ConfigError, GeneratorError, Unauthorized
from ragstone.load import Load
from ragstone.raycluster import HERE
from ragstone.replica import Replica
from ragstone.replicas import LOAD, Replicas
from ragstone.scale import Bounds, Scaler
from ragstone.serve import Deployment, Say
from ragstone.wire import Message, Piece, Sampling

PART = "replicas"
"""What Ray Serve calls the one deployment of an application."""
RETRIES = 2
"""How often Ray starts a replica that fails before it gives the application up."""
LOOK_BACK = 2.0
"""Seconds over which Ray averages the use of the CPU; it looks five times as often."""
GLANCE = 2.0
"""Seconds in which replicas say how busy they are, or are not told of."""
ELSEWHERE = {"runtime_env": {"env_vars": dict(raycluster.PACE)}}
"""What a replica needs on a cluster that was not started here."""
log = logging.getLogger(__name__)
EXAMPLE = "--to ray, or ray+gcs://127.0.0.1:6379 for a cluster"


@dataclass(frozen=True)
class Place:
    """Which application it is, and where: what the URL says."""

    cluster: str = ""
    """The URL's own beginning, such as `ray://host:10001`."""
    app: str = ""
    """The application; empty is called like the model."""
    model: str = "smollm2"
    """A name of `ragstone models list`, or a GGUF file that lies at the same path here and on every node."""
    host: str = "127.0.0.1"
    """Where Serve's HTTP listens on each node, unless it runs there already."""
    port: int = 0
    """Its port: 8000, and any free one on this machine."""

    @property
    def address(self) -> str:
        """What Ray calls the cluster."""
        return raycluster.address(self.cluster)

    @property
    def url(self) -> str:
        told = {name: getattr(self, name) for name in OPTIONS if getattr(self, name) != getattr(Place, name)}
        return f"{self.cluster}?{urlencode(told, safe='/:')}"

    @property
    def base(self) -> str:
        """Where its Serve listens, as this machine reaches it."""
        host = self.host if self.address == HERE else urlsplit(self.cluster).hostname or self.host
        return f"http://{host}:{_port(self)}"


OPTIONS = tuple(one.name for one in fields(Place) if one.name != "cluster")


def read(url: str) -> Place:
    """What a `ray` URL says. Raises `ConfigError`.

    >>> read("ray://host:10001?app=pump_v1&host=0.0.0.0").address
    'ray://host:10001'
    """
    cluster, _, query = url.partition("?")
    values: dict[str, Any] = dict(parse_qsl(query))
    if unknown := sorted(set(values) - set(OPTIONS)):
        raise ConfigError(f"ray has no {unknown[0]!r}; there are {', '.join(OPTIONS)}", EXAMPLE)
    if not raycluster.address(cluster) or not str(values.get("port", 0)).isdecimal():
        raise ConfigError(f"{url!r} is not the address of a Ray cluster", EXAMPLE)
    place = Place("ray://" if raycluster.address(cluster) == HERE else cluster, **{**values, "port": int(values.get("port", 0))})
    host = urlsplit(cluster).hostname
    if host and is_here(place.host) and not is_here(host):
        raise ConfigError(f"Serve would listen on the loopback of {host} only, and not answer here", f"{cluster}?host=0.0.0.0")
    return place


@functools.cache
def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@functools.cache
def _secret() -> str:
    """Who asks the applications of this process's own Ray shows it: nobody else on this machine has it."""
    return secrets.token_urlsafe(16)


def _port(place: Place) -> int:
    return place.port or (_free() if place.address == HERE else 8000)


@dataclass(frozen=True)
class Order:
    """What an application runs: enough to start it on any node of the cluster."""

    app: str
    model: str
    version: str
    """Of the generator: weights that are others on a node are refused there."""
    kind: Replica
    bounds: Bounds
    own: bool
    """Whether this process started the Ray that it runs on."""
    cpus: int
    """Cores that each replica reserves; 0 on this machine, whose cores they share."""
    key: str = field(repr=False)

    @property
    def room(self) -> int:
        """Requests that a replica takes at a time: as many as llama.cpp has threads for. More wait before it."""
        return self.kind.slots + 2


def connect(settings: Settings, say: Say | None = None) -> RayGenerator:
    """The generator of a `ray` URL, not yet started. Raises `ConfigError` when the URL is none."""
    return RayGenerator(read(settings.serve.url), settings, say)


class RayGenerator:
    """An application of Ray Serve: started where it is not there, and asked over HTTP."""

    def __init__(self, place: Place, settings: Settings, say: Say | None = None) -> None:
        self.place = place
        self._settings, self._say = settings.serve, say
        self._key = settings.serve.api_key or (_secret() if place.address == HERE else "")
        total = settings.serve.timeout
        self._completions = Completions(Patience(connect=5.0, read=total, total=total))
        self._ours = False

    @cached_property
    def weights(self) -> Path:
        """The GGUF file here, got on first use."""
        return weights.pull(self.place.model, self._say)

    @cached_property
    def version(self) -> str:
        """SHA-256 of all that changes what is generated: that of the same weights on this machine."""
        return replica.version(self.weights, self._settings.context, self._settings.slots)

    @property
    def order(self) -> Order:
        """The application as these settings ask for it."""
        serve, name = self._settings, Path(self.place.model).stem
        kind = Replica(str(self.weights), name, serve.context, serve.slots, serve.threads, key="", sleep=serve.sleep)
        bounds = Bounds(serve.replicas, max(serve.replicas, serve.replicas_most), serve.target_cpu, down=serve.scale_down)
        own = self.place.address == HERE
        return Order(self.place.app or name, self.place.model, self.version, kind, bounds, own, 0 if own else serve.threads, self._key)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"{self.place.base}/{self.order.app}/v1", self.order.kind.name, self._key, "ray")

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        async with aclosing(self._completions.stream(self.endpoint, messages, sampling)) as pieces:
            async for piece in pieces:
                yield piece

    async def start(self) -> None:
        """Join Ray, or start it, and have the application run. Raises `GeneratorError` with llama.cpp's own words."""
        await asyncio.to_thread(lambda: _on(self.place, ensure, self.order, self.place.host, _port(self.place)))
        self._ours = self.place.address == HERE
        await self._completions.models(self.endpoint)

    async def healthy(self) -> bool:
        try:
            return await self._completions.status(self.endpoint, "/health") == 200
        except GeneratorError:
            return False

    def load(self) -> list[Load]:
        """How busy each replica is, wherever it runs; nothing while they can't be asked."""
        try:
            return list(_on(self.place, loads, self.order.app))
        except (GeneratorError, TimeoutError) as error:
            log.warning("replicas of %s do not tell how busy they are: %s", self.order.app, error)
            return []

    async def close(self) -> None:
        """End the application that runs in this process's own Ray; a cluster keeps its own."""
        await self._completions.close()
        if self._ours:
            self._ours = False
            await asyncio.to_thread(_on, self.place, end, self.order.app)


def address(deployment: Deployment, to: str) -> str:
    """What is kept of it: `serve.url` of the version."""
    return _place(deployment, to).url


def deploy(deployment: Deployment, to: str, say: Say) -> None:
    """The application, running on its cluster; on this machine it runs within the processes that serve. Raises `GeneratorError`."""
    place = _place(deployment, to)
    if place.address == HERE:
        return
    say(f"deploy    {place.app} starts on {place.address}")
    asked = override(load(), "serve", **{**deployment.serve, "url": place.url})
    _on(place, ensure, RayGenerator(place, asked, say).order, place.host, _port(place))


def explain(deployment: Deployment, to: str) -> str:
    """The application that a deployment becomes, in words."""
    place = _place(deployment, to)
    where = "this machine, in the processes that serve" if place.address == HERE else place.address
    target = deployment.serve.get("target_cpu", Bounds.target)
    lines = [f"{deployment.id} as the application {place.app} of Ray Serve on {where}"]
    lines.append(f"  {deployment.least} to {deployment.most} replicas of llama.cpp with {place.model}, for {target} % of their CPU")
    lines.append(f"  kept as {place.url}")
    return "\n".join([*lines, *(f"  {field} is not used here" for field in deployment.unused)])


def status(url: str) -> str:
    """How the application is, in Ray's words. Raises `GeneratorError`."""
    return str(_on(_far(url), told, _far(url).app))


def scale(url: str, count: int) -> None:
    """So many replicas, whatever the load. Raises `GeneratorError`."""
    if not count:
        raise ConfigError("0 replicas answer nothing", "ragstone service delete")
    _on(_far(url), fix, _far(url).app, count)


def remove(url: str) -> None:
    """End the application; one that is gone is no error. Raises `GeneratorError`."""
    _on(_far(url), end, _far(url).app)


def withdraw(url: str) -> None:
    """End an application that was deployed and does not answer: Ray keeps its log. Raises `GeneratorError`."""
    if read(url).address != HERE:
        remove(url)


def _far(url: str) -> Place:
    """The place of an application that outlives the processes that serve. Raises `ConfigError` for this machine's own Ray."""
    place = read(url)
    if place.address == HERE:
        raise ConfigError("this Ray runs within the processes that serve, and ends with them", EXAMPLE)
    return place


def _place(deployment: Deployment, to: str) -> Place:
    """The application of this version: its name holds the digest of what was asked for, so that another content is another application."""
    usual = str(deployment.serve["url"])
    place = read(usual if to == "ray" and scheme(usual) == "ray" else to)
    model = place.model if scheme(usual) == "ray" else usual.removeprefix("local").removeprefix("://") or Place.model
    if scheme(usual) not in ("ray", HERE):
        raise ConfigError(f"Ray runs llama.cpp, and {usual} is no GGUF file", 'model = "local:///models/name.gguf"')
    asked = json.dumps({**deployment.serve, "model": model}, sort_keys=True)
    digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
    return replace(place, app=f"{deployment.name}_{deployment.version}-{digest}", model=model)


def _on(place: Place, work: Callable[..., Any], *arguments: Any) -> Any:
    """What the work gives, done where Ray Serve can be reached: here, or through a client port in a task on the cluster."""
    raycluster.join(place.address, 0, GeneratorError)
    import ray

    try:
        if place.address.startswith("ray://"):
            return ray.get(ray.remote(num_cpus=0)(work).remote(*arguments))
        return work(*arguments)
    except ray.exceptions.RayError as error:
        raise GeneratorError(f"Ray at {place.address} failed: {raycluster.reason(error)}", retryable=True) from error


def ensure(order: Order, host: str, port: int) -> None:
    """The application, running: found, or started. Raises `GeneratorError`, and then nothing is left of it."""
    from ray import serve

    serve.start(http_options={"host": host, "port": port, "request_timeout_s": None}, logging_config={"log_level": "ERROR"})
    found = serve.status().applications.get(order.app)
    if found is not None and found.status == "RUNNING":
        return
    _run(order)


def told(app: str) -> str:
    """`pump_v1 is RUNNING (2 of 3 replicas)`. Raises `GeneratorError`."""
    found = _found(app)
    parts = found.deployments.get(PART)
    states: Mapping[str, int] = parts.replica_states if parts else {}
    why = found.message or (parts.message if parts else "")
    return f"{app} is {found.status.value}{f': {why}' if why else ''} ({states.get('RUNNING', 0)} of {sum(states.values())} replicas)"


def loads(app: str) -> list[Load]:
    """What each replica says of itself. Raises `GeneratorError`, and `TimeoutError` when one is silent."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        told = serve.get_deployment_handle(PART, app).broadcast("load").results(timeout_s=GLANCE)
    except (RayServeException, KeyError) as error:  # it has no replica now, or is gone
        raise GeneratorError(f"{app} has no replica that could be asked", retryable=True) from error
    return sorted((load for replica in told for load in replica), key=lambda load: load.replica)


def fix(app: str, count: int) -> None:
    """So many replicas. The application says itself what it runs."""
    from ray import serve

    _found(app)
    order: Order = serve.get_deployment_handle(PART, app).told.remote().result()
    _run(order, count)


def end(app: str) -> None:
    """End the application; one that is gone is no error."""
    from ray import serve

    serve.delete(app)


def _found(app: str) -> Any:
    from ray import serve

    applications = serve.status().applications
    if app not in applications:
        raise GeneratorError(f"Ray Serve has no application {app}", "ragstone deploy service.json --to ray")
    return applications[app]


def _run(order: Order, count: int = 0) -> None:
    """Put the application up, scaled by its load or with a fixed number of replicas; those that run are replaced before they end."""
    from ray import serve

    scaled = not count and order.bounds.most > order.bounds.least
    made = serve.deployment(
        Server,
        name=PART,
        **({"autoscaling_config": _scaling(order)} if scaled else {"num_replicas": count or order.bounds.least}),
        max_surge_percent=100,
        max_ongoing_requests=order.room,
        max_constructor_retry_count=RETRIES,
        graceful_shutdown_timeout_s=120.0,
        ray_actor_options={"num_cpus": order.cpus, **({} if order.own else ELSEWHERE)},
    )
    target = serve.RunTarget(target=made.bind(order), name=order.app, route_prefix=f"/{order.app}")
    serve.run_many([target], wait_for_applications_running=False)
    _wait(order.app)


def _wait(app: str) -> None:
    """Until the application runs with all its replicas. Raises `GeneratorError`; what failed is ended, what only waits stays."""
    deadline = time.monotonic() + LOAD
    while (found := _found(app)).status != "RUNNING" or PART not in found.deployments or found.deployments[PART].status != "HEALTHY":
        if found.status == "DEPLOY_FAILED":
            why = _words(found.deployments[PART].message)
            end(app)
            raise GeneratorError(f"{app} can't be started on Ray: {why}", "ragstone models pull")
        if time.monotonic() > deadline:
            raise GeneratorError(f"after {LOAD:.0f} s {told(app)}", "ray status: has the cluster the CPUs?")
        time.sleep(0.1)


def _words(trace: str) -> str:
    """The last error within Ray's traces."""
    lines = [line.partition("Error: ")[2] for line in trace.splitlines() if "Error: " in line]
    return lines[-1] if lines else trace.strip().splitlines()[-1]


def _scaling(order: Order) -> dict[str, Any]:
    """Ray's autoscaler with our rule in it, which has the windows that Ray's own delays are."""
    from ray.serve.config import AutoscalingPolicy

    bounds = order.bounds
    return {
        "min_replicas": bounds.least,
        "max_replicas": bounds.most,
        "initial_replicas": bounds.least,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "look_back_period_s": LOOK_BACK,
        "metrics_interval_s": LOOK_BACK / 5,
        "policy": AutoscalingPolicy(policy_function=Policy, policy_kwargs={"room": order.room, **asdict(bounds)}),
    }


class Policy:
    """How many replicas an application should have: Ray's controller asks again and again, with the use of the CPU of each.

    As the HPA does with two measures, the one that wants more replicas counts: requests beyond the room of those that there are count as
    CPU beyond its target.
    """

    def __init__(self, room: int, **bounds: Any) -> None:
        self._room, self._target, self._scaler = room, Bounds(**bounds).target, Scaler(Bounds(**bounds))

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        count, loads = int(context.target_num_replicas), (context.aggregated_metrics or {}).get("cpu", {})
        if not loads or len(loads) != count:  # while one starts or ends, what will be is not known yet
            return count, {}
        queue = self._target * context.total_num_requests / (count * self._room)
        return self._scaler.advise(time.monotonic(), count, max(mean(loads.values()), queue)), {}


class Server:
    """One replica: llama.cpp as a child of Ray's process, whose requests and answers pass through as they are."""

    async def __init__(self, order: Order) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        if raycluster.is_alone():
            _keep_to_loopback()
        path = await asyncio.to_thread(weights.pull, order.model)
        if await asyncio.to_thread(replica.version, path, order.kind.context, order.kind.slots) != order.version:
            raise GeneratorError(f"{path} is another file on this node, or its llama.cpp another one")
        self._order = order
        self._cores = order.kind.threads or os.cpu_count() or 1
        self._replicas = Replicas(replace(order.kind, weights=str(path)), Bounds(), self._cores)
        await self._replicas.start()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
        self._answers = weakref.WeakSet[aiohttp.ClientResponse]()
        self._used, self._looked = self._replicas.used(), time.monotonic()

    async def __call__(self, request: Request) -> Response:
        """What llama.cpp answers, piece by piece; who goes away stops it."""
        if self._order.key and not secrets.compare_digest(request.headers.get("authorization", ""), f"Bearer {self._order.key}"):
            return Response(wire.error_body(Unauthorized("this application needs its key")), 401, media_type="application/json")
        path = request.scope["path"].removeprefix(request.scope["root_path"])
        async with self._replicas.lend(LOAD) as endpoint:
            url = endpoint.url.removesuffix("/v1") + path
            headers = {**endpoint.headers, "content-type": "application/json"}
            answer = await self._session.request(request.method, url, data=await request.body(), headers=headers)
        self._answers.add(answer)
        return StreamingResponse(_passed(answer), answer.status, media_type=answer.headers.get("content-type"))

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The use of the CPU since Ray asked last, per cent of the cores that this replica may take."""
        before, since = self._used, self._looked
        self._used, self._looked = self._replicas.used(), time.monotonic()
        busy = sum(seconds - before[pid] for pid, seconds in self._used.items() if pid in before)
        return {"cpu": 100 * busy / ((self._looked - since) * self._cores)}

    async def load(self) -> list[Load]:
        """How busy it is: with requests that llama.cpp has not begun to answer, and answers that are passed on."""
        from ray.util import get_node_ip_address

        passing, slots = sum(not answer.closed for answer in self._answers), self._order.kind.slots
        found = self._replicas.load(slots)
        taken = [(one.busy or 0) + (one.waiting or 0) + passing for one in found]
        name = f"{{}} on {get_node_ip_address()}".format
        return [Load(name(one.replica), one.cpu, min(n, slots), max(0, n - slots)) for one, n in zip(found, taken, strict=True)]

    async def told(self) -> Order:
        """What it runs."""
        return self._order


def _keep_to_loopback() -> None:
    """Bind the server that Ray gives each replica for other deployments here only.

    Ray has no setting for it: it listens on every interface and unpickles what it is sent. It starts after the replica's constructor.
    """
    from ray.serve._private import replica as inside

    bind = inside.add_port_to_grpc_server
    inside.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))


async def _passed(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for part in answer.content.iter_any():
            yield part
    finally:
        answer.close()  # not release: an answer that was not read to its end must stop being generated
