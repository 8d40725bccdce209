"""A store in an S3 bucket: `s3://bucket/prefix?endpoint=…&region=…`. Keys come from AWS's own chain; nothing here reads or shows one.

Every part that is sent carries its SHA-256, which the service checks; `create` is a PUT with `If-None-Match: *`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store as Client

from ragstone import bucket
from ragstone.bucket import PAGE, WRITER, Bucket, Place, Unsure, part_size, read
from ragstone.errors import Conflict, StoreError
from ragstone.key import Stat

CONCURRENT = 4
"""Parts of one file sent at a time."""
TIMEOUT = timedelta(seconds=120)
"""Of one call: a part at 70 kB/s."""
KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role, of a user who may list, read, write and delete there"
HINTS = {
    "NoSuchBucket": "create the bucket, or correct project.store",
    "PermanentRedirect": "add region=<the bucket's> to project.store",
    "AuthorizationHeaderMalformed": "add region=<the bucket's> to project.store",
}
PASSING = ("408", "429", "ConditionalRequestConflict", "OperationAborted")
"""Statuses below 500, and codes, after which the same call may succeed; the codes say that another write of that key was under way."""


def connect(url: str) -> S3Store:
    """The store. Raises `ConfigError` when the URL is malformed; the bucket is asked at the first use."""
    return S3Store(read(url))


class S3Store(Bucket):
    """Objects below a prefix of a bucket."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._client = _client(place, retries=200)
        self._once = _client(place, retries=0)

    def _look(self) -> None:
        with self._asking("can't list it"):
            next(iter(obstore.list(self._once, chunk_size=1)), None)

    def _put(self, key: str, data: bytes | Path) -> None:
        size = part_size(data.stat().st_size if isinstance(data, Path) else len(data))
        with self._asking(f"can't write {key}"):
            try:
                obstore.put(self._client, key, data, chunk_size=size, max_concurrency=CONCURRENT)
            except FileNotFoundError as error:  # it was complete when it was tried again, or aborted
                raise Unsure(f"{self.url}: the upload of {key} is gone", "give the same command again") from error

    def _create(self, key: str, data: bytes, writer: str) -> None:
        with self._asking(f"can't create {key}"):
            try:
                obstore.put(self._once, key, data, mode="create", attributes={WRITER: writer})
            except AlreadyExistsError as error:
                if _status(error) != "412":
                    raise
                raise Conflict(f"{key} is already in {self.url}") from error

    def _writer(self, key: str) -> str:
        with self._asking(f"can't read {key}"):
            return obstore.get(self._client, key).attributes.get(WRITER, "")

    def _get(self, key: str, start: int, end: int | None) -> bytes:
        with self._asking(f"can't read {key}"):
            try:
                if end is not None:
                    return bytes(obstore.get_range(self._client, key, start=start, end=end))
                return bytes(obstore.get(self._client, key, options={"range": {"offset": start}} if start else {}).bytes())
            except FileNotFoundError as error:
                raise self.absent(key) from error
            except BaseError as error:
                if _status(error) != "416":
                    raise
                return b""

    def _stat(self, key: str) -> Stat | None:
        with self._asking(f"can't look at {key}"):
            try:
                return Stat(key, obstore.head(self._client, key)["size"])
            except FileNotFoundError:
                return None

    def _page(self, folder: str, after: str) -> tuple[Sequence[Stat], bool]:
        with self._asking("can't list it"):
            found = next(iter(obstore.list(self._client, folder or None, offset=after or None, chunk_size=PAGE)), [])
        return [Stat(one["path"], one["size"], one["last_modified"].timestamp()) for one in found], len(found) == PAGE

    def _delete(self, key: str) -> None:
        with self._asking(f"can't delete {key}"):
            obstore.delete(self._client, key)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """The client's errors as ours."""
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise _told(f"{self.url}: {what}", error) from error


def _client(place: Place, retries: int) -> Client:
    first, longest = bucket.PAUSES
    return Client(
        place.bucket,
        prefix=place.prefix or None,
        endpoint=place.endpoint or None,
        region=place.region or None,
        checksum_algorithm="SHA256",
        disable_bulk_delete=True,  # not every service has it, and nothing here deletes in bulk
        client_options={"allow_http": place.endpoint.startswith("http://"), "timeout": TIMEOUT},
        retry_config={
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=bucket.PATIENCE),
            "backoff": {"init_backoff": timedelta(seconds=first), "max_backoff": timedelta(seconds=longest), "base": 2},
        },
    )


def _told(what: str, error: Exception) -> StoreError:
    """What the service says, by its code and message alone: the rest of an answer repeats who signed, and what."""
    text, status = str(error), _status(error)
    code, message = (_part(text, name) for name in ("Code", "Message"))
    if "/latest/api/token" in text or "/security-credentials" in text:  # the last place that the chain asks
        return StoreError(f"{what}: no credentials were found", KEYS)
    if not status:
        return Unsure(f"{what}: {_reason(text)}", "is the endpoint in project.store right, and does it run?")
    told = f"{what}: {code or status}: {message}" if message else f"{what}: the service answered {status}"
    if status in PASSING or code in PASSING or status.startswith("5"):
        return Unsure(told, "give the same command again")
    return StoreError(told, HINTS.get(code, KEYS if status in ("401", "403") or "User" in code or "AccessKey" in code else ""))


def _status(error: Exception) -> str:
    """The HTTP status that the service answered with, or nothing when there was no answer."""
    found = re.search(r"status code: (\d{3})", str(error))
    return found[1] if found else ""


def _part(text: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", text)
    return found[1] if found else ""


def _reason(text: str) -> str:
    """The end of the first line: the client's own words for what became of the connection."""
    return text.partition("\n")[0].rpartition(" - ")[2].strip() or "no answer"
