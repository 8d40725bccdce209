"""A workspace of Bailian on loopback: categories, files, knowledge bases with their jobs, search in them; and an application of DashScope.

It cuts files as `chunkMode` and `Separator` say, and its reranker is the share of a question's words that a passage has.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

from ragstone.words import content
from tests.refused import Refused

WORKSPACE, APP = "llm-1", "app-1"
API_KEY = "sk-a-key-that-no-message-may-show"
UPLOADS, APPS = "/upload/", "/api/v1/apps/"
LEASED = {"X-bailian-extra": "abc", "Content-Type": ""}


@dataclass
class Entry:
    """A file of a category."""

    name: str
    category: str
    content: bytes
    looks: int
    status: str = "PARSING"


@dataclass
class Base:
    """A knowledge base."""

    asked: dict[str, str]
    passages: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class Workspace:
    """`looks` are how often one must look before work is done; `unreadable` and `failing` are files that fail, by name."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.categories: dict[str, str] = {}
        self.files: dict[str, Entry] = {}
        self.bases: dict[str, Base] = {}
        self.leases: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, tuple[str, int]] = {}
        self.actions: list[str] = []
        self.retrieved: list[dict[str, str]] = []
        self.looks = 1
        self.unreadable: set[str] = set()
        self.failing: set[str] = set()
        self.refuses = ""
        """An action that is answered with status 200 and no success."""
        self.asked: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.says: Iterable[str] = ["The ", "pump."]
        self.finish = "stop"
        self.status = 200
        self.go = threading.Event()
        self.go.set()
        self.left = threading.Event()

    def answer(self, action: str, path: str, query: Mapping[str, str], body: bytes) -> dict[str, Any]:
        """Bailian's API."""
        self.actions.append(action)
        if action == self.refuses:
            return {"Success": False, "Code": "Index.Forbidden", "Message": "this workspace may not", "RequestId": "R-1"}
        asked = {**query, **dict(parse_qsl(body.decode()))}
        told = getattr(self, f"_{re.sub(r'(?<!^)(?=[A-Z])', '_', action).lower()}")(path.split("/"), asked)
        return {"Success": True, "Code": "Success", "Data": told, "RequestId": "R-1"}

    def _list_category(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        found = [{"CategoryId": id, "CategoryName": name} for name, id in self.categories.items() if name == asked["CategoryName"]]
        return {"CategoryList": found, "HasNext": False}

    def _add_category(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        name = asked["CategoryName"]
        assert (len(name) <= 20, asked["CategoryType"]) == (True, "UNSTRUCTURED")
        self.categories[name] = f"cate-{len(self.categories) + 1}"
        return {"CategoryId": self.categories[name]}

    def _delete_category(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        assert not [file for file in self.files.values() if file.category == path[4]]
        self.categories = {name: id for name, id in self.categories.items() if id != path[4]}
        return {"CategoryId": path[4]}

    def _list_file(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        """One a page, so that pages are turned."""
        ids = sorted(id for id, file in self.files.items() if file.category == asked["CategoryId"])
        first = int(asked.get("NextToken", 0))
        more = first + 1 < len(ids)
        told = [self._file(id) for id in ids[first : first + 1]]
        return {"FileList": told, "HasNext": more, **({"NextToken": str(first + 1)} if more else {})}

    def _file(self, id: str) -> dict[str, Any]:
        file = self.files[id]
        file.looks -= 1
        if file.looks <= 0:
            file.status = "PARSE_FAILED" if file.name in self.unreadable else "PARSE_SUCCESS"
        return {"FileId": id, "FileName": file.name, "Status": file.status, "CategoryId": file.category}

    def _describe_file(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        return {**self._file(path[4]), "ParseErrorMessage": "no text in it"}

    def _delete_file(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        del self.files[path[4]]
        return {"FileId": path[4]}

    def _apply_file_upload_lease(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        id = f"lease-{len(self.leases) + 1}"
        self.leases[id] = {**asked, "category": path[4]}
        param = {"Method": "PUT", "Url": f"{self.endpoint}{UPLOADS}{id}", "Headers": LEASED}
        return {"FileUploadLeaseId": id, "Type": "HTTP", "Param": param}

    def upload(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What a lease lets one send: with its headers, an empty content type among them, and no signature of ours."""
        lease = self.leases[target.removeprefix(UPLOADS)]
        if (method, headers.get("x-bailian-extra"), headers.get("content-type")) != ("PUT", "abc", "") or "authorization" in headers:
            raise Refused(403, "SignatureDoesNotMatch", "the headers are not those of the lease")
        assert int(lease["SizeInBytes"]) == len(body)
        lease["content"] = body
        return 200, {}, b""

    def _add_file(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        lease = self.leases[asked["LeaseId"]]
        assert (lease["category"], asked["Parser"]) == (asked["CategoryId"], "AUTO_SELECT")
        id = f"file-{len(self.files) + 1}-{asked['LeaseId']}"
        self.files[id] = Entry(lease["FileName"], asked["CategoryId"], lease["content"], self.looks)
        return {"FileId": id, "Parser": "AUTO_SELECT"}

    def _list_indices(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        """Those whose name begins so: the caller must look closely."""
        found = [{"Id": id, "Name": base.asked["Name"]} for id, base in self.bases.items() if base.asked["Name"].startswith("rs-")]
        return {"Indices": found, "TotalCount": len(found)}

    def _create_index(self, path: list[str], asked: dict[str, str]) -> dict[str, Any]:
        assert (len(asked["Name"]) <= 20, asked["SinkType"], asked["StructureType"]) == (True, "BUILT_IN", "unstructured")
        assert (asked["SourceType"], 0 < int(asked["ChunkSize"]) <= 6000) == ("DATA_CENTER_CATEGORY", True)
        id = f"kb-{len(self.bases) + 1}"
        self.bases[id] = Base(asked)
        return {"Id": id}

    def _delete_index(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        del self.bases[asked["IndexId"]]
        return {}

    def _list_index_documents(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        assert asked["DocumentStatus"] == "FINISH"
        return {"Documents": [], "TotalCount": len(self.bases[asked["IndexId"]].files)}

    def _submit_index_job(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        id = f"job-{len(self.jobs) + 1}"
        self.jobs[id] = (asked["IndexId"], self.looks)
        return {"Id": id, "IndexId": asked["IndexId"]}

    def _get_index_job_status(self, path: list[str], asked: Mapping[str, str]) -> dict[str, Any]:
        index, looks = self.jobs[asked["JobId"]]
        self.jobs[asked["JobId"]] = (index, looks - 1)
        base = self.bases[index]
        source = json.loads(base.asked["CategoryIds"])
        files = [file for file in self.files.values() if file.category in source]
        if looks > 0:
            return {
                "JobId": asked["JobId"],
                "Status": "RUNNING",
                "Documents": [{"DocName": one.name, "Status": "RUNNING"} for one in files],
            }
        good = [file for file in files if file.name not in self.failing]
        base.files, base.passages = (
            [file.name for file in good],
            [text for file in good for text in _cut(file.content.decode(), base.asked)],
        )
        told = [{"DocName": one.name, "Status": "FINISH" if one in good else "INSERT_ERROR"} for one in files]
        told = [{**one, "Message": "out of quota"} if one["Status"] != "FINISH" else one for one in told]
        return {"JobId": asked["JobId"], "Status": "COMPLETED" if len(good) == len(files) else "FAILED", "Documents": told}

    def _retrieve(self, path: list[str], asked: dict[str, str]) -> dict[str, Any]:
        self.retrieved.append(asked)
        most, least = int(asked["RerankTopN"]), float(asked["RerankMinScore"])
        if not (1 <= most <= 20 and 0.01 <= least <= 1):
            raise Refused(400, "InvalidParameter", "RerankTopN or RerankMinScore is out of range")
        wanted = {word.stem for word in content(asked["Query"])}
        passages = self.bases[asked["IndexId"]].passages
        scored = sorted(((_score(wanted, text), text) for text in passages), reverse=True)
        nodes = [{"Score": score, "Text": text, "Metadata": {"doc_name": "part"}} for score, text in scored if score > least][:most]
        return {"Nodes": nodes}

    def complete(self, target: str, headers: dict[str, str], body: bytes) -> Iterator[bytes]:
        """DashScope's events of an application, one by one. Like some servers it quotes the key that it refuses."""
        if headers.get("authorization") != f"Bearer {API_KEY}":
            raise Refused(401, "InvalidApiKey", f"{headers.get('authorization')} is wrong")
        if self.status != 200:
            raise Refused(self.status, "Throttling", "too many questions")
        if target != f"{APPS}{APP}/completion":
            raise Refused(404, "InvalidApp", "no such application")
        assert headers["x-dashscope-sse"] == "enable"
        self.asked.append((headers, json.loads(body)))
        return self._events()

    def _events(self) -> Iterator[bytes]:
        numbers = count()
        for text in self.says:
            yield _event(next(numbers), {"output": {"text": text, "finish_reason": "null", "session_id": "s"}})
            self.go.wait(30)
        usage = {"models": [{"model_id": "qwen", "input_tokens": 9, "output_tokens": 2}]}
        if self.finish:
            yield _event(next(numbers), {"output": {"text": "", "finish_reason": self.finish, "session_id": "s"}, "usage": usage})


def _event(number: int, told: dict[str, Any]) -> bytes:
    return f"id:{number}\nevent:result\n:HTTP_STATUS/200\ndata:{json.dumps({**told, 'request_id': 'R-1'})}\n\n".encode()


def _score(wanted: set[str], text: str) -> float:
    """Nothing is quite without relevance to a reranker."""
    return 0.02 + 0.98 * len(wanted & {word.stem for word in content(text)}) / max(1, len(wanted))


def _cut(text: str, asked: Mapping[str, str]) -> list[str]:
    """By the separator where custom chunking is on, else by length, wherever that is."""
    if asked.get("chunkMode") == "regex":
        return re.split(asked["Separator"], text)
    size = int(asked["ChunkSize"])
    return [text[start : start + size] for start in range(0, len(text), size)]
