"""PAI-DLC, PAI-EAS, Bailian and OSS on loopback, as far as `ragstone.train.pai`, `ragstone.serve.eas`, `ragstone.rag.bailian` and
`ragstone.store.oss` speak to them.

It checks every signature with an implementation of its own.

Objects are files below a folder, so a job's "mounted" folder is that folder, and a job is run for real: the command of CreateJob, in a
process of its own. What it can't show is that the real services accept the values.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest

from tests.refused import Refused as Refused
from tests.services import PREDICT, SERVICES, Services
from tests.workspace import APPS, UPLOADS, WORKSPACE, Workspace

crcmod = pytest.importorskip("crcmod", reason="the packages of PAI are not installed: pip install 'ragstone[pai]'")

KEY, SECRET, REGION = "LTAI-test", "a-secret-that-no-message-may-show", "cn-test"
crc64: Callable[[bytes], int] = crcmod.mkCrcFun(0x1_42F0_E1EB_A9EA_3693, initCrc=0, xorOut=0xFFFF_FFFF_FFFF_FFFF, rev=True)


def hmac256(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def acs3(secret: str, method: str, target: str, headers: Mapping[str, str], signed: str) -> str:
    """The signature of ACS3-HMAC-SHA256 over the headers named in `signed`."""
    path, _, query = target.partition("?")
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    asked = "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in pairs)
    told = "".join(f"{name}:{headers[name].strip()}\n" for name in signed.split(";"))
    canonical = "\n".join((method, path, asked, told, signed, headers["x-acs-content-sha256"]))
    return hmac256(secret.encode(), f"ACS3-HMAC-SHA256\n{hashlib.sha256(canonical.encode()).hexdigest()}").hex()


def oss4(secret: str, method: str, target: str, headers: Mapping[str, str], scope: str, more: tuple[str, ...] = ()) -> str:
    """The signature of OSS4-HMAC-SHA256; `scope` is date/region/oss/aliyun_v4_request, `more` the additional headers."""
    path, _, query = target.partition("?")
    pairs = sorted(part.partition("=")[::2] for part in query.split("&") if part)
    asked = "&".join(f"{name}={value}" if value else name for name, value in pairs)
    names = sorted(name for name in headers if name.startswith("x-oss-") or name in ("content-type", "content-md5", *more))
    told = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    content = headers.get("x-oss-content-sha256", "UNSIGNED-PAYLOAD")
    canonical = "\n".join((method, quote(unquote(path), safe="/"), asked, told, ";".join(more), content))
    key = f"aliyun_v4{secret}".encode()
    for part in scope.split("/"):
        key = hmac256(key, part)
    asked = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(("OSS4-HMAC-SHA256", headers.get("x-oss-date") or headers["date"], scope, asked))
    return hmac256(key, text).hex()


@dataclass
class Run:
    """A job: what was asked for, its process, and what that printed when."""

    id: str
    asked: dict[str, Any]
    folder: Path
    process: subprocess.Popen[str]
    lines: list[tuple[datetime, str]] = field(default_factory=list)
    stopped: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def status(self) -> str:
        if not self.ended.is_set():
            return "Stopping" if self.stopped else "Running"
        if self.stopped:
            return "Stopped"
        return "Succeeded" if self.process.returncode == 0 else "Failed"

    def listen(self) -> None:
        """Keep what it prints until it ends."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append((datetime.now(UTC), line.rstrip("\n")))
        self.process.wait()
        self.ended.set()

    def told(self) -> dict[str, Any]:
        failed = {"ReasonCode": "JobFailed", "ReasonMessage": "a worker ended with an error"} if self.status == "Failed" else {}
        return {**self.asked, **failed, "JobId": self.id, "Status": self.status, "Pods": [{"PodId": f"{self.id}-worker-0"}]}


class Cloud:
    """One bucket and one workspace. `calls` are the requests that were answered, `cut` those to be left without an answer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.secrets = {"oss": SECRET, "dlc": SECRET, "eas": SECRET, "bailian": SECRET}
        self.runs: list[Run] = []
        self.calls: list[str] = []
        self.cut: dict[str, int] = {}
        self.nonces: set[str] = set()
        self.parts: dict[str, dict[int, bytes]] = {}
        self.wrong_crc = False
        self.versioning = ""
        self.folders: set[Path] = set()
        self.notes: dict[Path, dict[str, str]] = {}
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.services = Services(REGION, self.endpoint)
        self.workspace = Workspace(self.endpoint)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def url(self, **options: str) -> str:
        """The trainer's URL for this cloud."""
        given = {
            "region": REGION,
            "oss_path": "oss://bucket/raw/",
            "instance_type": "ecs.gn6v-c8g1.2xlarge",
            "image": "registry/ragstone:1",
        }
        given |= {"endpoint": self.endpoint, "oss_endpoint": self.endpoint, "poll": "0.05", **options}
        return "pai://4211?" + "&".join(f"{name}={quote(value)}" for name, value in given.items())

    def store(self, bucket: str = "bucket") -> str:
        """The URL of a store in a bucket of this cloud."""
        return f"oss://{bucket}/a/store?region={REGION}&endpoint={self.endpoint}"

    def knowledge(self, **options: str) -> str:
        """The URL of the workspace, for `rag.url`."""
        given = {"region": "cn-test", "endpoint": self.endpoint, "poll": "0.01", **options}
        return f"bailian://{WORKSPACE}?" + "&".join(f"{name}={quote(value)}" for name, value in given.items())

    def jobs(self) -> list[Path]:
        """The job folders in the bucket."""
        return sorted((self.root / "bucket" / "jobs").iterdir())

    def close(self) -> None:
        """End what still runs."""
        for run in self.runs:
            if not run.ended.is_set():
                run.process.kill()
            run.ended.wait()
        self.server.shutdown()
        self.server.server_close()

    def _handler(cloud) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = b"".join(self.sent())
                headers = {name.lower(): value for name, value in self.headers.items()}
                call = f"{self.command} {self.path}"
                if cloud.cuts(call):
                    self.close_connection = True
                    return
                answers = {
                    "/api/v1/jobs": cloud.dlc,
                    SERVICES: cloud.eas,
                    PREDICT: cloud.services.predict,
                    f"/{WORKSPACE}/": cloud.bailian,
                    UPLOADS: cloud.workspace.upload,
                }
                if self.path.startswith(APPS):
                    self.stream(headers, body)
                    return
                api = next((answer for path, answer in answers.items() if self.path.startswith(path)), None)
                try:
                    status, told, content = (api or cloud.oss)(self.command, self.path, headers, body)
                    cloud.calls.append(call)
                except Refused as error:
                    status, told, content = error.status, *(_json_error if api else _xml_error)(error)
                self.reply(status, told, content)

            def reply(self, status: int, told: Mapping[str, str], content: bytes) -> None:
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **told}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def sent(self) -> Iterator[bytes]:
                """The body; in chunks when its length was not known."""
                if self.headers.get("transfer-encoding") != "chunked":
                    yield self.rfile.read(int(self.headers.get("content-length") or 0))
                    return
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

            def stream(self, headers: dict[str, str], body: bytes) -> None:
                """An application's answer, event by event, until the other side goes away."""
                try:
                    events = cloud.workspace.complete(self.path, headers, body)
                except Refused as error:
                    told = {"code": error.code, "message": error.message, "request_id": "R-1"}
                    self.reply(error.status, {"content-type": "application/json"}, json.dumps(told).encode())
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                try:
                    for event in chain(events, [b""]):
                        self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
                except OSError:
                    cloud.workspace.left.set()
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler

    def cuts(self, call: str) -> bool:
        """Whether this call is to be left without an answer."""
        for pattern, left in self.cut.items():
            if left and re.search(pattern, call):
                self.cut[pattern] -= 1
                return True
        return False

    def dlc(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """PAI-DLC: verify, then answer."""
        self._verify_acs3(method, target, headers, body)
        path, query = unquote(urlsplit(target).path), dict(parse_qsl(urlsplit(target).query))
        found = re.fullmatch(r"/api/v1/jobs(?:/([^/]+))?(?:/(stop|pods/[^/]+/logs))?", path)
        assert found, path
        id, rest = found.groups()
        if id is None:
            told = self._create(json.loads(body)) if method == "POST" else self._list(query)
        else:
            run = next((run for run in self.runs if run.id == id), None)
            if run is None:
                raise Refused(404, "JobNotFound", f"no job {id}")
            told = self._stop(run) if rest == "stop" else self._logs(run, query) if rest else run.told()
        return 200, {"content-type": "application/json"}, json.dumps({**told, "RequestId": "R-1"}).encode()

    def eas(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """PAI-EAS: verify, then answer."""
        self._verify_acs3(method, target, headers, body, "eas", "2021-07-01")
        path, query = unquote(urlsplit(target).path), dict(parse_qsl(urlsplit(target).query))
        with self.lock:
            told = self.services.answer(method, path.removeprefix(SERVICES), query, json.loads(body or b"{}"))
        return 200, {"content-type": "application/json"}, json.dumps({**told, "RequestId": "R-1"}).encode()

    def bailian(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Bailian: verify, then answer."""
        self._verify_acs3(method, target, headers, body, "bailian", "2023-12-29")
        parts = urlsplit(target)
        with self.lock:
            told = self.workspace.answer(headers["x-acs-action"], unquote(parts.path), dict(parse_qsl(parts.query)), body)
        return 200, {"content-type": "application/json"}, json.dumps(told).encode()

    def _verify_acs3(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, service: str = "dlc", version: str = "2020-12-03"
    ) -> None:
        pattern = r"ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=(\w+)"
        found = re.fullmatch(pattern, headers.get("authorization", ""))
        if found is None:
            raise Refused(401, "MissingAuthorization", "the request is not signed")
        key, signed, signature = found.groups()
        if key != KEY:
            raise Refused(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        must = {"host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce", "x-acs-version"}
        if "x-acs-security-token" in headers:
            must |= {"x-acs-security-token"}
        late = abs(datetime.now(UTC) - datetime.fromisoformat(headers["x-acs-date"])) > timedelta(minutes=15)
        with self.lock:
            fresh = headers["x-acs-signature-nonce"] not in self.nonces
            self.nonces.add(headers["x-acs-signature-nonce"])
        whole = headers["x-acs-content-sha256"] == hashlib.sha256(body).hexdigest()
        if not must <= set(signed.split(";")) or late or not fresh or not whole or headers["x-acs-version"] != version:
            raise Refused(400, "IncompleteSignature", "the request does not conform to the standards")
        if not hmac.compare_digest(acs3(self.secrets[service], method, target, headers, signed), signature):
            raise Refused(403, "SignatureDoesNotMatch", "Specified signature is not matched with our calculation.")

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        spec = asked["JobSpecs"][0]
        named = re.fullmatch(r"[\w.-]{1,256}", asked["DisplayName"], re.ASCII)
        if not (named and asked["JobType"] == "PyTorchJob" and spec["Type"] == "Worker" and spec["Image"] and spec["EcsSpec"]):
            raise Refused(400, "InvalidParameter", "the job is not well formed")
        mounts = {one["MountPath"]: self._mounted(one["Uri"]) for one in asked["DataSources"] if one["MountAccess"] in ("RO", "RW")}
        words = shlex.split(asked["UserCommand"])
        command = [sys.executable if word == "python" else str(mounts.get(word, word)) for word in words]
        run = Run(
            f"dlc{len(self.runs) + 1:04}",
            asked,
            mounts["/mnt/job"],
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
            ),
        )
        self.runs.append(run)
        threading.Thread(target=run.listen, daemon=True).start()
        return {"JobId": run.id}

    def _mounted(self, uri: str) -> Path:
        """The folder behind `oss://bucket.endpoint/path/`."""
        parts = urlsplit(uri)
        bucket, _, host = parts.netloc.partition(".")
        assert (parts.scheme, host) == ("oss", self.endpoint.removeprefix("http://")), uri
        return self.root / bucket / parts.path.strip("/")

    def _list(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Newest first; a name matches that contains what is asked for, as the service's own."""
        found = [run.told() for run in reversed(self.runs) if query["DisplayName"] in run.asked["DisplayName"]]
        return {"Jobs": found, "TotalCount": len(found)}

    def _logs(self, run: Run, query: Mapping[str, str]) -> dict[str, Any]:
        since = datetime.fromisoformat(query["StartTime"]) if "StartTime" in query else datetime.min.replace(tzinfo=UTC)
        return {"Logs": [text for at, text in list(run.lines) if at >= since][: int(query.get("MaxLines", 2000))]}

    def _stop(self, run: Run) -> dict[str, Any]:
        run.stopped = True
        run.process.send_signal(signal.SIGTERM)
        return {"JobId": run.id}

    def oss(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """OSS, path style: verify, then answer."""
        self._verify_oss4(method, target, headers)
        parts = urlsplit(target)
        path, query = self.root / unquote(parts.path).lstrip("/"), dict(parse_qsl(parts.query, keep_blank_values=True))
        bucket = self.root / unquote(parts.path).strip("/").partition("/")[0]
        with self.lock:
            if not bucket.is_dir():
                raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
            if "list-type" in query:
                return 200, {}, self._listed(bucket, query)
            if method == "GET" and "uploads" in query:
                return 200, {}, self._uploads(bucket, query["prefix"])
            if method == "GET" and "uploadId" in query:
                return 200, {}, _listed_parts(self.parts[query["uploadId"]])
            if "versioning" in query:
                status = self.versioning and f"<Status>{self.versioning}</Status>"
                return 200, {}, f"<VersioningConfiguration>{status}</VersioningConfiguration>".encode()
            if method in ("GET", "HEAD"):
                return self._read(path, headers)
            if method == "DELETE":
                return self._delete(path, query)
            if unquote(parts.path).endswith("/"):
                return self._mark(path)
            return self._write(path, query, headers, body)

    def _listed(self, bucket: Path, query: Mapping[str, str]) -> bytes:
        """ListObjectsV2: a page of the keys, in the order of their bytes."""
        paths = {path.relative_to(bucket).as_posix(): path for path in bucket.rglob("*") if path.is_file()}
        paths |= {f"{path.relative_to(bucket).as_posix()}/": path for path in self.folders}
        keys = sorted((key for key in paths if key.startswith(query.get("prefix", ""))), key=str.encode)
        after = query.get("continuation-token", query.get("start-after", "")).encode()
        left = [key for key in keys if key.encode() > after]
        page = left[: int(query.get("max-keys", 100))]
        more = f"<NextContinuationToken>{quote(page[-1])}</NextContinuationToken>" if len(page) < len(left) else ""
        found = "".join(_content(key, paths[key].stat()) for key in page)
        truncated = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
        return f"<ListBucketResult><EncodingType>url</EncodingType>{truncated}{more}{found}</ListBucketResult>".encode()

    def _uploads(self, bucket: Path, prefix: str) -> bytes:
        """ListMultipartUploads: those that are not complete, by their keys."""
        keys = [Path(id).relative_to(bucket).as_posix() for id in self.parts]
        begun = "<Initiated>2026-11-25T20:00:00.000Z</Initiated>"
        found = "".join(
            f"<Upload><Key>{quote(key)}</Key><UploadId>{bucket / key}</UploadId>{begun}</Upload>" for key in keys if key.startswith(prefix)
        )
        return f"<ListMultipartUploadsResult><EncodingType>url</EncodingType>{found}</ListMultipartUploadsResult>".encode()

    def _delete(self, path: Path, query: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        if "uploadId" in query:
            self.parts.pop(query["uploadId"], None)
        else:
            path.unlink(missing_ok=True)
        return 204, {}, b""

    def _mark(self, path: Path) -> tuple[int, dict[str, str], bytes]:
        """An empty object whose key ends in a slash, as ossutil and the console make for a folder."""
        path.mkdir(parents=True, exist_ok=True)
        self.folders.add(path)
        return 200, self._sums(b""), b""

    def _write(self, path: Path, query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if "uploads" in query:
            self.parts[str(path)] = {}
            return 200, {}, f"<InitiateMultipartUploadResult><UploadId>{path}</UploadId></InitiateMultipartUploadResult>".encode()
        if "uploadId" in query and query["uploadId"] not in self.parts:
            raise Refused(404, "NoSuchUpload", "The specified upload does not exist.")
        if "partNumber" in query:
            self.parts[query["uploadId"]][int(query["partNumber"])] = body
            return 200, self._sums(body), b""
        if headers.get("x-oss-forbid-overwrite") == "true" and path.exists() and not self.versioning:
            raise Refused(409, "FileAlreadyExists", "The object you specified already exists and can not be overwritten.")
        if "uploadId" in query:
            body = b"".join(part for _, part in sorted(self.parts.pop(query["uploadId"]).items()))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        self.notes[path] = {name: value for name, value in headers.items() if name.startswith("x-oss-meta-")}
        answer = b"<CompleteMultipartUploadResult/>" if "uploadId" in query else b""
        return 200, self._sums(body), answer

    def _verify_oss4(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        pattern = r"OSS4-HMAC-SHA256 Credential=([^/]+)/([^,]+)(?:,AdditionalHeaders=([^,]+))?,Signature=(\w+)"
        found = re.fullmatch(pattern, headers.get("authorization", ""))
        if found is None:
            raise Refused(403, "AccessDenied", "the request is not signed")
        key, scope, more, signature = found.groups()
        if key != KEY:
            raise Refused(403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records.")
        at = _signed_at(headers)
        if abs(datetime.now(UTC) - at) > timedelta(minutes=15) or scope != f"{at:%Y%m%d}/{REGION}/oss/aliyun_v4_request":
            raise Refused(403, "AccessDenied", "the date or the scope is wrong")
        expected = oss4(self.secrets["oss"], method, target, headers, scope, tuple((more or "").split(";")) if more else ())
        if not hmac.compare_digest(expected, signature):
            raise Refused(403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")

    def _read(self, path: Path, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        """The object or a part of it. A range that leaves the object is answered with all of it, unless the standard is asked for."""
        if not path.is_file():
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        content = path.read_bytes()
        told = self._sums(content) | {"content-type": "application/octet-stream", "last-modified": "Wed, 25 Nov 2026 20:00:00 GMT"}
        told |= self.notes.get(path, {})
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if asked is None:
            return 200, told, content
        first, last = int(asked[1]), int(asked[2] or len(content) - 1)
        if headers.get("x-oss-range-behavior") == "standard":
            if first >= len(content):
                raise Refused(416, "InvalidRange", "The requested range cannot be satisfied")
            last = min(last, len(content) - 1)
        elif last >= len(content) or first > last:
            return 200, told, content
        return 206, told | {"content-range": f"bytes {first}-{last}/{len(content)}"}, content[first : last + 1]

    def _sums(self, content: bytes) -> dict[str, str]:
        crc = crc64(content) ^ int(self.wrong_crc)
        return {"x-oss-hash-crc64ecma": str(crc), "etag": f'"{hashlib.md5(content).hexdigest().upper()}"'}


@contextmanager
def running(root: Path) -> Iterator[Cloud]:
    """A cloud that answers while the block runs."""
    (root / "bucket").mkdir(parents=True, exist_ok=True)
    cloud = Cloud(root)
    threading.Thread(target=cloud.server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield cloud
    finally:
        cloud.close()


def keys(monkeypatch: pytest.MonkeyPatch, key: str | None = KEY, secret: str | None = SECRET, token: str | None = None) -> None:
    """Make the SDK's chain find these keys, as if they had been in the environment when it was imported, and reach this machine only."""
    from alibabacloud_credentials.utils import auth_util

    assert auth_util.environment_ecs_metadata_disabled == "true", "tests/conftest.py was to be imported before the SDK"
    for name, value in {"access_key_id": key, "access_key_secret": secret, "security_token": token}.items():
        monkeypatch.setattr(auth_util, f"environment_{name}", value)
    connect = socket.socket.connect

    def near(one: socket.socket, address: Any) -> None:
        assert one.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), f"a test tried to reach {address}"
        connect(one, address)

    monkeypatch.setattr(socket.socket, "connect", near)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


def _signed_at(headers: Mapping[str, str]) -> datetime:
    """When the request was signed: clients of the first generation, ossutil 1 among them, say so in `Date` alone."""
    if "x-oss-date" in headers:
        return datetime.strptime(headers["x-oss-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return parsedate_to_datetime(headers["date"])


def _listed_parts(parts: Mapping[int, bytes]) -> bytes:
    """ListParts."""
    found = "".join(
        f'<Part><PartNumber>{number}</PartNumber><ETag>"{hashlib.md5(body).hexdigest().upper()}"</ETag><Size>{len(body)}</Size></Part>'
        for number, body in sorted(parts.items())
    )
    return f"<ListPartsResult><IsTruncated>false</IsTruncated>{found}</ListPartsResult>".encode()


def _content(key: str, status: os.stat_result) -> str:
    """An object of a listing."""
    size = 0 if key.endswith("/") else status.st_size
    at = datetime.fromtimestamp(status.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return f"<Contents><Key>{quote(key)}</Key><LastModified>{at}</LastModified><Size>{size}</Size></Contents>"


def _json_error(error: Refused) -> tuple[dict[str, str], bytes]:
    return {"content-type": "application/json"}, json.dumps({"Code": error.code, "Message": error.message, "RequestId": "R-1"}).encode()


def _xml_error(error: Refused) -> tuple[dict[str, str], bytes]:
    """As OSS does, with what it echoes of the request; the answer to a HEAD has no body."""
    text = f"<Error><Code>{error.code}</Code><Message>{error.message}</Message><OSSAccessKeyId>{KEY}</OSSAccessKeyId></Error>"
    return {"content-type": "application/xml"}, text.encode()
