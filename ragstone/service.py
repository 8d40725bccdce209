"""Services: versions of generators that people deploy by name, and the share of the questions that each gets in the release in force.

A version is what a `service.json` says and never changes. Shares are part of the release, so moving them is a promotion: atomic, taken by
running servers without a restart, and rolled back like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ragstone import release as releases
from ragstone import serve
from ragstone import store as stores
from ragstone.config import Settings, override
from ragstone.connect import built_in, connector, scheme
from ragstone.embeddings import Embeddings, Scaled
from ragstone.errors import ConfigError, Conflict, GeneratorError, ReleaseError
from ragstone.release import Record, Release
from ragstone.serve import EMBEDDING, GENERATOR, KINDS, OURS, Deployment, Message, Sampling, Say
from ragstone.store import Store

HERE = "local"
VERSION = re.compile(r"[a-z0-9][a-z0-9._-]{0,30}")
REGISTERED = re.compile(r"[0-9a-f]{12}")
"""Versions that `serve.register` names by digest, from `serve.url`: they follow the settings, deployed ones do not."""

STRATEGIES = ("autoscaler.scaleStrategies", "autoscaler.strategies")

PLACES = {
    "model": "url",
    "replicas.min": "replicas",
    "replicas.max": "replicas_most",
    "replicas.target_cpu": "target_cpu",
    "replicas.scale_down": "scale_down",
    "AutoScaling.MinInstances": "replicas",
    "AutoScaling.MaxInstances": "replicas_most",
    "AutoScaling.TargetCpuUtilization": "target_cpu",
    "autoscaler.min": "replicas",
    "autoscaler.max": "replicas_most",
    **dict.fromkeys(STRATEGIES, "target_cpu"),
    "autoscaler.behavior.scaleDown.stabilizationWindowSeconds": "scale_down",
    "metadata.instance": "replicas",
    "metadata.cpu": "threads",
    **{name: name for name in OURS},
}
"""Where a service.json says what, and the setting of `serve` that it becomes; what stands higher wins."""

NAMES = ("name", "metadata.name")
KIND = "kind"
VECTORS = "vectors"
"""What a connector calls that which encodes there."""

ELSEWHERE = frozenset(
    """autoscaler cloud containers dockerAuth features labels metadata model_config model_entry model_path networking options oss_endpoint
    processor processor_entry processor_path runtime storage token warm_up_data_path""".split()  # noqa: SIM905  a list of words reads better as prose
)
"""What PAI-EAS knows and this machine has no use for."""

SHAPES: Mapping[str, type] = {"metadata": dict, "autoscaler": dict, "containers": list}


def read(path: Path, version: str, settings: Settings) -> Deployment:
    """The deployment that a service.json describes: our own fields, PAI-EAS's, or the seed's `AutoScaling`.

    Raises `ConfigError`, naming the field, on what it can't mean.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    _check_shapes(path, told)
    fields = dict(_flat(told))
    _check_known(path, fields)
    fields = {place: _of_cpu(value) if place in STRATEGIES else value for place, value in fields.items()}
    values: dict[str, object] = {"url": settings.serve.url}
    origins: dict[str, str] = {}
    for place, setting in PLACES.items():
        if fields.get(place) is not None and setting not in origins:
            values[setting], origins[setting] = _number(path, place, fields[place], setting), place
    _check_range(path, values)
    name = next((str(fields[place]) for place in NAMES if place in fields), path.stem)
    for what, text in (("name", name), ("--version", version)):
        if not VERSION.fullmatch(text) or REGISTERED.fullmatch(text):
            made = "lower-case letters, digits, dots, dashes and underscores make one, and not 12 hex digits"
            raise ConfigError(f"{path}: {what} {text!r}: {made}")
    unused = tuple(sorted(place for place in fields if place not in {*origins.values(), *NAMES, KIND}))
    return Deployment(name, version, values, origins, unused, _kind(path, fields), told)


def explain(deployment: Deployment, to: str = HERE) -> str:
    """What deploying would do: here, what each field of the file becomes and what is not used; elsewhere, what would be sent there."""
    if scheme(to) != HERE:
        _check_encodes(deployment, to)
        return str(_elsewhere(to).explain(deployment, to))
    what = "llama.cpp, or the server that `model` names" if deployment.kind == GENERATOR else "the release's embedding model"
    lines = [f"{deployment.id} on this machine: local replicas of {what}"]
    for setting, value in deployment.serve.items():
        lines.append(f"  serve.{setting} = {value!r}  <- {deployment.origins.get(setting, 'ragstone.toml')}")
    lines += [f"  {place} is not used here" for place in deployment.unused]
    calls = getattr(connector("serve", str(deployment.serve["url"])), "calls", None)
    lines += calls(str(deployment.serve["url"])) if calls and deployment.kind == GENERATOR else []
    return "\n".join(lines)


def deploy(settings: Settings, store: Store, deployment: Deployment, say: Say, to: str = HERE) -> None:
    """Start the version, here or elsewhere, let it say a word, and keep it in the store; it takes no traffic yet.

    Raises `GeneratorError` when it can't answer, and then nothing is kept; `Conflict` when the version is another one already.
    """
    if far := scheme(to) != HERE:
        _check_encodes(deployment, to)
    generates = deployment.kind == GENERATOR
    told = {**deployment.serve, "url": _elsewhere(to).address(deployment, to) if far else deployment.serve["url"] if generates else HERE}
    kind = {} if generates else {KIND: deployment.kind}
    key, data = f"services/{deployment.id}.json", json.dumps({**told, **kind}, indent=1, sort_keys=True).encode()
    if store.stat(key) and store.get(key) != data:
        raise Conflict(f"{deployment.id} is deployed with other settings, and a version never changes", "give another --version")
    if far:
        _elsewhere(to).deploy(deployment, to, say)
    say(f"deploy    {deployment.id} is {'asked' if far else 'started'} once, to see that it answers")
    once = override(settings, "serve", **(told if far else {**told, "replicas": 1, "replicas_most": 1}))
    try:
        asyncio.run(_probe(once, say) if generates else _probe_vectors(once, store))
    except GeneratorError:
        if far and not store.stat(key):
            _withdraw(str(told["url"]))
        raise
    with contextlib.suppress(Conflict):  # the same one, just now
        store.create(key, data)


def status(store: Store, service: str) -> str:
    """How a version that runs elsewhere is, in that place's words; `service` is a version, `name/version`, or the URL itself."""
    url = _url(store, service)
    return str(_able(url, "status")(url))


def logs(settings: Settings, store: Store, service: str, most: int) -> list[str]:
    """The last lines of a version's log, each with its time: of the origin of this project, or in the words of where it runs."""
    url = _url(store, service)
    if scheme(url) != HERE:
        return [str(line) for line in _able(url, "logs")(url, most)]
    path = settings.origin_log
    if not path.is_file():
        raise ConfigError(f"there is no log {path}: `ragstone up` keeps one, and `ragstone serve` writes to its standard error")
    id = find(store, service)
    with path.open(encoding="utf-8", errors="replace") as file:
        told = (_record(line) for line in file)
        return list(deque((f"{one['at']}  {one['message']}" for one in told if one.get("service") == id), most))


def scale(store: Store, service: str, count: int) -> None:
    """Give a version that runs elsewhere so many replicas, whatever the load. Raises `ConfigError` where that can't be."""
    url = _url(store, service)
    _able(url, "scale")(url, count)


def split(url: str, percent: int) -> None:
    """Of the questions to a service that splits them itself, so many per cent to its newest revision. Raises `ConfigError`."""
    _able(url, "traffic")(url, percent)


def delete(store: Store, channel: str, service: str) -> None:
    """End a version that runs elsewhere, and what it costs; its record stays. Raises `ReleaseError` while it answers questions."""
    url = _url(store, service)
    record = releases.current(store, channel)
    for name in releases.load(store, record.release).generator if record else ():
        if _named(json.loads(store.get(f"services/{name}.json"))["url"]) == _named(url):
            raise ReleaseError(f"{name} answers questions in the release in force", "ragstone service list")
    _able(url, "remove")(url)


def deployed(store: Store) -> list[str]:
    """The `name/version` of every version that was deployed or registered, sorted."""
    return [stat.key.removeprefix("services/").removesuffix(".json") for stat in store.list("services/")]


def find(store: Store, service: str) -> str:
    """The `name/version` that a version, or the whole, stands for. Raises `ReleaseError`."""
    there = deployed(store)
    fitting = [one for one in there if one == service or one.rpartition("/")[2] == service]
    if len(fitting) != 1:
        those = f"there are {', '.join(there)}" if there else "none is deployed"
        problem = "is no version" if not fitting else f"could be {' or '.join(fitting)}"
        raise ReleaseError(f"{service[:80]!r} {problem}; {those}", "ragstone deploy service.json --version v1")
    return fitting[0]


def vectors(settings: Settings, folder: Path, digest: str) -> Embeddings:
    """What encodes with a release's model, as the settings of an embedding service say: replicas on this machine, or where its URL is."""
    elsewhere = getattr(connector("serve", settings.serve.url), VECTORS, None)
    if elsewhere is None:
        return Scaled(folder, digest, settings.serve)
    made: Embeddings = elsewhere(settings.serve, folder, digest)
    return made


def named(generator: Mapping[str, int]) -> bool:
    """Whether a release's generators were deployed by a person: then a build keeps them, whatever `serve.url` says."""
    return any(not REGISTERED.fullmatch(service.rpartition("/")[2]) for service in generator)


def share(store: Store, channel: str, wanted: Mapping[str, int]) -> Record:
    """Put the release in force again with these shares, in percent, by version or `name/version`. Raises `ReleaseError`."""
    record, release = _in_force(store, channel)
    shares = {find(store, service): percent for service, percent in wanted.items() if percent}
    if sum(shares.values()) != 100 or min(shares.values()) < 0:
        raise ReleaseError(f"the shares are {', '.join(f'{one}={part}' for one, part in wanted.items())}: they must add up to 100")
    for one in shares:
        if serve.kind(store, one) != GENERATOR:
            raise ReleaseError(f"{one} answers no questions, it encodes", "serve.embeddings in ragstone.toml")
    told = " ".join(f"{service}={percent}" for service, percent in sorted(shares.items()))
    return _promoted(store, record, replace(release, generator=shares, note=f"traffic {told}"))


def rollback(store: Store, channel: str) -> Record:
    """Put the generators of the newest release that had others back in force, with all else as it is. Raises `ReleaseError`."""
    record, release = _in_force(store, channel)
    for earlier in reversed(releases.history(store, channel)):
        before = releases.load(store, earlier.release).generator
        if before != release.generator:
            return _promoted(store, record, replace(release, generator=before, note=f"generators of {earlier.release} again"))
    raise ReleaseError(f"channel {channel} never had other generators", "ragstone service list")


def parse(shares: Sequence[str]) -> dict[str, int]:
    """`v1=90 v2=10` as numbers. Raises `ConfigError`.

    >>> parse(["v1=90", "v2=10"])
    {'v1': 90, 'v2': 10}
    """
    found = {}
    for text in shares:
        service, _, percent = text.rpartition("=")  # a URL has some of its own
        if not service or not percent.isdecimal():
            raise ConfigError(f"{text!r} is no share", "ragstone service traffic v1=90 v2=10")
        found[service] = int(percent)
    return found


def _record(line: str) -> dict[str, Any]:
    """A line of the origin's log; empty for one that another program wrote."""
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        return found if isinstance(found, dict) else {}
    return {}


def _elsewhere(to: str) -> ModuleType:
    """The connector that deploys to that place. Raises `ConfigError` when it deploys nothing."""
    place = connector("serve", to)
    if not hasattr(place, "deploy"):
        those = [name for name in built_in("serve") if hasattr(connector("serve", name), "deploy")]
        raise ConfigError(f"nothing is deployed to {scheme(to)!r}", f"--to {' or '.join([HERE, *those])}")
    return place


def _url(store: Store, service: str) -> str:
    return service if "://" in service else str(json.loads(store.get(f"services/{find(store, service)}.json"))["url"])


def _named(url: str) -> str:
    """What a URL names, without how it was made: most before their parameters."""
    names: Callable[[str], str] = getattr(connector("serve", url), "named", lambda url: url.partition("?")[0])
    return names(url)


def _withdraw(url: str) -> None:
    """End what was just deployed and does not answer, where its place does not keep it for its log."""
    with contextlib.suppress(GeneratorError):  # what is told is why it does not answer
        getattr(connector("serve", url), "withdraw", lambda url: None)(url)


def _able(url: str, verb: str) -> Callable[..., Any]:
    """What the connector of a URL calls `verb`."""
    does: Callable[..., Any] | None = getattr(connector("serve", url), verb, None)
    if does is None:
        raise ConfigError(f"{scheme(url)} runs within the processes that serve, as its service.json says", "deploy another --version")
    return does


async def _probe(settings: Settings, say: Say) -> None:
    generator = serve.connect(settings, say)
    try:
        await generator.start()
        async with contextlib.aclosing(generator.stream([Message("user", "Say yes.")], Sampling(max_tokens=1))) as pieces:
            if not [piece async for piece in pieces]:
                raise GeneratorError("it answered with nothing")
    finally:
        await generator.close()


async def _probe_vectors(settings: Settings, store: Store) -> None:
    """The model of the release in force encodes one text. Raises `ReleaseError` when there is none."""
    _, release = _in_force(store, settings.project.channel)
    folder = await asyncio.to_thread(stores.fetch, store, f"models/{release.model}")
    encoding = vectors(settings, folder, release.model)
    try:
        await encoding.start()
        await encoding.encode("query", ["?"])
    finally:
        await encoding.close()


def _check_encodes(deployment: Deployment, to: str) -> None:
    if deployment.kind == EMBEDDING and not hasattr(_elsewhere(to), VECTORS):
        raise ConfigError(f"{deployment.id} is an {EMBEDDING} service: those run on this machine and on Ray", f"--to {HERE} or ray")


def _in_force(store: Store, channel: str) -> tuple[Record, Release]:
    record = releases.current(store, channel)
    if record is None:
        raise ReleaseError(f"channel {channel} has no release to put a generator in", "ragstone build")
    return record, releases.load(store, record.release)


def _promoted(store: Store, record: Record, release: Release) -> Record:
    releases.save(store, release)
    return releases.promote(store, record.channel, release.id, after=record.number)


def _flat(told: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Every field of nested objects by its path; a list is a value."""
    found: list[tuple[str, Any]] = []
    for name, value in told.items():
        found += _flat(value, f"{above}{name}.") if isinstance(value, dict) else [(f"{above}{name}", value)]
    return found


def _of_cpu(strategies: object) -> object:
    """The CPU threshold of PAI-EAS's list of strategies; None when none of them is of the CPU."""
    told = strategies if isinstance(strategies, list) else []
    cpu = [one for one in told if isinstance(one, dict) and one.get("metricName", one.get("metric_name")) == "cpu"]
    return cpu[0].get("threshold") if cpu else None


def _check_shapes(path: Path, told: Mapping[str, Any]) -> None:
    for name, kind in SHAPES.items():
        if not isinstance(told.get(name, kind()), kind):
            raise ConfigError(f"{path}: {name} must hold {'an object' if kind is dict else 'a list'}")


def _check_known(path: Path, fields: Mapping[str, object]) -> None:
    known = {place.partition(".")[0] for place in (*PLACES, *NAMES, KIND)} | ELSEWHERE
    for place in fields:
        first = place.partition(".")[0]
        mine = first in ("AutoScaling", "replicas") and place not in PLACES
        if first not in known or mine:
            raise ConfigError(f"{path}: the field {place!r} is unknown; there are {', '.join(sorted({*PLACES, *NAMES}))}")


def _kind(path: Path, fields: Mapping[str, object]) -> str:
    found = str(fields.get(KIND, GENERATOR))
    if found not in KINDS:
        raise ConfigError(f"{path}: kind {found!r} is none: {' and '.join(KINDS)} are")
    if found == EMBEDDING and "model" in fields:
        raise ConfigError(f"{path}: an embedding service has the model of the release in force", 'leave "model" out')
    return found


def _number(path: Path, place: str, value: Any, setting: str) -> object:
    """The value, of the type that the setting has."""
    if setting == "url":
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigError(f"{path}: {place} = {value!r} is no number of that kind")
    return float(value) if setting in ("target_cpu", "scale_down", "sleep", "temperature") else int(value)


def _check_range(path: Path, values: Mapping[str, Any]) -> None:
    least, most = values.get("replicas", 1), values.get("replicas_most", values.get("replicas", 1))
    if not 1 <= least <= most:
        raise ConfigError(f"{path}: {least} replicas at least and {most} at most: the first must be 1 or more, and no more than the second")
    if not 0 < values.get("target_cpu", 70.0) <= 100:
        raise ConfigError(f"{path}: a CPU target of {values['target_cpu']:g} % can't be reached: it lies between 1 and 100")
