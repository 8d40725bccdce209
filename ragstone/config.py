"""Settings: `ragstone.toml`, then `RAGSTONE_<SECTION>_<NAME>` of the environment, as frozen values. Nothing else reads the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ragstone.errors import ConfigError

FILE = "ragstone.toml"
CLIENT, ENGINE = "client", "engine"
AUTO = "auto"
"""What a setting says that leaves the choice to what is found."""


@dataclass(frozen=True)
class Project:
    """Where the project's documents and its store are."""

    store: str = "file://.ragstone/store"
    """Where everything lives. A relative file path is below the project folder."""
    source: str = "docs"
    """The folder of documents that `ragstone stage` and `ragstone up` read."""
    channel: str = "production"
    """The channel that is served and promoted to."""


@dataclass(frozen=True)
class GroupRule:
    """Documents whose path matches the glob belong to these groups; the last rule that matches wins."""

    match: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """How files become chunks, and who may read them."""

    max_mb: float = 64.0
    """A larger file is reported and skipped."""
    max_seconds: float = 60.0
    """Parsing one file may take this long."""
    chunk_words: int = 180
    """A chunk's length at most, in words. Technical English took 2 MiniLM tokens a word: a third of chunks pass the 256 that it reads."""
    strict: bool = False
    """A file that can't be parsed, or a label that can't be used, ends the run."""
    groups: tuple[GroupRule, ...] = ()
    """Who may read what; a document that no rule names is in the group `public`."""


@dataclass(frozen=True)
class Train:
    """How an embedding model is trained, and when it is good enough."""

    url: str = "local"
    base: str = "minilm"
    """The base model: a name of `ragstone models list`, a folder in Sentence-Transformers' layout, or a hub's id (`hub://org/name`)."""
    query_prefix: str = AUTO
    """What goes before a question: `auto` is what the base's own files say, else what its family is known for."""
    document_prefix: str = AUTO
    """What goes before a passage, likewise."""
    minutes: float = 10.0
    """Wall-clock bound of the optimisation; the best checkpoint so far is judged when it is reached. 0 turns training off."""
    epochs: int = 3
    batch: int = 32
    """Pairs a step: each question is told from the passages of all of them."""
    memory: float = 4.0
    """GiB that the training process is planned to take while it steps. Lower takes longer, and gives the same model."""
    seed: int = 17
    margin: float = 0.02
    """The lower bound of the held-out gain must exceed this on mined questions; people's own need no more than 0."""
    guard: float = 0.05
    """nDCG@10 of a guard (identifiers, numbers, negation, general language) may fall by this much at most."""
    fusion: bool = True
    """Labels also choose how cosine, words and bigrams are weighed for the model that learns from them."""
    pairs: tuple[str, ...] = ()
    """Labels: JSONL, CSV or TSV files and BEIR folders, below the project folder; in the environment with commas between them."""
    feedback: bool = False
    """What people said of answers, and agreed to have learned from, counts as labels."""
    log: str = ""
    """Where runs are logged: `tensorboard:<folder>`, below the project folder, or `mlflow:<tracking URI>`; empty is nowhere."""
    teacher: str = ""
    """Who scores passages for mined questions: empty is the retriever itself, else the folder or hub id of a cross-encoder, or
    `rerank+https://host/v1/rerank?model=name`."""
    teacher_key: str = field(default="", repr=False)
    """The key for a `rerank` endpoint; from RAGSTONE_TRAIN_TEACHER_KEY rather than the file."""
    questions: str = ""
    """Who writes questions besides the mined ones: empty is nobody, else a generator as `serve.url` names one."""
    questions_key: str = field(default="", repr=False)
    """The key for that generator; from RAGSTONE_TRAIN_QUESTIONS_KEY rather than the file."""
    questions_most: int = 400
    """Passages at most that a question is asked for."""


@dataclass(frozen=True)
class Index:
    """Where the index lives."""

    url: str = "local"
    """`local` is files in the store, `opensearch://host:9200/name` or `elasticsearch://host:9200/name` a cluster, where indexes have names
    that begin with it."""
    user: str = ""
    """Who asks the cluster."""
    password: str = field(default="", repr=False)
    """Likewise; from RAGSTONE_INDEX_PASSWORD rather than the file."""
    inference: str = CLIENT
    """Who makes vectors: `client` is Ragstone; `engine` is the search engine, which asks Ragstone's `/v1/embeddings` for them."""
    embeddings: str = "http://127.0.0.1:8801/v1/embeddings"
    """Where, as the engine reaches it."""
    embeddings_key: str = field(default="", repr=False)
    """The API key that the engine asks with; from RAGSTONE_INDEX_EMBEDDINGS_KEY rather than the file."""
    pipeline: str = ""
    """Another name that the engine's ingest pipeline gets."""


@dataclass(frozen=True)
class Retrieve:
    """What counts as found."""

    top_k: int = 5
    similarity_threshold: float = 0.75
    """The calibrated probability of relevance that the best hit must reach, else the answer is an abstention."""
    candidates: int = 200
    """How many hits of each list, dense and keyword, are fused."""
    dense_weight: float = 0.5
    """The share of the cosine in the order of the hits; the rest is the keyword score. 0.4 to 0.5 was best over five judged collections.
    A model that learned from labels may bring its own (`train.fusion`)."""
    bigram_weight: float = 0.2
    """What two neighbouring words count in the keyword score beside each of them; likewise."""


@dataclass(frozen=True)
class Rag:
    """Who finds the passages that an answer rests on."""

    url: str = "local"
    """`local` is the release's own index; `bailian://workspace?region=name` a knowledge base of Bailian, made from the same chunks."""


@dataclass(frozen=True)
class Serve:
    """Which generator answers, and how."""

    url: str = "local://smollm2"
    """`local://<weights>` runs llama.cpp here, or transformers where the weights are a folder; `openai://host/v1?model=name` (or
    `openai+http://`) calls an OpenAI-compatible server, `ray` or `ray://host:10001` runs the same as `local` on Ray Serve,
    `eas://service?region=name` a service on PAI-EAS, `bailian://app` an application of Bailian."""
    api_key: str = field(default="", repr=False)
    """The key for an `openai` server; from RAGSTONE_SERVE_API_KEY rather than the file."""
    timeout: float = 120.0
    """Seconds until a generator's answer must be complete."""
    max_tokens: int = 256
    temperature: float = 0.0
    slots: int = 2
    """Answers generated at the same time by a local replica."""
    context: int = 8192
    """Tokens of context of a local replica, shared by its slots."""
    threads: int = 0
    """CPU threads of a local replica; 0 takes every core."""
    replicas: int = 1
    """Local replicas at least, and …"""
    replicas_most: int = 1
    """… at most: more are started while those there are take more of the CPU than `target_cpu`."""
    target_cpu: float = 70.0
    """Per cent of the CPU that local replicas may take before another one is started."""
    scale_down: float = 300.0
    """Seconds for which fewer local replicas must have been enough before one is ended."""
    embeddings: str = ""
    """A deployed version of the kind `embedding` that answers `/v1/embeddings`; empty is the origin's own process."""
    shadow: str = ""
    """A deployed version that gets copies of real questions; what it says reaches nobody, and is compared."""
    shadow_share: float = 10.0
    """Per cent of the questions that it gets."""
    sleep: float = 0.0
    """Seconds without a question after which a local replica lets go of its model, until the next one; 0 is never."""


@dataclass(frozen=True)
class Api:
    """Where the origin listens."""

    host: str = "127.0.0.1"
    port: int = 8801
    max_body_kb: int = 1024
    reuse_mb: int = 0
    """MiB of finished answers, to be given again to questions that ask the same in other words and find the same; 0 reuses none."""


@dataclass(frozen=True)
class Edge:
    """Where the edge listens, and how long it keeps answers."""

    url: str = "local"
    host: str = "127.0.0.1"
    port: int = 8800
    origin: str = "http://127.0.0.1:8801"
    ttl: int = 3600
    """Seconds that an answer of the current release is served without asking the origin."""
    release_check: float = 5.0
    """The release pointer is read at most this often, in seconds."""
    cache_mb: int = 256
    timeout: float = 180.0
    redis: str = field(default="", repr=False)
    """The Redis or Valkey in which edges share answers and limits: `rediss://user:password@host:6380/0`, from RAGSTONE_EDGE_REDIS
    rather than the file; empty is none."""
    redis_mb: int = 1024
    """What answers may take there, in MiB."""
    fallbacks: tuple[str, ...] = ()
    """Further origins over the same store, asked in this order when those before can't be; in the environment with commas between them."""
    hedge: bool = False
    """A request that is no stream is made a second time when it is later than 19 of 20 were."""
    concurrency: int = 0
    """Requests that the origins get at the same time; 0 is no bound."""
    queue: int = 100
    """Requests that may wait for that, of `interactive` tenants and of all others each; more are a 429."""
    interactive: tuple[str, ...] = ()
    """Tenants whose requests do not wait for those of others."""
    workers: int = 1
    """Processes on the port; more than one need `redis`."""
    share_port: bool = False
    """Other edges may listen on the same port (SO_REUSEPORT), each of them set so."""
    certificate: str = ""
    """The file of a TLS certificate and its chain, below the project folder; empty is plain HTTP."""
    certificate_key: str = ""
    """The file of its key."""
    log: str = ".ragstone/logs/access.jsonl"
    """Where each request is a line of JSON, below the project folder; empty is nowhere."""


@dataclass(frozen=True)
class Access:
    """Keys and their limits."""

    keys: str = ".ragstone/keys"
    """Where the private signing key lies, below the project folder; never in the store."""
    rpm: int = 600
    tpm: int = 200_000
    """Limits of a key that names none: requests and tokens a minute."""


@dataclass(frozen=True)
class Telemetry:
    """Where spans go, and what is remembered of questions."""

    otlp: str = ""
    """An OTLP/HTTP endpoint for spans; empty sends none."""
    questions: bool = False
    """The words of the slowest questions are kept in memory for an hour and shown to administrators of the same groups."""


@dataclass(frozen=True)
class Settings:
    """All settings of a project, by section."""

    folder: Path = field(default_factory=Path.cwd)
    project: Project = Project()
    corpus: Corpus = Corpus()
    train: Train = Train()
    index: Index = Index()
    retrieve: Retrieve = Retrieve()
    rag: Rag = Rag()
    serve: Serve = Serve()
    api: Api = Api()
    edge: Edge = Edge()
    access: Access = Access()
    telemetry: Telemetry = Telemetry()

    @property
    def store_url(self) -> str:
        """`project.store` with a relative file path made absolute below the project folder."""
        prefix = "file://"
        url = self.project.store
        if url.startswith(prefix) and not url.startswith("file:///"):
            return f"{prefix}{(self.folder / url.removeprefix(prefix)).resolve()}"
        return url

    @property
    def keys_folder(self) -> Path:
        return self.folder / self.access.keys

    @property
    def work_folder(self) -> Path:
        """Where long work keeps what a kill must not cost."""
        return self.folder / ".ragstone" / "work"

    @property
    def origin_log(self) -> Path:
        """Where `ragstone up` keeps what the origin says, a line of JSON each."""
        return self.folder / ".ragstone" / "logs" / "origin.log"


SECTIONS = tuple(f.name for f in fields(Settings) if f.name != "folder")

S = TypeVar("S")


def load(folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of the project in `folder` (default: the current one). Raises `ConfigError` on an unknown or malformed setting."""
    folder = (folder or Path.cwd()).resolve()
    environment = os.environ if environment is None else environment
    table = _read(folder / FILE)
    unknown = sorted(set(table) - set(SECTIONS))
    if unknown:
        raise ConfigError(f"{folder / FILE} has an unknown section [{unknown[0]}]; there are {', '.join(SECTIONS)}")
    types = get_type_hints(Settings)
    sections = {name: _section(types[name], name, table.get(name, {}), folder / FILE, environment) for name in SECTIONS}
    return Settings(folder=folder, **sections)


def override(settings: Settings, section: str, **values: Any) -> Settings:
    """A copy with some settings of one section replaced; None leaves a setting as it is (what a command line did not say)."""
    given = {name: value for name, value in values.items() if value is not None}
    changed: dict[str, Any] = {section: replace(getattr(settings, section), **given)}
    return replace(settings, **changed)


def environment(settings: Settings, section: str) -> dict[str, str]:
    """A section's settings as RAGSTONE_<SECTION>_<NAME>, for a process that is to have the same.

    >>> environment(override(Settings(), "api", port=8900), "api")["RAGSTONE_API_PORT"]
    '8900'
    """
    given = getattr(settings, section)
    values = {f"RAGSTONE_{section}_{one.name}".upper(): getattr(given, one.name) for one in fields(given)}
    return {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in values.items()}


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where weights are kept between projects: RAGSTONE_CACHE, else XDG_CACHE_HOME/ragstone, else ~/.cache/ragstone."""
    environment = os.environ if environment is None else environment
    if environment.get("RAGSTONE_CACHE"):
        return Path(environment["RAGSTONE_CACHE"])
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ragstone"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _section(kind: type[S], name: str, table: object, path: Path, environment: Mapping[str, str]) -> S:
    """One section's value: the file's, overridden by the environment's, over the defaults."""
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [{name}] must be a table, not {table!r}")
    types = get_type_hints(kind)
    unknown = sorted(set(table) - set(types))
    if unknown:
        raise ConfigError(f"{path}: [{name}] has no setting {unknown[0]!r}; there are {', '.join(types)}")
    values = {key: _convert(value, types[key], f"{path}: {name}.{key}") for key, value in table.items()}
    for key in types:
        variable = f"RAGSTONE_{name}_{key}".upper()
        if variable in environment:
            values[key] = _convert(environment[variable], types[key], variable)
    return kind(**values)


def _convert(value: object, kind: object, where: str) -> object:
    """The value as the setting's type; text from the environment is read as that type."""
    try:
        if kind is bool:
            return _boolean(value)
        if kind is int and not isinstance(value, bool):
            return int(str(value))
        if kind is float and not isinstance(value, bool):
            return float(str(value))
        if kind is str and isinstance(value, str):
            return value
        if kind == tuple[str, ...] and isinstance(value, str | list):
            names = value.split(",") if isinstance(value, str) else map(str, value)
            return tuple(name.strip() for name in names if name.strip())
        if kind == tuple[GroupRule, ...] and isinstance(value, list):
            return tuple(GroupRule(match=str(rule["match"]), groups=tuple(map(str, rule["groups"]))) for rule in value)
    except (ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"{where} = {value!r} is not {_words(kind)}")


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return words[str(value).lower()]


def _words(kind: object) -> str:
    """What a value of this kind looks like, for a message."""
    plain: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    plain[tuple[str, ...]] = 'a list like ["labels.jsonl"]'
    return plain.get(kind, 'a list of {match = "glob", groups = ["name"]}')
