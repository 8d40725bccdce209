"""Applications of Ray Serve, each a model in as many replicas as its load needs. It runs in a process that has joined a cluster.

What answers on Ray is what answers on this machine, `replicas`; how many of them there are is Ray's part, by the rule of `scale`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ragstone import embedder, raycluster, weights, wire
from ragstone.embedding import Embedding
from ragstone.errors import GeneratorError, Unauthorized
from ragstone.load import Load
from ragstone.programs import Program
from ragstone.replicas import LOAD, Replicas
from ragstone.scale import Bounds, Scaler

PART = "replicas"
"""What Ray Serve calls the one deployment of an application."""
RETRIES = 2
"""How often Ray starts a replica that fails before it gives the application up."""
LOOK_BACK = 2.0
"""Seconds over which Ray averages the use of the CPU; it looks five times as often."""
GLANCE = 2.0
"""Seconds in which replicas say how busy they are, or are not told of."""
BATCH = 32
"""Requests that an embedding replica takes at a time: those that come while it encodes are encoded together."""
ELSEWHERE = {"runtime_env": {"env_vars": dict(raycluster.PACE)}}
"""What a replica needs on a cluster that was not started here."""


@dataclass(frozen=True)
class Order:
    """What an application runs: enough to start it on any node of the cluster."""

    app: str
    model: str
    """Of a generator: a name of `ragstone models list`, or a file. An embedding model's folder is in `kind`."""
    version: str
    """Of the generator, or the embedding model's digest: weights that are others on a node are refused there."""
    kind: Program | Embedding
    bounds: Bounds
    own: bool
    """Whether this process started the Ray that it runs on."""
    cpus: int
    """Cores that each replica reserves; 0 on this machine, whose cores they share."""
    key: str = field(repr=False)
    gpus: int = 0
    """GPUs that each replica reserves."""

    @property
    def room(self) -> int:
        """Requests that a replica takes at a time. More wait before it."""
        return self.slots if isinstance(self.kind, Embedding) else self.slots + 2

    @property
    def slots(self) -> int:
        """Of those, how many it works at: as many as llama.cpp has threads for, or are encoded together."""
        return BATCH if isinstance(self.kind, Embedding) else self.kind.slots


def ensure(order: Order, host: str, port: int) -> None:
    """The application, running: found, or started. Raises `GeneratorError`, and then nothing is left of it."""
    from ray import serve

    serve.start(http_options={"host": host, "port": port, "request_timeout_s": None}, logging_config={"log_level": "ERROR"})
    found = serve.status().applications.get(order.app)
    if found is not None and found.status == "RUNNING":
        return
    _check_gpus(order.gpus)
    _run(order)


def _check_gpus(count: int) -> None:
    """Ray would wait for a node that has them, without an end. Raises `GeneratorError`."""
    import ray

    most = max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if count > most:
        raise GeneratorError(
            f"vLLM needs {count} GPU, and no node of the cluster has more than {most}", '"gpu": 0 has transformers run the folder'
        )


def told(app: str) -> str:
    """`pump_v1 is RUNNING (2 of 3 replicas)`, a line for each application of that name. Raises `GeneratorError`."""
    return "\n".join(_told(name, found) for name, found in _found(app).items())


def _told(app: str, found: Any) -> str:
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

    for name in _found(app):
        order: Order = serve.get_deployment_handle(PART, name).told.remote().result()
        _run(order, count)


def end(app: str) -> None:
    """End the application, or all those of an embedding service; what is gone is no error."""
    from ray import serve

    for name in [app, *_of_models(app)]:
        serve.delete(name)


def _found(app: str) -> dict[str, Any]:
    """The application by its name, or those of an embedding service, one for each release's model."""
    from ray import serve

    applications = serve.status().applications
    if found := [name for name in (app, *_of_models(app)) if name in applications]:
        return {name: applications[name] for name in found}
    raise GeneratorError(f"Ray Serve has no application {app}", "ragstone deploy service.json --to ray")


def _of_models(app: str) -> list[str]:
    from ray import serve

    return sorted(name for name in serve.status().applications if name.startswith(f"{app}."))


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
        ray_actor_options={"num_cpus": order.cpus, "num_gpus": order.gpus, **({} if order.own else ELSEWHERE)},
    )
    target = serve.RunTarget(target=made.bind(order), name=order.app, route_prefix=f"/{order.app}")
    serve.run_many([target], wait_for_applications_running=False)
    _wait(order.app)


def _wait(app: str) -> None:
    """Until the application runs with all its replicas. Raises `GeneratorError`; what failed is ended, what only waits stays."""
    deadline = time.monotonic() + LOAD
    while (found := _found(app)[app]).status != "RUNNING" or PART not in found.deployments or found.deployments[PART].status != "HEALTHY":
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
    """One replica: a program as a child of Ray's process, whose requests and answers pass through as they are."""

    async def __init__(self, order: Order) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        if raycluster.is_alone():
            _keep_to_loopback()
        kind = await asyncio.to_thread(_on_this_node, order)
        self._order = order
        self._cores = kind.threads or os.cpu_count() or 1
        self._replicas = Replicas(kind, Bounds(), self._cores)
        await self._replicas.start()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
        self._answers = weakref.WeakSet[aiohttp.ClientResponse]()
        self._used, self._looked = self._replicas.used(), time.monotonic()

    async def __call__(self, request: Request) -> Response:
        """What it answers, piece by piece; who goes away stops it."""
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
        """How busy it is: with requests that the program has not begun to answer, and answers that are passed on."""
        from ray.util import get_node_ip_address

        passing, slots = sum(not answer.closed for answer in self._answers), self._order.slots
        found = self._replicas.load(slots)
        taken = [(one.busy or 0) + (one.waiting or 0) + passing for one in found]
        name = f"{{}} on {get_node_ip_address()}".format
        return [Load(name(one.replica), one.cpu, min(n, slots), max(0, n - slots)) for one, n in zip(found, taken, strict=True)]

    async def told(self) -> Order:
        """What it runs."""
        return self._order


def _on_this_node(order: Order) -> Program | Embedding:
    """What it runs, with its files as they lie here. Raises `GeneratorError` when they are others."""
    if isinstance(order.kind, Embedding):
        if embedder.digest(Path(order.kind.folder)) != order.version:
            raise GeneratorError(f"{order.kind.folder} is another model on this node")
        return order.kind
    kind = order.kind.at(weights.pull(order.model))
    if kind.version != order.version:
        raise GeneratorError(f"{kind.weights} is another file on this node, or what runs it another one")
    return kind


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
