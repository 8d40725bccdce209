"""`bailian://workspace?region=cn-beijing`: a knowledge base of Bailian finds the passages, and is made of the same chunks.

Each passage carries the id of its chunk, so what Bailian finds is cited as what the index finds is: by document and offsets.
Keys come from the SDK's own chain; nothing here stores or prints them. Verified against the SDK's contract, not against a live account.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from urllib.request import Request, urlopen

from alibabacloud_bailian20231229 import models as bailian
from alibabacloud_bailian20231229.client import Client
from alibabacloud_credentials.client import Client as Credentials
from alibabacloud_tea_openapi.utils_models import Config

from ragstone import alibaba, facets
from ragstone.config import Settings
from ragstone.corpus import Chunk
from ragstone.corpus import snapshot as snapshots
from ragstone.errors import ConfigError, Conflict, IndexingError
from ragstone.release import canonical
from ragstone.retrieve import NO_FILTER, Hit, Retriever
from ragstone.show import Done, Show, Silence, ignored
from ragstone.store import Store

EXAMPLE = "rag.url = bailian://<workspace>?region=cn-beijing"
AGAIN = "give the same command again: it goes on where this one stopped"
MOST, LEAST = 20, 0.01
"""RerankTopN at most, and RerankMinScore at least."""
PART = 500
"""Passages in a file: Bailian recommends 500 files a knowledge base, and 10 MB for one of plain text."""
LONGEST = 6000
"""Characters of a passage at most: a longer one is cut there."""
SEPARATOR = "~~~~ragstone~~~~"
MARK = re.compile(r"\[ragstone:([0-9a-f]+)\]")
KIND = "UNSTRUCTURED"
PARSED, UNPARSED = "PARSE_SUCCESS", "PARSE_FAILED"
DONE, FAILED = "COMPLETED", "FAILED"
IMPORTED = "FINISH"
PAGE = 100
KEPT = "bailian/"
NO_FEATURES = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Place:
    """Which knowledge base it is, and where: what the URL says."""

    workspace: str = ""
    index: str = ""
    """The knowledge base's id; empty before it is made."""
    region: str = ""
    embedding: str = ""
    """Which of Bailian's own models encodes; empty is its default. Another can't be used there."""
    rerank: str = ""
    """Which of its rerankers scores; empty is its default."""
    endpoint: str = ""
    """Bailian's API, where it is not the region's; `http://` on this machine only."""
    poll: float = 5.0
    """Seconds between two looks at work that goes on there."""

    @property
    def url(self) -> str:
        """What a release keeps of it."""
        told = {name: getattr(self, name) for name in OPTIONS if name != "poll"}
        given = {name: value for name, value in told.items() if value}
        return f"bailian://{self.workspace}/{self.index}?{urlencode(given, safe='/:')}"


OPTIONS = tuple(one.name for one in fields(Place) if one.name not in ("workspace", "index"))


def read(url: str) -> Place:
    """What `bailian://workspace/index?…` says. Raises `ConfigError` on what it can't mean.

    >>> read("bailian://llm-1/kb-9?region=cn-beijing").index
    'kb-9'
    """
    parts = urlsplit(url)
    values: dict[str, Any] = dict(parse_qsl(parts.query))
    if "@" in parts.netloc:  # not quoted: it may hold a key
        raise ConfigError("a bailian:// URL takes no key: the SDK finds it", EXAMPLE)
    if unknown := sorted(set(values) - set(OPTIONS)):
        raise ConfigError(f"bailian:// has no {unknown[0]!r}; there are {', '.join(OPTIONS)}", EXAMPLE)
    if not parts.netloc or not values.get("region"):
        raise ConfigError(f"rag.url = {url!r} must name a workspace and its region", EXAMPLE)
    try:
        given = {**values, "poll": float(values.get("poll", Place.poll))}
    except ValueError as error:
        raise ConfigError(f"poll={values['poll']} is no number of seconds") from error
    alibaba.server(values.get("endpoint", ""))
    return Place(workspace=parts.netloc, index=parts.path.strip("/"), **given)


def search(url: str, retriever: Retriever) -> Finder:
    """The knowledge base of a release, in place of its index; `retriever` is that of the index, which still holds the chunks."""
    place = read(url)
    return Finder(place, _client(place), retriever)


def make(settings: Settings, store: Store, snapshot: str, show: Show) -> str:
    """The URL of the snapshot's knowledge base, ready to be asked: found, or made. Raises `IndexingError`; called again it goes on."""
    place = read(settings.rag.url)
    name = _name(place, snapshot)
    key = _key(place, name)
    if store.stat(key):
        return str(json.loads(store.get(key))["url"])
    chunks = snapshots.chunks(store, snapshot)
    base = _Base(place, _client(place), name, show)
    with show.bar("bailian", len(chunks)) as advance:
        index = base.made(chunks, settings.work_folder / f"bailian-{name}.json", advance)
    url = replace(place, index=index).url
    with suppress(Conflict):
        store.create(key, json.dumps({"url": url, "name": name, "snapshot": snapshot}, indent=1).encode())
    show.say(f"bailian   {len(chunks)} passages in the knowledge base {name} ({index})")
    return url


def explain(settings: Settings, store: Store, snapshot: str) -> str:
    """Each call with its parameters, then that of every question; capitals stand for what Bailian would answer. Nothing is sent."""
    place = read(settings.rag.url)
    chunks = snapshots.chunks(store, snapshot)
    told = _Told(place)
    base = _Base(replace(place, poll=0), told, _name(place, snapshot), Silence())
    files = -(-len(chunks) // PART)
    index = base.made(chunks[:PART], None, ignored)
    asked = settings.retrieve
    told.told.append(f"# every question, with top_k {asked.top_k} and similarity_threshold {asked.similarity_threshold:g}:")
    _retrieve(told, replace(place, index=index), "QUESTION", asked.top_k, asked.similarity_threshold)
    head = f"# Bailian 2023-12-29 (ACS3-HMAC-SHA256): {len(chunks)} passages as {files} files, the first of which is shown"
    return "\n".join([head, *told.told])


def remove(store: Store, url: str) -> None:
    """The end of a knowledge base, its files and their category."""
    place = read(url)
    for stat in list(store.list(KEPT)):
        kept = json.loads(store.get(stat.key))
        if kept["url"] == url:
            _Base(place, _client(place), str(kept["name"]), Silence()).remove()
            store.delete(stat.key)


class Finder:
    """Search in a knowledge base. A hit's score is its reranker's, and what `similarity_threshold` cuts."""

    def __init__(self, place: Place, client: Client, retriever: Retriever) -> None:
        self.place = place
        self.index = retriever.index
        self.embedder = retriever.embedder
        self._client = client

    def search(self, question: str, groups: tuple[str, ...], limit: int, filter: Mapping[str, str] = NO_FILTER) -> list[Hit]:
        """At most `limit` hits, and never more than 20, that the groups may see. Raises `IndexingError`."""
        return self._ask(question, groups, limit, LEAST, filter)

    def found(self, question: str, groups: tuple[str, ...], top_k: int, threshold: float, filter: Mapping[str, str]) -> list[Hit]:
        """The `top_k` best that Bailian's reranker gives the threshold; asked again without one when there is none, for the reason."""
        return self._ask(question, groups, top_k, threshold, filter) or self._ask(question, groups, top_k, LEAST, filter)

    def _ask(self, question: str, groups: tuple[str, ...], limit: int, threshold: float, filter: Mapping[str, str]) -> list[Hit]:
        """Bailian knows no groups: where it finds what the caller may not see, it is asked for all that it gives."""
        hits: list[Hit] = []
        for most in dict.fromkeys((min(limit, MOST), MOST)):
            nodes = _retrieve(self._client, self.place, question, most, threshold)
            hits = self._hits(nodes)
            seen = [hit for hit in hits if _visible(hit.chunk, groups, filter)]
            if len(seen) == len(hits):
                return seen[:limit]
            hits = seen
        return hits[:limit]

    def _hits(self, nodes: Sequence[Any]) -> list[Hit]:
        scores: dict[str, float] = {}
        for node in nodes:
            for id in MARK.findall(str(node.text or "")):
                scores.setdefault(id, float(node.score or 0.0))
        chunks = self.index.chunks(list(scores))
        return [Hit(chunk, 0.0, 0.0, scores[chunk.id], scores[chunk.id], NO_FEATURES) for chunk in chunks]


class _Base:
    """A knowledge base in the making: every step looks first for what is there."""

    def __init__(self, place: Place, client: Client, name: str, show: Show) -> None:
        self.place, self.client, self.name, self.show = place, client, name, show
        self.said = ""

    def made(self, chunks: Sequence[Chunk], note: Path | None, advance: Done) -> str:
        """The id of the knowledge base, its job done. `note` is where the job's id is kept meanwhile."""
        category = self.category() or self.add_category()
        names = self.upload(chunks, category, advance)
        self.parsed(category, names)
        index = self.find() or self.create(category)
        if not self.imported(index, len(names)):
            self.job(index, note)
        return index

    def category(self) -> str:
        asked = bailian.ListCategoryRequest(category_name=self.name, category_type=KIND)
        listed = self.call("look for the category", self.client.list_category, self.place.workspace, asked).category_list or []
        return next((str(one.category_id) for one in listed if one.category_name == self.name), "")

    def add_category(self) -> str:
        asked = bailian.AddCategoryRequest(category_name=self.name, category_type=KIND)
        return str(self.call("make a category", self.client.add_category, self.place.workspace, asked).category_id)

    def upload(self, chunks: Sequence[Chunk], category: str, advance: Done) -> list[str]:
        """The names of the files that hold the chunks, each in the category; one that could not be parsed is sent anew."""
        there = {_stem(file.file_name): file for file in self.files(category)}
        names = []
        for number, start in enumerate(range(0, len(chunks), PART), 1):
            name, known = f"part-{number:04}", there.get(f"part-{number:04}")
            if known is not None and known.status == UNPARSED:
                self.delete_file(known.file_id)
            if known is None or known.status == UNPARSED:
                self.add(f"{name}.txt", text(chunks[start : start + PART]).encode(), category)
            names.append(name)
            advance(min(start + PART, len(chunks)))
        return names

    def add(self, name: str, content: bytes, category: str) -> None:
        """Lease, upload, and enter a file."""
        workspace, md5 = self.place.workspace, hashlib.md5(content, usedforsecurity=False).hexdigest()
        asked = bailian.ApplyFileUploadLeaseRequest(file_name=name, md_5=md5, size_in_bytes=str(len(content)), category_type=KIND)
        lease = self.call(f"send {name}", self.client.apply_file_upload_lease, category, workspace, asked)
        (self.client.put if isinstance(self.client, _Told) else _send)(name, lease.param, content)
        entry = bailian.AddFileRequest(lease_id=lease.file_upload_lease_id, parser="AUTO_SELECT", category_id=category, category_type=KIND)
        self.call(f"enter {name}", self.client.add_file, workspace, entry)

    def files(self, category: str) -> Iterator[Any]:
        """Every file of the category."""
        token = None
        while True:
            asked = bailian.ListFileRequest(category_id=category, max_results=100, next_token=token)
            page = self.call("list the files", self.client.list_file, self.place.workspace, asked)
            yield from page.file_list or []
            token = page.next_token
            if not page.has_next or not token:
                return

    def parsed(self, category: str, names: Sequence[str]) -> None:
        """Wait until Bailian has read every file. Raises `IndexingError` with its reason for one that it can't read."""
        for _ in self.looks():
            files = [file for file in self.files(category) if _stem(file.file_name) in names]
            for file in files:
                if file.status == UNPARSED:
                    raise IndexingError(f"Bailian can't read {file.file_name}: {self.reason(file.file_id)}", AGAIN)
            ready = sum(file.status == PARSED for file in files)
            self.say(f"{ready} of {len(names)} files are read")
            if ready == len(names):
                return

    def reason(self, file: str) -> str:
        asked = bailian.DescribeFileRequest()
        told = self.call("look at a file", self.client.describe_file, self.place.workspace, file, asked)
        return str(told.parse_error_message or UNPARSED)

    def find(self) -> str:
        """The knowledge base of this name, if it is there."""
        asked = bailian.ListIndicesRequest(index_name=self.name, page_size="100")
        found = self.call("look for the knowledge base", self.client.list_indices, self.place.workspace, asked).indices or []
        return next((str(one.id) for one in found if one.name == self.name), "")

    def create(self, category: str) -> str:
        chunking = {"chunk_mode": "regex", "separator": SEPARATOR} if self.place.region.startswith("cn-") else {}
        asked = bailian.CreateIndexRequest(
            name=self.name,
            structure_type="unstructured",
            source_type="DATA_CENTER_CATEGORY",
            category_ids=[category],
            sink_type="BUILT_IN",
            chunk_size=LONGEST,
            overlap_size=0,
            embedding_model_name=self.place.embedding or None,
            rerank_model_name=self.place.rerank or None,
            **chunking,
        )
        return str(self.call("make the knowledge base", self.client.create_index, self.place.workspace, asked).id)

    def imported(self, index: str, files: int) -> bool:
        """Whether an earlier run got as far as this."""
        asked = bailian.ListIndexDocumentsRequest(index_id=index, document_status=IMPORTED, page_size=1)
        found = self.call("look into the knowledge base", self.client.list_index_documents, self.place.workspace, asked)
        return int(found.total_count or 0) >= files

    def job(self, index: str, note: Path | None) -> None:
        """Have the files imported: by the job that was begun, or a new one. Raises `IndexingError` with the reason of each file."""
        id = json.loads(note.read_text())["job"] if note and note.exists() else self.submit(index)
        if note:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps({"job": id}))
        fault = self.wait(index, id)
        if note:
            note.unlink()
        if fault:
            raise IndexingError(f"Bailian's job {id} failed: {fault}", AGAIN)

    def submit(self, index: str) -> str:
        asked = bailian.SubmitIndexJobRequest(index_id=index)
        return str(self.call("begin the import", self.client.submit_index_job, self.place.workspace, asked).id)

    def wait(self, index: str, job: str) -> str:
        """Until the job has ended; why it failed, if it did, file by file."""
        for _ in self.looks():
            status, files = self.status(index, job)
            left = [file for file in files if file.status != IMPORTED]
            self.say(f"job {job} is {status}: {len(files) - len(left)} of {len(files)} files are imported")
            if status == DONE:
                return ""
            if status == FAILED:
                return "; ".join(f"{file.doc_name}: {file.message or file.code or file.status}" for file in left) or "it says no reason"
        raise AssertionError("unreachable")

    def status(self, index: str, job: str) -> tuple[str, list[Any]]:
        """What the job is, and its files, from every page."""
        files: list[Any] = []
        for number in count(1):
            asked = bailian.GetIndexJobStatusRequest(index_id=index, job_id=job, page_number=number, page_size=PAGE)
            page = self.call("look at the job", self.client.get_index_job_status, self.place.workspace, asked)
            files += page.documents or []
            if len(page.documents or []) < PAGE:
                return str(page.status), files
        raise AssertionError("unreachable")

    def looks(self) -> Iterator[None]:
        """One after the other, so far apart."""
        while True:
            yield
            time.sleep(self.place.poll)

    def delete_file(self, file: str) -> None:
        self.call("delete a file", self.client.delete_file, file, self.place.workspace, bailian.DeleteFileRequest())

    def remove(self) -> None:
        """The knowledge base first: it is made of the files."""
        workspace = self.place.workspace
        if self.find():
            self.call("delete the knowledge base", self.client.delete_index, workspace, bailian.DeleteIndexRequest(self.place.index))
        if category := self.category():
            for file in list(self.files(category)):
                self.delete_file(file.file_id)
            self.call("delete the category", self.client.delete_category, category, workspace, bailian.DeleteCategoryRequest())

    def say(self, line: str) -> None:
        """What is new, once."""
        if line != self.said:
            self.show.say(f"bailian   {line}")
        self.said = line

    def call(self, what: str, method: Callable[..., Any], *asked: Any) -> Any:
        return _call(f"Bailian can't {what}", partial(method, *asked))


class _Told(Client):  # type: ignore[misc]  # the SDK is not typed
    """The SDK's client with no network: it keeps what it was to send, and answers as if nothing was there yet and all went well."""

    def __init__(self, place: Place) -> None:
        super().__init__(_config(place))
        self.told: list[str] = []
        self.answers: dict[str, dict[str, Any]] = {
            "AddCategory": {"CategoryId": "CATEGORY"},
            "ApplyFileUploadLease": {"FileUploadLeaseId": "LEASE", "Param": {"Method": "PUT", "Url": "URL-OF-THE-LEASE", "Headers": {}}},
            "CreateIndex": {"Id": "KNOWLEDGE-BASE"},
            "SubmitIndexJob": {"Id": "JOB"},
            "GetIndexJobStatus": {"Status": DONE},
        }

    def call_api(self, params: Any, sent: Any, runtime: Any) -> dict[str, Any]:
        """In place of sending it."""
        query = f"?{urlencode(sent.query)}" if sent.query else ""
        self.told.append(f"{params.method} {self._protocol}://{self._endpoint}{params.pathname}{query}")
        if sent.body:
            self.told.append(json.dumps(sent.body, indent=1, ensure_ascii=False))
        if params.action == "AddFile":
            self.answers["ListFile"] = {"FileList": [{"FileName": "part-0001.txt", "Status": PARSED}]}
        return {"statusCode": 200, "headers": {}, "body": {"Success": True, "Data": self.answers.get(params.action, {})}}

    def put(self, name: str, param: Any, content: bytes) -> None:
        """Likewise."""
        self.told.append(f"{param.method} {param.url}\n# {len(content)} bytes: {name}")


def text(chunks: Sequence[Chunk]) -> str:
    """What is sent of passages: each with its headings, and the mark by which it is known again."""
    return f"\n{SEPARATOR}\n".join(f"{chunk.context}\n[ragstone:{chunk.id}]" for chunk in chunks)


def _retrieve(client: Client, place: Place, question: str, top_k: int, threshold: float) -> list[Any]:
    """The nodes that Bailian finds, best first."""
    asked = bailian.RetrieveRequest(
        index_id=place.index,
        query=question,
        rerank_top_n=max(1, min(top_k, MOST)),
        rerank_min_score=min(1.0, max(LEAST, threshold)),
    )
    return list(_call("Bailian can't search", partial(client.retrieve, place.workspace, asked)).nodes or [])


def _visible(chunk: Chunk, groups: tuple[str, ...], filter: Mapping[str, str]) -> bool:
    there = set(facets.of(chunk))
    return all(there.intersection(kind) for kind in facets.wanted(groups, filter))


def _call(what: str, ask: Callable[[], Any]) -> Any:
    """The data of the answer. Bailian also refuses in answers of status 200; either way it is an `IndexingError` with its own words."""
    try:
        body = ask().body
    except alibaba.FAILURES as error:
        hint = alibaba.REFUSED if alibaba.refused(error) else AGAIN
        raise IndexingError(f"{what}: {alibaba.told(error)}", hint) from error
    if body.success is False:
        raise IndexingError(f"{what}: {body.code}: {body.message}", AGAIN)
    return getattr(body, "data", None)


def _config(place: Place, credentials: Credentials | None = None) -> Config:
    protocol, host = alibaba.server(place.endpoint)
    host = host or f"bailian.{place.region}.aliyuncs.com"
    return Config(credential=credentials, region_id=place.region, endpoint=host, protocol=protocol)


def _client(place: Place) -> Client:
    return Client(_config(place, Credentials()))


def _send(name: str, param: Any, content: bytes) -> None:
    """To the address of a lease, whose signature is in it. Its headers are sent as they are, an empty content type too."""
    try:
        with urlopen(Request(str(param.url), content, dict(param.headers or {}), method=str(param.method)), timeout=60):
            return
    except OSError as error:  # among them what the server refuses; its address holds a signature, and is not told
        raise IndexingError(f"Bailian's upload of {name} failed: {getattr(error, 'reason', None) or error}", AGAIN) from error


def _name(place: Place, snapshot: str) -> str:
    """What the knowledge base and its category are called: 20 characters at most."""
    made = [snapshot, place.embedding, place.rerank, PART]
    return f"rs-{hashlib.sha256(canonical(made)).hexdigest()[:16]}"


def _key(place: Place, name: str) -> str:
    """Where the store says that it is ready."""
    where = hashlib.sha256(canonical([place.workspace, place.region, place.endpoint])).hexdigest()[:8]
    return f"{KEPT}{where}/{name}.json"


def _stem(name: object) -> str:
    """A file's name without its ending: whether Bailian lists it with one is not known."""
    return PurePosixPath(str(name)).stem
