"""What indexes in search engines share: one physical index per digest, read-only once it is whole; the store keeps its name and address.

Words are analysed here, as the local index does it, and sent as terms: the keyword score means the same everywhere. The cosine of every
candidate comes from the full vectors, so compression costs recall, never the meaning of a score. It knows no engine and no release.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ragstone import address, facets, keywords, mapping
from ragstone.analyser import Analyser
from ragstone.cluster import BODY, Cluster, Request, packed, reason
from ragstone.corpus import Chunk
from ragstone.embedder import Vectors
from ragstone.errors import IndexingError
from ragstone.inference import Model
from ragstone.keywords import PAIRS, WORDS, Terms
from ragstone.mapping import FORMAT as FORMAT
from ragstone.mapping import MOST as MOST
from ragstone.options import CLIENT, Options
from ragstone.query import Candidate, Query
from ragstone.show import Done, counted, ignored

SPARE = 100
"""How many more than asked the graph is searched for, so that ranking by exact cosines loses none."""

PAGE = 500
"""Chunks with their vectors that are read at once."""

REMEMBERED = 100_000
"""Terms whose rarity is kept in memory."""

DFS = "?search_type=dfs_query_then_fetch"
"""Lets each shard score words by how rare they are in all of them."""

HEALTH, BLOCKS = "/_cluster/health", "/_cluster/settings?flat_settings=true"

LOST = "ragstone build"

RANK = 60
"""How little the first ranks of a list count above the next, by ranks: what both engines take where nothing is said."""

NOTHING: dict[str, Any] = {"match_none": {}}


@dataclass(frozen=True)
class Load:
    """What goes into a physical index: the bulk lines of so many chunks, and about how many bytes are sent at once."""

    chunks: int
    dimensions: int
    lines: Iterable[bytes]
    body: int = BODY
    model: str = ""
    """The name of the engine's model for questions, when it makes their vectors."""


class Hosted(ABC):
    """A place of indexes: a cluster, and what their names begin with."""

    kind: ClassVar[str]
    """What the engine is called."""

    def __init__(self, cluster: Cluster, prefix: str, url: str, options: Options) -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._url = url
        self._options = options

    @abstractmethod
    def check(self) -> None:
        """Raises `IndexingError` when an index can't be built here."""

    @abstractmethod
    def _checks(self) -> list[str]:
        """The paths that `check` gets, in order."""

    @abstractmethod
    def _vector(self, dimensions: int) -> dict[str, Any]:
        """The mapping of a chunk's vector: whatever a default could change between versions of the engine is said."""

    def _settings(self) -> dict[str, Any]:
        """What an index is told beside what all are."""
        return {}

    @abstractmethod
    def _opened(self, digest: str, name: str, meta: Mapping[str, Any]) -> HostedIndex:
        """The physical index of this name."""

    def build(self, folder: Path, digest: str, chunks: Sequence[Chunk], vectors: Vectors, progress: Done = ignored) -> None:
        """Load the chunks and close the index to writing. One that died half way is gone on with: what is there is not written again."""
        self.check()
        lines = counted(mapping.lines(chunks, vectors.__getitem__), progress)
        self._keep(folder, digest, Load(len(chunks), vectors.shape[1], lines))

    def open(self, folder: Path, digest: str) -> HostedIndex:
        name = address.name(folder)
        found = self._found(name)
        if not _whole(found):
            lost = f"{self.kind} at {self._cluster.url} has no whole index {name}, which the store names"
            raise IndexingError(lost, f"remove indexes/{digest} from the store, then: {LOST}")
        return self._opened(digest, name, found["mappings"]["_meta"])

    def explain(self, digest: str, chunks: int, model: Model) -> list[str]:
        """The requests of `build`, in order, where nothing is there yet, then the first of a question; nothing is sent."""
        name = self._name(digest)
        checks = [*(Request("GET", path, why="can it take an index?") for path in self._checks()), *self._fusing()]
        before, pipeline, asked = self._preparation(model)
        filling = [self._creation(name, digest, model.dimensions), mapping.opening(name)]
        ending = [*mapping.counting(name), *self._closing(name, digest, chunks, asked)]
        asking = self._example(digest, name, {"chunks": chunks}).explain(Query("QUESTION", np.zeros(2, np.float32), ("GROUP",)))
        bulk = mapping.example(name, pipeline, model.dimensions)
        requests = [*checks, *before, mapping.finding(name), *filling, bulk, *ending, asking]
        return [request.at(self._cluster.url) for request in requests]

    def _preparation(self, model: Model) -> tuple[list[Request], str, str]:
        """What is sent before the index is, the pipeline for chunks, and the name of the engine's model for questions: none of them."""
        return [], "", ""

    def _example(self, digest: str, name: str, meta: Mapping[str, Any]) -> HostedIndex:
        """The index, as far as no engine is asked."""
        return self._opened(digest, name, meta)

    def remove(self, name: str) -> None:
        if not re.fullmatch(f"{re.escape(self._prefix)}-[a-z0-9-]+", name):  # a pattern would take others with it
            raise IndexingError(f"{name!r} is no index of {self._url}: nothing is removed")
        self._cluster.ask("DELETE", f"/{name}", missing=True)

    def point(self, folder: Path, channel: str) -> None:
        alias, name = f"{self._prefix}-{channel}", address.name(folder)
        moves = [{"remove": {"index": f"{self._prefix}-*", "alias": alias, "must_exist": False}}, {"add": {"index": name, "alias": alias}}]
        self._cluster.ask("POST", "/_aliases", {"actions": moves})

    def _name(self, digest: str) -> str:
        return f"{self._prefix}-{re.sub('[^a-z0-9]+', '-', digest.lower())[:32]}"

    def _found(self, name: str) -> Mapping[str, Any]:
        """Settings and mappings of a physical index; nothing when there is none."""
        found = self._cluster.send(mapping.finding(name), missing=True)
        return found[name] if found else {}

    def _creation(self, name: str, digest: str, dimensions: int) -> Request:
        return mapping.creation(name, digest, self._vector(dimensions), self._settings(), self._options.shards)

    def _closing(self, name: str, digest: str, chunks: int, model: str) -> list[Request]:
        return mapping.closing(name, mapping.meta(digest, chunks, self._options.shards, model), self._options.replicas)

    def _keep(self, folder: Path, digest: str, load: Load) -> None:
        name = self._name(digest)
        try:
            self._make(name, digest, load)
        except IndexingError:
            if not _whole(self._found(name)):  # else another process was first to make it whole, which closed it to this one
                raise
        address.write(folder, self._url, name)

    def _make(self, name: str, digest: str, load: Load) -> None:
        found = self._found(name)
        if _whole(found):
            return
        if not found:
            self._cluster.send(self._creation(name, digest, load.dimensions))
        _check_writable(name, found)
        self._fill(name, digest, load)

    def _fill(self, name: str, digest: str, load: Load) -> None:
        self._cluster.send(mapping.opening(name))
        self._cluster.load(name, load.lines, load.body)
        _, counted = map(self._cluster.send, mapping.counting(name))
        held = int(counted["count"])
        if held != load.chunks:
            raise IndexingError(f"the index {name} at {self._cluster.url} holds {held} chunks instead of {load.chunks}", LOST)
        for request in self._closing(name, digest, held, load.model):
            self._cluster.send(request)

    def _check_health(self) -> None:
        status = self._cluster.ask("GET", HEALTH)["status"]
        if status == "red":
            gone = f"the cluster at {self._cluster.url} is red: some of its data is not there"
            raise IndexingError(gone, "GET /_cluster/allocation/explain")

    def _check_rights(self) -> None:
        """Who may not see such an index may not make one. Nobody has a digest so short."""
        self._found(self._name("0"))

    def _fusing(self) -> list[Request]:
        """What asks whether the engine fuses lists, if it is to: licence, plugin and version are its own to judge. It finds nothing."""
        if self._options.fusion == CLIENT:
            return []
        asked = self._example("0", self._name("0"), {"chunks": 1})._fusion([NOTHING, NOTHING], [0.5, 0.5], 1)
        return [Request("POST", f"/{self._name('0')}*/_search", asked, "does it fuse lists?")]

    def _check_fusion(self) -> None:
        for request in self._fusing():
            try:
                self._cluster.send(request)
            except IndexingError as error:
                unable = f"{self.kind} at {self._cluster.url} does not do what fusion={self._options.fusion} asks: {error.message}"
                raise IndexingError(unable, "take fusion out of index.url: Ragstone fuses both lists itself") from error

    def _check_blocks(self) -> None:
        settings = self._cluster.ask("GET", BLOCKS)
        values = {**settings.get("persistent", {}), **settings.get("transient", {})}
        blocks = [name for name, value in values.items() if name.startswith("cluster.blocks.") and str(value).lower() == "true"]
        if blocks:
            raise IndexingError(f"the cluster at {self._cluster.url} takes no writes: {blocks[0]} is true", f"set {blocks[0]} to null")


class HostedIndex(ABC):
    """An opened index. Its documents never change, so how rare a term is gets asked once. Safe to search from several threads."""

    kind: ClassVar[str]
    most: ClassVar[int] = MOST
    """Chunks of one list at most."""
    factor: ClassVar[float] = 1.0
    """What the engine multiplies BM25 by."""
    encodes: bool = False
    exact: ClassVar[bool] = False
    """Whether the nearest come with the scores that `_cosines` gives."""

    def __init__(self, digest: str, cluster: Cluster, name: str, meta: Mapping[str, Any], options: Options) -> None:
        self.digest = digest
        self._options = options
        self._cluster: Cluster | None = cluster
        self._name = name
        self._size = int(meta["chunks"])
        self._shards = int(meta.get("shards", 1))
        self._asking = f"/{name}/_msearch{DFS if self._shards > 1 else ''}"
        self._analyser = Analyser()
        self._rarities: dict[tuple[str, str], float] = {}

    @abstractmethod
    def _nearest(self, query: Query, limit: int, allowed: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """The search for the chunks with the nearest vectors; the filter is inside it. None when there is nothing to search for."""

    @abstractmethod
    def _cosines(self, query: Query, ids: Sequence[str]) -> dict[str, Any] | None:
        """The search that scores each of these chunks, one at least, by its cosine from the full vectors."""

    @abstractmethod
    def _cosine(self, score: float) -> float:
        """The cosine that such a score stands for."""

    @abstractmethod
    def _fusion(self, lists: Sequence[Mapping[str, Any]], weights: Sequence[float], limit: int) -> dict[str, Any]:
        """The search that fuses the queries of two lists, each `limit` long, whose keyword scores lie between 0 and 1."""

    def __len__(self) -> int:
        return self._size

    def search(self, query: Query) -> list[Candidate]:
        self._open()
        if not query.groups:
            return []
        terms = keywords.asked(self._analyser.analyze(query.text), query.bigram_weight)
        return self._listed(query, terms) if self._options.fusion == CLIENT else self._fused(query, terms)

    def _listed(self, query: Query, terms: Terms) -> list[Candidate]:
        """Two requests: both lists; then the exact cosines of all that was found, and the keyword scores of what only the vector found."""
        limit = min(query.limit, self._size, self.most)
        near, keyword = self._run(*self._lists(query, terms))
        rest = sorted(near.keys() - keyword.keys())
        also = _having(terms, len(rest), [{"ids": {"values": rest}}])
        both = sorted(near.keys() | keyword.keys())
        unscored = sorted(keyword.keys() - near.keys()) if self.exact else both
        exact, others = self._run(self._cosines(query, unscored) if unscored else None, also)
        exact = near | exact if self.exact else exact
        self._check_scored(exact, both)
        best = set(sorted(near, key=lambda id: (-exact[id], id))[:limit])
        scores = self._shares(keyword | others, terms)
        cosines = {id: self._cosine(exact[id]) for id in best | keyword.keys()}
        return [Candidate(id, cosines[id], scores.get(id, 0.0), id in best, id in keyword) for id in sorted(cosines)]

    def _fused(self, query: Query, terms: Terms) -> list[Candidate]:
        """Two requests: the engine's order of both lists; then the scores of what it found."""
        (order,) = self._run(self._order(query, terms, self._ceiling(terms)))
        found = sorted(order)
        exact, words = self._run(self._cosines(query, found) if found else None, _having(terms, len(found), [{"ids": {"values": found}}]))
        self._check_scored(exact, found)
        scores = self._shares(words, terms)
        return [Candidate(id, self._cosine(exact[id]), scores.get(id, 0.0), True, id in words, order[id]) for id in found]

    def explain(self, query: Query) -> Request:
        """The first request of a search."""
        terms = keywords.asked(self._analyser.analyze(query.text), query.bigram_weight)
        asked = self._lists(query, terms) if self._options.fusion == CLIENT else (self._order(query, terms, 1.0),)
        return Request("POST", self._asking, _searches(filter(None, asked)), "a question: what is near, and what has its words")

    def _lists(self, query: Query, terms: Terms) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The searches for both lists."""
        limit, deep = (min(many, self._size, self.most) for many in (query.limit, query.limit + SPARE))
        allowed = _allowed(query)
        return self._nearest(query, deep, allowed), _having(terms, limit, allowed)

    def _order(self, query: Query, terms: Terms, ceiling: float) -> dict[str, Any] | None:
        """The search for both lists in one order; None when there is nothing to search for."""
        limit, allowed = min(query.limit, self._size, self.most), _allowed(query)
        lists = self._nearest(query, limit, allowed), _having(terms, limit, allowed, ceiling)
        if not any(lists):
            return None
        return self._fusion([one["query"] if one else NOTHING for one in lists], [query.dense_weight, 1 - query.dense_weight], limit)

    def _check_scored(self, scores: Mapping[str, float], wanted: Sequence[str]) -> None:
        if len(scores) < len(wanted):
            raise IndexingError(f"{self.kind} scored {len(scores)} chunks of {self._name} instead of {len(wanted)}")

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

    def _open(self) -> Cluster:
        if self._cluster is None:
            raise IndexingError(f"index {self.digest} is closed")
        return self._cluster

    def _run(self, *searches: Mapping[str, Any] | None) -> list[dict[str, float]]:
        """Id -> score for each search, in one request; nothing for a search that is None."""
        asked = [search for search in searches if search is not None]
        if not asked:
            return [{} for _ in searches]
        answers = iter(self._answers(asked))
        return [{} if search is None else _scores(next(answers)) for search in searches]

    def _answers(self, searches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What is found by each. Half an answer is none: what a dead shard holds would be missing without a word."""
        answers = self._open().lines(self._asking, _searches(searches))["responses"]
        for answer in answers:
            if "error" in answer or answer["timed_out"] or answer["_shards"]["failed"]:
                raise IndexingError(f"{self.kind} can't search {self._name}: {reason(answer)}")
        return [answer["hits"] for answer in answers]

    def _shares(self, scores: Mapping[str, float], terms: Terms) -> dict[str, float]:
        """BM25 as a share of its ceiling."""
        ceiling = self._ceiling(terms) if scores else 1.0
        return {id: min(1.0, score / ceiling) for id, score in scores.items()}

    def _ceiling(self, terms: Terms) -> float:
        """What BM25 stays below: without the engine's factor, that of a term is below 1 times its rarity."""
        return self.factor * sum(weight * rarity for weight, rarity in zip(terms.values(), self._rare(list(terms)), strict=True))

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
        """Exact, because nothing is ever deleted."""
        having = self._frequencies(terms) if self._shards == 1 else self._counts(terms)
        return {term: keywords.rarity(self._size, having.get(term, 0)) for term in terms}

    def _frequencies(self, terms: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """How many chunks have each term: the statistics of a document of these terms that is not indexed, which a shard has of its own."""
        document = {field: " ".join(term for kind, term in terms if kind == field) for field in (WORDS, PAIRS)}
        asked = {"doc": document, "term_statistics": True, "positions": False, "offsets": False, "payloads": False}
        fields = self._open().ask("POST", f"/{self._name}/_termvectors", asked)["term_vectors"]
        return {(field, term): told.get("doc_freq", 0) for field in fields for term, told in fields[field]["terms"].items()}

    def _counts(self, terms: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The same over several shards, by a search for each: that costs more."""
        counts = [{"size": 0, "track_total_hits": True, "query": {"term": {field: {"value": term}}}} for field, term in terms]
        return {term: int(found["total"]["value"]) for term, found in zip(terms, self._answers(counts), strict=True)}

    def _sources(self, ids: Sequence[str], parts: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Those of the documents that are there, a page at a time."""
        named = [id for id in ids if id]  # the engine refuses a request with an empty id
        for start in range(0, len(named), PAGE):
            body = {"ids": named[start : start + PAGE]}
            held = self._open().ask("POST", f"/{self._name}/_mget?_source_includes={','.join(parts)}", body)["docs"]
            yield from ((one["_id"], one["_source"]) for one in held if one.get("found"))


def _allowed(query: Query) -> list[dict[str, Any]]:
    """What the filter of a search must hold."""
    return [{"terms": {"facets": list(kind)}} for kind in facets.wanted(query.groups, query.filter)]


def _having(terms: Terms, limit: int, allowed: Sequence[Mapping[str, Any]], ceiling: float = 1.0) -> dict[str, Any] | None:
    """The search for the chunks with the most of these terms, their scores over `ceiling`; None when there is nothing to search for."""
    if not terms or not limit:
        return None
    each = [{"term": {field: {"value": term, "boost": weight / ceiling}}} for (field, term), weight in terms.items()]
    return {"size": limit, "query": {"bool": {"should": each, "minimum_should_match": 1, "filter": allowed}}}


def _searches(searches: Iterable[Mapping[str, Any]]) -> bytes:
    """The lines of one request for all of them."""
    return b"".join(b"{}\n" + packed({"_source": False, "track_total_hits": False, **search}) + b"\n" for search in searches)


def _scores(found: Mapping[str, Any]) -> dict[str, float]:
    """Of each hit by its id."""
    return {hit["_id"]: float(hit["_score"]) for hit in found["hits"]}


def _check_writable(name: str, found: Mapping[str, Any]) -> None:
    blocks = found.get("settings", {}).get("index", {}).get("blocks", {})
    shut = [block for block in ("read_only", "read_only_allow_delete") if str(blocks.get(block)).lower() == "true"]
    if shut:
        full = f"the index {name} is half loaded and {shut[0]}: a disk of the cluster may be full"
        raise IndexingError(full, f"make room, then set index.blocks.{shut[0]} of {name} to null")


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
