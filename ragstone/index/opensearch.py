"""An index in OpenSearch 3: one physical index per digest, read-only once it is whole; the store keeps its name and address.

Words are analysed here, as the local index does it, and sent as terms: the keyword score means the same in both. The cosine of every
candidate is computed from the full vectors, so compression costs recall, never the meaning of a score. It knows no release.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from ragstone import config, facets, inference, keywords, mapping
from ragstone.analyser import analyser
from ragstone.cluster import BODY, Cluster, Request, packed, reason
from ragstone.connect import is_here
from ragstone.corpus import Chunk
from ragstone.embedder import Vectors
from ragstone.errors import ConfigError, IndexingError
from ragstone.index import PLACE, Candidate, Query, check, check_chunks
from ragstone.inference import CHUNK, QUERY, Inference, Model
from ragstone.keywords import PAIRS, WORDS, Terms
from ragstone.mapping import FORMAT, MOST, Options, Vector, floats

OLDEST = 3
"""Major version. Before it the engine's BM25 has another scale."""

SPARE = 100
"""How many more than asked the graph is searched for, so that ranking by exact cosines loses none."""

PLUGINS, HEALTH, BLOCKS = "/_cat/plugins?format=json&h=name,component", "/_cluster/health", "/_cluster/settings?flat_settings=true"

CHECKS = [Request("GET", path, why="can it take an index?") for path in ("/", PLUGINS, HEALTH, BLOCKS)]

PORT = 9200

PAGE = 500
"""Chunks with their vectors that are read at once."""

REMEMBERED = 100_000
"""Terms whose rarity is kept in memory."""

Scores = dict[str, float]
"""By chunk id."""

COSINE = "1 + cosineSimilarity(params.vector, doc.vector)"
"""In the engine's script language; a score must not be below 0."""

LOST = "ragstone build"

ASKED = 128 << 10
"""Bytes of a bulk request whose vectors the engine asks for: some 60 chunks, encoded long before the answer is given up."""


@dataclass(frozen=True)
class Load:
    """What goes into a physical index: the bulk lines of so many chunks, and about how many bytes are sent at once."""

    chunks: int
    dimensions: int
    lines: Iterable[bytes]
    body: int = BODY
    model: str = ""
    """The name of the engine's model for questions, when it makes their vectors."""


class OpenSearch:
    """A place of indexes: a cluster, and what their names begin with."""

    def __init__(self, cluster: Cluster, prefix: str, url: str, options: Options) -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._url = url
        self._options = options
        self.identity: tuple[object, ...] = ("opensearch", FORMAT, cluster.url, prefix, {**asdict(options), "ef_search": 0, "ca": ""})

    def check(self) -> None:
        told = self._cluster.greet().get("version", {})
        _check_version(self._cluster.url, told)
        plugins = self._cluster.ask("GET", PLUGINS)
        self._check_plugins([plugin["component"] for plugin in plugins])
        self._check_health()
        self._check_blocks()

    def build(self, folder: Path, digest: str, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Load the chunks and close the index to writing. One that died half way is gone on with: what is there is not written again."""
        check(chunks, vectors)
        self.check()
        rows = {chunk.id: vector for chunk, vector in zip(chunks, vectors, strict=True)}
        self._keep(folder, digest, Load(len(chunks), vectors.shape[1], mapping.lines(chunks, rows)))

    def open(self, folder: Path, digest: str) -> OpenSearchIndex:
        name = _named(folder)
        found = self._found(name)
        if not _whole(found):
            lost = f"OpenSearch at {self._cluster.url} has no whole index {name}, which the store names"
            raise IndexingError(lost, f"remove indexes/{digest} from the store, then: {LOST}")
        meta = found["mappings"]["_meta"]
        asker = inference.known(self._cluster, meta["model"]) if "model" in meta else ""
        return _index(digest, self._cluster, name, meta["chunks"], self._options, asker)

    def explain(self, digest: str, chunks: int, model: Model) -> list[str]:
        """The requests of `build`, in order, where nothing is there yet, then the first of a question; nothing is sent."""
        name = self._name(digest)
        before, pipeline, asked = self._preparation(model)
        filling = [mapping.creation(name, model.dimensions, digest, self._options), mapping.opening(name)]
        ending = [*mapping.counting(name), *mapping.closing(name, digest, chunks, asked)]
        question = Query("QUESTION", np.zeros(2, np.float32), ("GROUP",))
        asking = _index(digest, self._cluster, name, chunks, self._options, inference.UNKNOWN + QUERY.upper() if asked else "")
        requests = [*CHECKS, *before, mapping.finding(name), *filling, mapping.example(name, pipeline, model.dimensions), *ending]
        return [request.at(self._cluster.url) for request in [*requests, asking.explain(question)]]

    def _preparation(self, model: Model) -> tuple[list[Request], str, str]:
        """What is sent before the index is, the pipeline for chunks, and the name of the engine's model for questions: none of them."""
        return [], "", ""

    def point(self, folder: Path, channel: str) -> None:
        alias, name = f"{self._prefix}-{channel}", _named(folder)
        moves = [{"remove": {"index": f"{self._prefix}-*", "alias": alias, "must_exist": False}}, {"add": {"index": name, "alias": alias}}]
        self._cluster.ask("POST", "/_aliases", {"actions": moves})

    def remove(self, name: str) -> None:
        if not re.fullmatch(f"{re.escape(self._prefix)}-[a-z0-9-]+", name):  # a pattern would take others with it
            raise IndexingError(f"{name!r} is no index of {self._url}: nothing is removed")
        self._cluster.ask("DELETE", f"/{name}", missing=True)

    def _name(self, digest: str) -> str:
        return f"{self._prefix}-{re.sub('[^a-z0-9]+', '-', digest.lower())[:32]}"

    def _found(self, name: str) -> Mapping[str, Any]:
        """Settings and mappings of a physical index; nothing when there is none."""
        found = self._cluster.send(mapping.finding(name), missing=True)
        return found[name] if found else {}

    def _keep(self, folder: Path, digest: str, load: Load) -> None:
        name = self._name(digest)
        try:
            self._make(name, digest, load)
        except IndexingError:
            if not _whole(self._found(name)):  # else another process was first to make it whole, which closed it to this one
                raise
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLACE).write_text(json.dumps({"url": self._url, "index": name}, indent=1), encoding="utf-8")

    def _make(self, name: str, digest: str, load: Load) -> None:
        found = self._found(name)
        if _whole(found):
            return
        if not found:
            self._cluster.send(mapping.creation(name, load.dimensions, digest, self._options))
        _check_writable(name, found)
        self._fill(name, digest, load)

    def _fill(self, name: str, digest: str, load: Load) -> None:
        self._cluster.send(mapping.opening(name))
        self._cluster.load(name, load.lines, load.body)
        _, counted = map(self._cluster.send, mapping.counting(name))
        held = int(counted["count"])
        if held != load.chunks:
            raise IndexingError(f"the index {name} at {self._cluster.url} holds {held} chunks instead of {load.chunks}", LOST)
        for request in mapping.closing(name, digest, held, load.model):
            self._cluster.send(request)

    def _check_plugins(self, installed: Sequence[str]) -> None:
        if "opensearch-knn" not in installed:
            raise IndexingError(f"OpenSearch at {self._cluster.url} has no k-NN plugin", "bin/opensearch-plugin install opensearch-knn")

    def _check_health(self) -> None:
        status = self._cluster.ask("GET", HEALTH)["status"]
        if status == "red":
            gone = f"the cluster at {self._cluster.url} is red: some of its data is not there"
            raise IndexingError(gone, "GET /_cluster/allocation/explain")

    def _check_blocks(self) -> None:
        settings = self._cluster.ask("GET", BLOCKS)
        values = {**settings.get("persistent", {}), **settings.get("transient", {})}
        blocks = [name for name, value in values.items() if name.startswith("cluster.blocks.") and str(value).lower() == "true"]
        if blocks:
            raise IndexingError(f"the cluster at {self._cluster.url} takes no writes: {blocks[0]} is true", f"set {blocks[0]} to null")


class Inferring(OpenSearch):
    """A place whose engine makes the vectors of chunks and questions itself."""

    def __init__(self, cluster: Cluster, prefix: str, url: str, options: Options, inference: Inference, pipeline: str) -> None:
        super().__init__(cluster, prefix, url, options)
        self.identity = (*self.identity, "inference", inference.url)
        self._inference = inference
        self._pipeline = pipeline

    def prepare(self, model: Model) -> None:
        self.check()
        self._inference.prepare(model)

    def ingest(
        self, folder: Path, digest: str, chunks: Sequence[Chunk], known: Mapping[str, Vector], model: Model, progress: Callable[[int], None]
    ) -> None:
        """Load the chunks, those without a vector through the pipeline that asks for one."""
        check_chunks(chunks)
        question, passage = (self._inference.name(kind, model) for kind in (QUERY, CHUNK))
        for request in self._pipelines(model, inference.known(self._cluster, passage)):
            self._cluster.send(request)
        lines = _counted(mapping.lines(chunks, known, passage), progress)
        self._keep(folder, digest, Load(len(chunks), model.dimensions, lines, ASKED, question))

    def _preparation(self, model: Model) -> tuple[list[Request], str, str]:
        before = [*self._inference.explain(model), *self._pipelines(model, inference.UNKNOWN + CHUNK.upper())]
        return before, self._inference.name(CHUNK, model), self._inference.name(QUERY, model)

    def _pipelines(self, model: Model, id: str) -> list[Request]:
        own = inference.pipeline(self._inference.url, model.digest, id)
        return [own, inference.alias(self._pipeline, own)] if self._pipeline else [own]

    def _check_plugins(self, installed: Sequence[str]) -> None:
        super()._check_plugins(installed)
        self._inference.check_plugins(installed)


class OpenSearchIndex:
    """An opened index. Its documents never change, so how rare a term is gets asked once. Safe to search from several threads."""

    encodes = False

    def __init__(self, digest: str, cluster: Cluster, name: str, chunks: int, options: Options) -> None:
        self.digest = digest
        self._cluster: Cluster | None = cluster
        self._name = name
        self._size = chunks
        self._options = options
        self._analyser = analyser()
        self._rarities: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        return self._size

    def search(self, query: Query) -> list[Candidate]:
        """Two requests: both lists; then the exact cosines of all that was found, and the keyword scores of what only the vector found."""
        self._opened()
        if not query.groups:
            return []
        limit, terms = min(query.limit, self._size, MOST), keywords.asked(self._analyser.analyze(query.text), query.bigram_weight)
        near, keyword = self._run(*self._lists(query, terms))
        rest = sorted(near.keys() - keyword.keys())
        also = _having(terms, len(rest), [{"ids": {"values": rest}}])
        cosines, others = self._run(self._cosines(query, near, keyword), also)
        exact = self._exact(near, cosines)
        best = set(sorted(near, key=lambda id: (-exact[id], id))[:limit])
        scores = self._shares(keyword | others, terms)
        return [Candidate(id, exact[id], scores.get(id, 0.0), id in best, id in keyword) for id in sorted(best | keyword.keys())]

    def explain(self, query: Query) -> Request:
        """The first request of a search."""
        lists = self._lists(query, keywords.asked(self._analyser.analyze(query.text), query.bigram_weight))
        why = "a question: what is near, and what has its words"
        return Request("POST", f"/{self._name}/_msearch", _searches(filter(None, lists)), why)

    def chunks(self, ids: Sequence[str]) -> list[Chunk]:
        held = {id: source["chunk"] for id, source in self._sources(list(dict.fromkeys(ids)), ["chunk"])}
        missing = [id for id in ids if id not in held]
        if missing:
            raise IndexingError(f"the index has no chunk {missing[0]!r}")
        return [_chunk(held[id]) for id in ids]

    def encoded(self, chunks: Sequence[Chunk]) -> dict[str, NDArray[np.float32]]:
        wanted = {chunk.id: chunk for chunk in chunks}
        held = self._sources(list(wanted), ["chunk", "vector"])
        return {id: _unit(source["vector"]) for id, source in held if _chunk(source["chunk"]).context == wanted[id].context}

    def close(self) -> None:
        """Searches that are under way end well."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    def _opened(self) -> Cluster:
        if self._cluster is None:
            raise IndexingError(f"index {self.digest} is closed")
        return self._cluster

    def _lists(self, query: Query, terms: Terms) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The searches for both lists."""
        limit, deep = (min(many, self._size, MOST) for many in (query.limit, query.limit + SPARE))
        allowed = [{"terms": {"facets": list(kind)}} for kind in facets.wanted(query.groups, query.filter)]
        return self._nearest(query, deep, allowed), _having(terms, limit, allowed)

    def _nearest(self, query: Query, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """The filter is inside: the graph is walked until `limit` chunks are found that pass it."""
        return {"size": limit, "query": {"knn": {"vector": {"vector": floats(query.vector), **self._walk(limit, allowed)}}}}

    def _walk(self, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        deep = {"ef_search": max(limit, self._options.ef_search)}
        return {"k": limit, "filter": {"bool": {"filter": allowed}}, "method_parameters": deep}

    def _cosines(self, query: Query, near: Scores, keyword: Scores) -> dict[str, Any] | None:
        """The search that scores chunks by their cosines, from the full vectors."""
        ids = sorted(near.keys() | keyword.keys())
        if not ids:
            return None
        script = {"source": COSINE, "params": {"vector": floats(query.vector)}}
        return {"size": len(ids), "query": {"script_score": {"query": {"ids": {"values": ids}}, "script": script}}}

    def _exact(self, near: Scores, cosines: Scores) -> dict[str, float]:
        """The cosines of all that was found."""
        return {id: score - 1 for id, score in cosines.items()}

    def _run(self, *searches: Mapping[str, Any] | None) -> list[dict[str, float]]:
        """Id -> score for each search, in one request; nothing for a search that is None."""
        asked = [search for search in searches if search is not None]
        if not asked:
            return [{} for _ in searches]
        answers = iter(self._opened().lines(f"/{self._name}/_msearch", _searches(asked))["responses"])
        return [{} if search is None else self._hits(next(answers)) for search in searches]

    def _hits(self, answer: Mapping[str, Any]) -> dict[str, float]:
        """Half an answer is none: what a dead shard holds would be missing without a word."""
        if "error" in answer or answer["timed_out"] or answer["_shards"]["failed"]:
            raise IndexingError(f"OpenSearch can't search {self._name}: {reason(answer)}")
        return {hit["_id"]: float(hit["_score"]) for hit in answer["hits"]["hits"]}

    def _shares(self, scores: Mapping[str, float], terms: Terms) -> dict[str, float]:
        """BM25 as a share of its ceiling: the engine's own, without k1 + 1, is below 1 times the rarity of a term."""
        ceiling = sum(weight * rarity for weight, rarity in zip(terms.values(), self._rare(list(terms)), strict=True)) if scores else 1.0
        return {id: min(1.0, score / ceiling) for id, score in scores.items()}

    def _rare(self, terms: Sequence[tuple[str, str]]) -> list[float]:
        """The inverse document frequency of each term."""
        unknown = [term for term in terms if term not in self._rarities]
        if unknown:
            if len(self._rarities) > REMEMBERED:
                self._rarities = {}
            self._rarities = self._rarities | self._ask_rarities(unknown)
        known = self._rarities
        return [known[term] for term in terms]

    def _ask_rarities(self, terms: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """From the statistics of a document of these terms that is not indexed; exact, because an index has one shard and no deletions."""
        document = {field: " ".join(term for kind, term in terms if kind == field) for field in (WORDS, PAIRS)}
        asked = {"doc": document, "term_statistics": True, "positions": False, "offsets": False, "payloads": False}
        fields = self._opened().ask("POST", f"/{self._name}/_termvectors", asked)["term_vectors"]
        having = {(field, term): told.get("doc_freq", 0) for field in fields for term, told in fields[field]["terms"].items()}
        return {term: keywords.rarity(self._size, having.get(term, 0)) for term in terms}

    def _sources(self, ids: Sequence[str], parts: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Those of the documents that are there, a page at a time."""
        named = [id for id in ids if id]  # the engine refuses a request with an empty id
        for start in range(0, len(named), PAGE):
            body = {"ids": named[start : start + PAGE]}
            held = self._opened().ask("POST", f"/{self._name}/_mget?_source_includes={','.join(parts)}", body)["docs"]
            yield from ((one["_id"], one["_source"]) for one in held if one.get("found"))


class InferringIndex(OpenSearchIndex):
    """An opened index whose engine makes the vector of a question itself."""

    encodes = True

    def __init__(self, digest: str, cluster: Cluster, name: str, chunks: int, options: Options, asker: str) -> None:
        super().__init__(digest, cluster, name, chunks, options)
        self._asker = asker
        """The engine's id of the model for questions."""

    def _nearest(self, query: Query, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        if not query.text.strip():  # the engine refuses it
            return None
        asked = {"query_text": query.text, "model_id": self._asker}
        return {"size": limit, "query": {"neural": {"vector": {**asked, **self._walk(limit, allowed)}}}}

    def _cosines(self, query: Query, near: Scores, keyword: Scores) -> dict[str, Any] | None:
        """Of what only the words found: where no more are allowed than are searched for, the engine scores each, without its graph."""
        ids = sorted(keyword.keys() - near.keys())
        return self._nearest(query, len(ids), [{"ids": {"values": ids}}]) if ids else None

    def _exact(self, near: Scores, cosines: Scores) -> dict[str, float]:
        """Both come from the full vectors: nothing is compressed here."""
        return {id: 2 * score - 1 for id, score in (near | cosines).items()}


def connect(settings: config.Index) -> OpenSearch:
    """The place that a URL names. Raises `ConfigError` on what it can't mean."""
    url = urlsplit(settings.url)
    if url.username or url.password:
        raise ConfigError("index.url holds credentials", "set RAGSTONE_INDEX_USER and RAGSTONE_INDEX_PASSWORD instead")
    if not url.hostname:
        raise ConfigError(f"index.url = {settings.url!r} names no host", 'index.url = "opensearch://127.0.0.1:9200"')
    prefix = url.path.strip("/") or "ragstone"
    if not re.fullmatch("[a-z0-9][a-z0-9_-]{0,62}", prefix):
        raise ConfigError(f"index.url: {prefix!r} can't begin an index's name: lower-case letters, digits, - and _ can")
    options = _options(url.query)
    cluster = Cluster("OpenSearch", _address(url, url.hostname), settings.user, settings.password, options.ca)
    if settings.inference == config.CLIENT:
        return OpenSearch(cluster, prefix, settings.url, options)
    if (options.engine, options.compression) != ("lucene", "1x"):
        raise ConfigError(f"index.inference = {config.ENGINE!r} needs engine=lucene and compression=1x: they score by full vectors")
    if settings.pipeline and not re.fullmatch("[a-z0-9][a-z0-9._-]*", settings.pipeline):
        raise ConfigError(f"index.pipeline = {settings.pipeline!r} can't be a name: lower-case letters, digits, ., - and _ can")
    inference = Inference(cluster, settings.embeddings, settings.embeddings_key)
    return Inferring(cluster, prefix, settings.url, options, inference, settings.pipeline)


def _options(query: str) -> Options:
    given, known = dict(parse_qsl(query)), {field.name: field.type for field in fields(Options)}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ConfigError(f"index.url has no option {unknown[0]!r}; there are {', '.join(known)}")
    try:
        values: dict[str, Any] = {name: int(value) if known[name] == "int" else value for name, value in given.items()}
    except ValueError as error:
        raise ConfigError(f"index.url: {error}") from error
    options = Options(**values)
    if options.engine not in ("lucene", "faiss"):
        raise ConfigError(f"index.url: engine={options.engine} is neither lucene nor faiss")
    return options


def _address(url: SplitResult, host: str) -> str:
    try:
        port = url.port or PORT
    except ValueError as error:
        raise ConfigError(f"index.url: {error}") from error
    return f"{_transport(url.scheme, host)}://{f'[{host}]' if ':' in host else host}:{port}"


def _transport(scheme: str, host: str) -> str:
    """What comes after a plus, else TLS, except on this machine."""
    _, _, named = scheme.partition("+")
    if named:
        return named
    return "http" if is_here(host) else "https"


def _index(digest: str, cluster: Cluster, name: str, chunks: int, options: Options, asker: str) -> OpenSearchIndex:
    if asker:
        return InferringIndex(digest, cluster, name, chunks, options, asker)
    return OpenSearchIndex(digest, cluster, name, chunks, options)


def _searches(searches: Iterable[Mapping[str, Any]]) -> bytes:
    """The lines of one request for all of them."""
    return b"".join(b"{}\n" + packed({**search, "_source": False, "track_total_hits": False}) + b"\n" for search in searches)


def _having(terms: Terms, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The search for the chunks with the most of these terms; None when there is nothing to search for."""
    if not terms or not limit:
        return None
    each = [{"term": {field: {"value": term, "boost": weight}}} for (field, term), weight in terms.items()]
    return {"size": limit, "query": {"bool": {"should": each, "minimum_should_match": 1, "filter": allowed}}}


def _counted(lines: Iterable[bytes], progress: Callable[[int], None]) -> Iterator[bytes]:
    for done, line in enumerate(lines, 1):
        yield line
        progress(done)


def _check_version(url: str, told: Mapping[str, Any]) -> None:
    number = str(told.get("number", "of no version"))
    if told.get("distribution") != "opensearch":
        raise IndexingError(f"{url} is not OpenSearch, but calls itself {told.get('build_flavor', 'another server')} {number}")
    if int(number.split(".")[0]) < OLDEST:
        raise IndexingError(f"OpenSearch at {url} is {number}; {OLDEST}.0 or newer is needed")


def _check_writable(name: str, found: Mapping[str, Any]) -> None:
    blocks = found.get("settings", {}).get("index", {}).get("blocks", {})
    shut = [block for block in ("read_only", "read_only_allow_delete") if str(blocks.get(block)).lower() == "true"]
    if shut:
        full = f"the index {name} is half loaded and {shut[0]}: a disk of the cluster may be full"
        raise IndexingError(full, f"make room, then set index.blocks.{shut[0]} of {name} to null")


def _named(folder: Path) -> str:
    """The physical index that an index's folder names."""
    return str(json.loads((folder / PLACE).read_text(encoding="utf-8"))["index"])


def _whole(found: Mapping[str, Any]) -> bool:
    """Whether an index was loaded to its end: only then its mapping says how many chunks it has."""
    meta = found.get("mappings", {}).get("_meta", {})
    return "chunks" in meta and meta.get("format") == FORMAT


def _chunk(parts: Mapping[str, Any]) -> Chunk:
    return Chunk(**{**parts, "path": tuple(parts["path"]), "groups": tuple(parts["groups"])})


def _unit(values: Sequence[float]) -> NDArray[np.float32]:
    vector = np.array(values, np.float32)
    unit: NDArray[np.float32] = vector / np.linalg.norm(vector)
    return unit
