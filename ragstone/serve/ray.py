"""`ray`, `ray://host:10001`, `ray+gcs://host:6379`: llama.cpp in applications of Ray Serve, one for each version, scaled by the CPU.

    ray                                Ray on this machine, on loopback only, until this process ends
    ray://host:10001?host=0.0.0.0      a cluster, through its client port; Serve's HTTP then listens on all of its interfaces
    ray+gcs://127.0.0.1:6379           a cluster that this machine is a node of

An application is `rayserve`'s; here is where it is, and who asks it. An embedding service has one for each release's model.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import secrets
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from ragstone import programs, raycluster, rayserve, weights
from ragstone.completions import Completions, Endpoint, Patience
from ragstone.config import Serve, Settings, load, override
from ragstone.connect import is_here, scheme
from ragstone.embedder import Vectors
from ragstone.embedding import Embedding
from ragstone.embeddings import asked
from ragstone.errors import ConfigError, GeneratorError
from ragstone.load import Load
from ragstone.programs import Program
from ragstone.raycluster import HERE
from ragstone.rayserve import Order
from ragstone.scale import Bounds
from ragstone.serve import EMBEDDING, GENERATOR, Deployment, Say
from ragstone.wire import Message, Piece, Sampling

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
    """A name of `ragstone models list`, or a GGUF file or Hugging Face folder that lies at the same path here and on every node."""
    gpu: int = 0
    """GPUs that each replica takes: vLLM runs the folder then."""
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


NUMBERS = ("gpu", "port")
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
    if not raycluster.address(cluster) or not all(str(values.get(name, 0)).isdecimal() for name in NUMBERS):
        raise ConfigError(f"{url!r} is not the address of a Ray cluster", EXAMPLE)
    place = Place(
        "ray://" if raycluster.address(cluster) == HERE else cluster, **{**values, **{name: int(values.get(name, 0)) for name in NUMBERS}}
    )
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


def connect(settings: Settings, say: Say | None = None) -> RayGenerator:
    """The generator of a `ray` URL, not yet started. Raises `ConfigError` when the URL is none."""
    return RayGenerator(read(settings.serve.url), settings, say)


class RayGenerator:
    """An application of Ray Serve: started where it is not there, and asked over HTTP."""

    def __init__(self, place: Place, settings: Settings, say: Say | None = None) -> None:
        self.place = place
        self._settings, self._say = settings.serve, say
        self._key = _key(place, settings.serve)
        total = settings.serve.timeout
        self._completions = Completions(Patience(connect=5.0, read=total, total=total))
        self._ours = False

    @cached_property
    def weights(self) -> Path:
        """The GGUF file or the folder here, got on first use."""
        return weights.pull(self.place.model, self._say)

    @cached_property
    def program(self) -> Program:
        """What a replica runs."""
        return programs.choose(self.weights, Path(self.place.model).stem, self._settings, self.place.gpu)

    @cached_property
    def version(self) -> str:
        """SHA-256 of all that changes what is generated: that of the same weights on this machine."""
        return self.program.version

    @property
    def order(self) -> Order:
        """The application as these settings ask for it."""
        app = self.place.app or self.program.name
        return _order(self.place, app, self.place.model, self.version, self.program, self._settings)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"{self.place.base}/{self.order.app}/v1", self.order.kind.name, self._key, "ray")

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        async with aclosing(self._completions.stream(self.endpoint, messages, sampling)) as pieces:
            async for piece in pieces:
                yield piece

    async def start(self) -> None:
        """Join Ray, or start it, and have the application run. Raises `GeneratorError` with the program's own words."""
        await asyncio.to_thread(lambda: _begin(self.place, self.order))
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
            return list(_on(self.place, rayserve.loads, self.order.app))
        except (GeneratorError, TimeoutError) as error:
            log.warning("replicas of %s do not tell how busy they are: %s", self.order.app, error)
            return []

    async def close(self) -> None:
        """End the application that runs in this process's own Ray; a cluster keeps its own."""
        await self._completions.close()
        if self._ours:
            self._ours = False
            await asyncio.to_thread(_on, self.place, rayserve.end, self.order.app)


def vectors(serve: Serve, folder: Path, digest: str) -> RayEmbeddings:
    """A release's model in an application of its own, not yet started. Raises `ConfigError` when the URL is none."""
    return RayEmbeddings(read(serve.url), serve, folder, digest)


class RayEmbeddings:
    """Replicas of a release's model as an application of Ray Serve, asked over HTTP: by the origin, and by whoever has its key."""

    def __init__(self, place: Place, serve: Serve, folder: Path, digest: str) -> None:
        self.place = place
        kind = Embedding(str(folder.resolve()), f"models/{digest[:12]}", serve.threads)
        self.order = _order(place, f"{place.app or 'embed'}.{digest[:8]}", "", digest, kind, serve)
        self.endpoint = Endpoint(f"{place.base}/{self.order.app}/v1", kind.name, self.order.key, "ray")
        self._client = Completions(Patience(connect=5.0, read=serve.timeout, total=serve.timeout))
        self._ours = False

    async def start(self) -> None:
        """Join Ray, or start it, and have the application run. Raises `GeneratorError` with the replica's own words."""
        await asyncio.to_thread(lambda: _begin(self.place, self.order))
        self._ours = self.place.address == HERE

    async def encode(self, kind: str, texts: Sequence[str]) -> Vectors:
        return await asked(self._client, self.endpoint, kind, texts)

    async def close(self) -> None:
        """End the application that runs in this process's own Ray; a cluster keeps its own."""
        await self._client.close()
        if self._ours:
            self._ours = False
            await asyncio.to_thread(_on, self.place, rayserve.end, self.order.app)


def address(deployment: Deployment, to: str) -> str:
    """What is kept of it: `serve.url` of the version."""
    return _place(deployment, to).url


def deploy(deployment: Deployment, to: str, say: Say) -> None:
    """The application, running on its cluster; on this machine it runs within the processes that serve. Raises `GeneratorError`."""
    place = _place(deployment, to)
    if place.address == HERE or deployment.kind == EMBEDDING:  # whose application starts with the release's model
        return
    say(f"deploy    {place.app} starts on {place.address}")
    settings = override(load(), "serve", **{**deployment.serve, "url": place.url})
    _begin(place, RayGenerator(place, settings, say).order)


def explain(deployment: Deployment, to: str) -> str:
    """The application that a deployment becomes, in words."""
    place = _place(deployment, to)
    where = "this machine, in the processes that serve" if place.address == HERE else place.address
    target = deployment.serve.get("target_cpu", Bounds.target)
    lines = [f"{deployment.id} as the application {place.app} of Ray Serve on {where}"]
    what = f"{_engine(place)} with {place.model}" if deployment.kind == GENERATOR else "the release's embedding model"
    lines.append(f"  {deployment.least} to {deployment.most} replicas of {what}, for {target} % of their CPU")
    lines.append(f"  kept as {place.url}")
    unused = [field for field in deployment.unused if not (field == "metadata.gpu" and place.gpu)]
    return "\n".join([*lines, *(f"  {field} is not used here" for field in unused)])


def status(url: str) -> str:
    """How the application is, in Ray's words. Raises `GeneratorError`."""
    return str(_on(_far(url), rayserve.told, _far(url).app))


def scale(url: str, count: int) -> None:
    """So many replicas, whatever the load. Raises `GeneratorError`."""
    if not count:
        raise ConfigError("0 replicas answer nothing", "ragstone service delete")
    _on(_far(url), rayserve.fix, _far(url).app, count)


def remove(url: str) -> None:
    """End the application; one that is gone is no error. Raises `GeneratorError`."""
    _on(_far(url), rayserve.end, _far(url).app)


def withdraw(url: str) -> None:
    """End an application that was deployed and does not answer: Ray keeps its log. Raises `GeneratorError`."""
    if read(url).address != HERE:
        remove(url)


def named(url: str) -> str:
    """The application that a URL names: those of a cluster share all else."""
    place = read(url)
    return f"{place.cluster} {place.app}"


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
    model = _model(deployment, usual, place) if deployment.kind == GENERATOR else Place.model
    kind = {} if deployment.kind == GENERATOR else {"url": "", "kind": deployment.kind}
    told = json.dumps({**deployment.serve, "model": model, **kind}, sort_keys=True)
    digest = hashlib.sha256(told.encode()).hexdigest()[:8]
    return replace(place, app=f"{deployment.name}_{deployment.version}-{digest}", model=model, gpu=_gpus(deployment, place))


def _gpus(deployment: Deployment, place: Place) -> int:
    """What PAI-EAS's `metadata.gpu` says, or the URL, for a generator that is a folder: llama.cpp and embedding models take none here."""
    model = str(deployment.told.get("model", "")).removeprefix("local://") or place.model
    if deployment.kind != GENERATOR or not Path(model).is_dir():
        return 0
    wanted = str(deployment.told.get("metadata", {}).get("gpu", place.gpu))
    return int(wanted) if wanted.isdecimal() else place.gpu


def _engine(place: Place) -> str:
    if not Path(place.model).is_dir():
        return "llama.cpp"
    return f"vLLM on {place.gpu} GPU each" if place.gpu else "transformers"


def _model(deployment: Deployment, usual: str, place: Place) -> str:
    if scheme(usual) == "ray":
        return place.model
    if scheme(usual) != HERE:
        raise ConfigError(
            f"Ray runs files of llama.cpp and Hugging Face folders, and {usual} is neither",
            'model = "local:///models/name.gguf", or a folder',
        )
    return usual.removeprefix("local").removeprefix("://") or Place.model


def _key(place: Place, serve: Serve) -> str:
    """What an application asks for."""
    return serve.api_key or (_secret() if place.address == HERE else "")


def _order(place: Place, app: str, model: str, version: str, kind: Program | Embedding, serve: Serve) -> Order:
    bounds = Bounds(serve.replicas, max(serve.replicas, serve.replicas_most), serve.target_cpu, down=serve.scale_down)
    own = place.address == HERE
    return Order(app, model, version, kind, bounds, own, 0 if own else serve.threads, _key(place, serve), place.gpu)


def _begin(place: Place, order: Order) -> None:
    """The application, running: found, or started. Raises `GeneratorError`."""
    _on(place, rayserve.ensure, order, place.host, _port(place))


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
