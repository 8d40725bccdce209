"""Training on PAI-DLC: the job's files go to an OSS bucket, a PyTorch job trains on them there, and its candidates come back.

`pai://<workspace>?region=…&oss_path=…&instance_type=…&image=…`. Keys come from the SDK's own chain of credentials; nothing here reads,
keeps or prints one. Verified against the SDK's contract, not against a live account.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import alibabacloud_oss_v2 as oss
from alibabacloud_credentials.client import Client as Credentials
from alibabacloud_oss_v2.credentials import CredentialsProviderFunc
from alibabacloud_oss_v2.exceptions import BaseError
from alibabacloud_pai_dlc20201203 import models as dlc
from alibabacloud_pai_dlc20201203.client import Client
from alibabacloud_tea_openapi.utils_models import Config

from ragstone import alibaba, job
from ragstone.corpus.pairs import Pair
from ragstone.errors import ConfigError, TrainError
from ragstone.train import MEMORY, Progress, Recipe, Report, Trainer

log = logging.getLogger("ragstone.train")

JOB, RAW = "/mnt/job", "/mnt/raw"
FRAMEWORKS = {"pytorch": "PyTorchJob"}
ENDED = ("Succeeded", "SucceededReserving", "Failed", "FailedReserving", "Stopped")
PATIENCE = 10
"""Looks at a job that may fail in a row, for want of a connection or a server, before it is left to itself."""
OVERHEAD = 60
"""Minutes that a job may take beyond the recipe's before PAI ends it: the image, encoding with the base model."""
OVERLAP = timedelta(minutes=1)
"""How far each look at the log reaches back before the last one: the two clocks differ, and lines arrive late."""
LAST = 20
"""Lines of the job's log in a message."""
AGAIN = "give the same command again: it finds the job and goes on"
FAILURES = (*alibaba.FAILURES, BaseError)


@dataclass(frozen=True)
class Place:
    """Where jobs run: what the URL says."""

    workspace: str = ""
    """Empty: the account's default workspace."""
    region: str = ""
    oss_path: str = ""
    """The `raw/` folder of the bucket, `oss://bucket/raw/`: mounted to be read. Job folders lie beside it, in `jobs/`."""
    instance_type: str = ""
    image: str = ""
    """A container image with `ragstone[train]` of this version in it."""
    job_name: str = "ragstone"
    framework: str = "pytorch"
    endpoint: str = ""
    """PAI-DLC's, where it is not the region's own; `http://` on this machine only."""
    oss_endpoint: str = ""
    """The bucket's, likewise."""
    poll: float = 10.0
    """Seconds between two looks at the job."""

    @property
    def bucket(self) -> str:
        return urlsplit(self.oss_path).netloc

    @property
    def raw(self) -> str:
        """The key of the raw folder."""
        return urlsplit(self.oss_path).path.strip("/")

    @property
    def host(self) -> str:
        """The bucket's endpoint for this machine."""
        return alibaba.server(self.oss_endpoint)[1] or f"oss-{self.region}.aliyuncs.com"

    def folder(self, digest: str) -> str:
        """The key of a job's folder."""
        return "/".join((*self.raw.split("/")[:-1], "jobs", digest))

    def mount(self, key: str) -> str:
        """The URI that PAI mounts a folder of the bucket by: over the region's own network, where its endpoint is not given."""
        return f"oss://{self.bucket}.{alibaba.server(self.oss_endpoint)[1] or f'oss-{self.region}-internal.aliyuncs.com'}/{key}/"


OPTIONS = tuple(one.name for one in fields(Place) if one.name != "workspace")
NEEDED = ("region", "oss_path", "instance_type", "image")


class PaiTrainer(Trainer):
    """Trains in a PAI-DLC job; the same base, pairs and recipe are one job, found again rather than made twice."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.credentials = Credentials()

    def train(
        self, base: Path, pairs: Sequence[Pair], recipe: Recipe, work: Path, progress: Report, memory: float = MEMORY
    ) -> dict[float, Path]:
        """Candidate model folders below `work`, by interpolation. Goes on with the job that runs or is done. Raises `TrainError`.

        `memory` is this machine's: the job has that of its own.
        """
        digest = job.write(work / "job", base, pairs, recipe)
        bucket, jobs = _Bucket(self.place, digest, self.credentials), _Jobs(self.place, _client(self.place, self.credentials))
        if not bucket.candidates():
            name = f"{self.place.job_name}-{digest}"
            running = jobs.find(name)
            if not running:
                bucket.upload(work / "job")
                running = jobs.create(request(self.place, name, digest, recipe.minutes))
            _attend(jobs, running, progress)
        found = bucket.candidates()
        if not found:
            raise TrainError(f"the PAI job has ended but left no {bucket.uri(job.DONE)}", "look at its log in the PAI console")
        return {candidate.share: bucket.fetch(candidate, work) for candidate in found}


def connect(url: str) -> PaiTrainer:
    """The trainer. Raises `ConfigError` when the URL is malformed or something is missing in it."""
    place = read(url)
    if missing := _missing(place):
        raise ConfigError(
            f"training on PAI needs {', '.join(missing)}: not in RAGSTONE_TRAIN_URL, nor in train.url of ragstone.toml, nor an option",
            'train.url = "pai://<workspace>?region=cn-hangzhou&image=…&oss_path=oss://bucket/raw/&instance_type=…"',
        )
    return PaiTrainer(place)


def read(url: str) -> Place:
    """What `pai://<workspace>?…` says, complete or not. Raises `ConfigError` on what it can't mean.

    >>> read("pai://4211?oss_path=oss://bucket/raw/").folder("1f")
    'jobs/1f'
    """
    parts = urlsplit(url if "://" in url else f"{url}://")
    values: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(values) - set(OPTIONS)):
        raise ConfigError(f"train.url has no {unknown[0]!r} for pai; there are {', '.join(OPTIONS)}")
    try:
        place = Place(**{**values, "poll": float(values.get("poll", Place.poll))}, workspace=parts.netloc)
    except ValueError as error:
        raise ConfigError(f"poll={values['poll']} in train.url is no number of seconds") from error
    if place.framework not in FRAMEWORKS:
        raise ConfigError(f"no training with {place.framework!r}: Ragstone trains with PyTorch", "--framework pytorch, or leave it out")
    if not re.fullmatch(r"[\w.-]{1,150}", place.job_name, re.ASCII):
        raise ConfigError(f"{place.job_name!r} is no name of a PAI job: letters, digits, _ . and - only", "--job-name custom-emb")
    if place.oss_path and not re.fullmatch(r"oss://[a-z0-9-]+/[^?#]*[^/?#]/?", place.oss_path):
        raise ConfigError(f"{place.oss_path!r} is no folder of a bucket", "--oss-path oss://bucket/raw/")
    alibaba.server(place.endpoint), alibaba.server(place.oss_endpoint)
    return place


def request(place: Place, name: str, digest: str, minutes: float) -> dlc.CreateJobRequest:
    """What CreateJob is asked for: one worker that runs `python -m ragstone.train` over the mounted job folder."""
    return dlc.CreateJobRequest(
        display_name=name,
        job_type=FRAMEWORKS[place.framework],
        workspace_id=place.workspace or None,
        user_command=f"python -m ragstone.train --job {JOB}",
        job_specs=[dlc.JobSpec(type="Worker", image=place.image, pod_count=1, ecs_spec=place.instance_type)],
        data_sources=[
            dlc.CreateJobRequestDataSources(uri=place.mount(place.folder(digest)), mount_path=JOB, mount_access="RW"),
            dlc.CreateJobRequestDataSources(uri=place.mount(place.raw), mount_path=RAW, mount_access="RO"),
        ],
        job_max_running_time_minutes=math.ceil(minutes) + OVERHEAD,
    )


def explain(url: str, minutes: float) -> str:
    """The calls that a run would make, in order, with the bodies of those that have one; capitals stand for what is not known yet."""
    place = read(url)
    missing = _missing(place)
    known: dict[str, Any] = {name: "oss://BUCKET/raw/" if name == "oss_path" else name.upper() for name in missing}
    place = replace(place, **known)
    bucket = f"https://{place.bucket}.{place.host}/{place.folder('DIGEST')}"
    lines = [
        "# OSS (OSS4-HMAC-SHA256): is it done already? Else the job's files, each where it is missing, over 6 MiB in parts",
        f"GET {bucket}/{job.DONE}",
        *(f"{method} {bucket}/{name}" for name in (f"{job.BASE}/*", job.PAIRS, job.RECIPE) for method in ("HEAD", "PUT")),
        "# PAI-DLC 2020-12-03 (ACS3-HMAC-SHA256): find the job, or create it",
        *_Told(place).calls(minutes),
        "# OSS: what the job made, checked by CRC-64 and SHA-256",
        f"GET {bucket}/{job.DONE}",
        *(f"{method} {bucket}/candidates/SHARE/*" for method in ("HEAD", "GET")),
    ]
    if missing:
        lines.append(f"# still to be set in train.url or by an option: {', '.join(missing)}")
    return "\n".join(lines)


def _missing(place: Place) -> list[str]:
    return [name for name in NEEDED if not getattr(place, name)]


def _attend(jobs: _Jobs, running: str, progress: Report) -> None:
    """Follow a job to its end; Ctrl-C ends it too."""
    try:
        jobs.follow(running, progress)
    except KeyboardInterrupt:
        jobs.stop(running)
        raise


class _Jobs:
    """PAI-DLC's jobs, through the SDK."""

    def __init__(self, place: Place, client: Client) -> None:
        self.place, self.client = place, client

    def find(self, name: str) -> str:
        """The id of the job of that name that still runs, or nothing. One that is being stopped is waited for."""
        asked = dlc.ListJobsRequest(
            display_name=name, workspace_id=self.place.workspace or None, sort_by="GmtCreateTime", order="desc", page_size=50
        )
        with _asking("can't look for the PAI job"):
            found = self.client.list_jobs(asked).body.jobs or []
        for one in found:
            if one.display_name != name or one.status in ENDED:  # the search is fuzzy
                continue
            if one.status != "Stopping":
                return str(one.job_id)
            while self.look(one.job_id).status not in ENDED:
                time.sleep(self.place.poll)
        return ""

    def create(self, asked: dlc.CreateJobRequest) -> str:
        """The id of a new job."""
        with _asking(f"can't create the PAI job {asked.display_name}"):
            made = str(self.client.create_job(asked).body.job_id)
        log.info("created PAI job %s (%s)", made, asked.display_name)
        return made

    def follow(self, id: str, progress: Report) -> None:
        """Report the job's progress until it ends. Raises `TrainError`, with the reason and the last lines, when it does not succeed."""
        step, since = 0, ""
        while True:
            began = datetime.now(UTC)
            now = self.look(id)
            lines = self.lines(id, now, since)
            step = _report(lines, progress, step)
            if now.status in ENDED:
                break
            since = _time(began - OVERLAP)
            time.sleep(self.place.poll)
        if not now.status.startswith("Succeeded"):
            said = [line for line in lines or self.lines(id, now, "") if not _progress(line)][-LAST:]
            reason = ": ".join(part for part in (now.status, now.reason_code, now.reason_message) if part)
            raise TrainError("\n    ".join((f"the PAI job {id} did not succeed: {reason}", *said)), AGAIN.replace("finds", "replaces"))

    def look(self, id: str, patience: int = PATIENCE) -> dlc.GetJobResponseBody:
        """The job as it is. A lost connection is no end: it is asked for again, so often in a row."""
        try:
            return self.client.get_job(id, dlc.GetJobRequest(need_detail=True)).body
        except FAILURES as error:
            if patience <= 1 or not alibaba.passes(error):
                raise TrainError(f"lost sight of the PAI job {id}, which may still run: {alibaba.told(error)}", _hint(error)) from error
        time.sleep(self.place.poll)
        return self.look(id, patience - 1)

    def lines(self, id: str, now: dlc.GetJobResponseBody, since: str) -> list[str]:
        """What the job has printed since then; a log that can't be read says so and ends nothing."""
        asked = dlc.GetPodLogsRequest(start_time=since or None)
        try:
            return [line for pod in now.pods or [] for line in self.client.get_pod_logs(id, pod.pod_id, asked).body.logs or []]
        except FAILURES as error:
            return [f"(the log can't be read: {alibaba.told(error)})"]

    def stop(self, id: str) -> None:
        """Ask PAI to end the job: it gets SIGTERM and writes its checkpoint."""
        with _asking(f"interrupted, but the PAI job {id} could not be stopped", "stop it in the PAI console: it costs money"):
            self.client.stop_job(id)
        log.info("stopped PAI job %s", id)


class _Told(Client):  # type: ignore[misc]  # the SDK is not typed
    """The SDK's client with no network: it keeps what it was to send."""

    def __init__(self, place: Place) -> None:
        super().__init__(_config(place))
        self.place = place
        self.told: list[str] = []

    def call_api(self, params: Any, sent: Any, runtime: Any) -> dict[str, Any]:
        """In place of sending it."""
        query = f"?{urlencode(sent.query)}" if sent.query else ""
        self.told.append(f"{params.method} {self._protocol}://{self._endpoint}{params.pathname}{query}")
        if sent.body:
            self.told.append(json.dumps(sent.body, indent=1))
        return {"statusCode": 200, "headers": {}, "body": {"JobId": "JOB", "Status": "Succeeded", "Pods": [{"PodId": "POD"}], "Logs": []}}

    def calls(self, minutes: float) -> list[str]:
        """What a run says to PAI-DLC, from looking for the job to stopping it."""
        jobs, name = _Jobs(self.place, self), f"{self.place.job_name}-DIGEST"
        jobs.find(name)
        made = jobs.create(request(self.place, name, "DIGEST", minutes))
        self.told.append(f"# every {self.place.poll:g} s until it has ended")
        jobs.follow(made, lambda now: None)
        self.told.append("# on Ctrl-C")
        jobs.stop(made)
        return self.told


class _Bucket:
    """The OSS bucket, as far as one job's folder. The SDK checks a CRC-64 of each file on the way up and on the way down."""

    def __init__(self, place: Place, digest: str, credentials: Credentials) -> None:
        self.place, self.digest, self.folder = place, digest, place.folder(digest)
        settings = oss.config.load_default()
        settings.region = place.region
        settings.endpoint = place.oss_endpoint or None
        settings.credentials_provider = CredentialsProviderFunc(lambda: alibaba.keys(credentials))
        self.client = oss.Client(settings)

    def uri(self, name: str) -> str:
        """A file of the job, for a message."""
        return f"oss://{self.place.bucket}/{self.folder}/{name}"

    def candidates(self) -> list[job.Candidate]:
        """What the job made, once it is done."""
        asked = oss.GetObjectRequest(bucket=self.place.bucket, key=f"{self.folder}/{job.DONE}")
        with _asking(f"can't read {self.uri(job.DONE)}"):
            try:
                with self.client.get_object(asked).body as body:
                    done = body.read()
            except BaseError as error:
                if not alibaba.absent(error):
                    raise
                return []
        return job.candidates(done, self.digest, self.uri(job.DONE))

    def upload(self, folder: Path) -> None:
        """Send the files of a job, each unless it is there already."""
        uploader = self.client.uploader()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            with _asking(f"can't upload {self.uri(name)}"):
                if not self._has(name, path):
                    uploader.upload_file(oss.PutObjectRequest(bucket=self.place.bucket, key=f"{self.folder}/{name}"), str(path))

    def _has(self, name: str, path: Path) -> bool:
        """Whether the bucket holds this very content under that name."""
        try:
            there = self.client.head_object(oss.HeadObjectRequest(bucket=self.place.bucket, key=f"{self.folder}/{name}"))
        except BaseError as error:
            if not alibaba.absent(error):
                raise
            return False
        return int(there.content_length or 0) == path.stat().st_size and int(there.hash_crc64 or 0) == alibaba.crc(path)

    def fetch(self, candidate: job.Candidate, work: Path) -> Path:
        """The folder below `work` with a candidate in it, each file checked against `done.json`."""
        target = work / f"candidate-{candidate.share:g}"
        shutil.rmtree(target, ignore_errors=True)
        for name in candidate.files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            key = f"{candidate.folder}/{name}"
            with _asking(f"can't download {self.uri(key)}"):
                asked = oss.GetObjectRequest(bucket=self.place.bucket, key=f"{self.folder}/{key}")
                self.client.downloader().download_file(asked, str(target / name))
        try:
            job.verify(target, candidate)
        except TrainError as error:
            raise TrainError(error.message, f"delete {self.uri(job.DONE)} and give the same command again") from error
        return target


def _config(place: Place, credentials: Credentials | None = None) -> Config:
    protocol, host = alibaba.server(place.endpoint)
    return Config(credential=credentials, region_id=place.region, endpoint=host or None, protocol=protocol)


def _client(place: Place, credentials: Credentials) -> Client:
    return Client(_config(place, credentials))


def _report(lines: Sequence[str], progress: Report, step: int) -> int:
    """The last step that was reported: those of `lines` that are new are, each once."""
    for line in lines:
        now = _progress(line)
        if now and now.step > step:
            step = now.step
            progress(now)
    return step


def _progress(line: str) -> Progress | None:
    """What a line of the job's log says of its progress, if it is such a line. A log service may put a time before it."""
    try:
        now = Progress(**json.loads(line[line.index("{") :]))
    except (ValueError, TypeError):
        return None
    return now if isinstance(now.step, int) else None


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def _asking(what: str, hint: str = "") -> Iterator[None]:
    """The SDKs' errors as ours."""
    try:
        yield
    except FAILURES as error:
        raise TrainError(f"{what}: {alibaba.told(error)}", hint or _hint(error)) from error


def _hint(error: BaseException) -> str:
    return alibaba.REFUSED if alibaba.refused(error) else AGAIN
