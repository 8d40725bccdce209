"""A store in an OSS bucket, by the official SDK: `oss://bucket/prefix?region=…`. Keys come from the SDK's own chain.

Requests are signed with V4; every object is checked by CRC-64. `create` is a PUT with `x-oss-forbid-overwrite`. Verified against the SDK's
contract, not against a live account.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import alibabacloud_oss_v2 as oss
from alibabacloud_credentials.client import Client as Credentials
from alibabacloud_credentials.exceptions import CredentialException
from alibabacloud_oss_v2.crc import Crc64
from alibabacloud_oss_v2.credentials import CredentialsProviderFunc
from alibabacloud_oss_v2.exceptions import BaseError, InconsistentError, RequestError, ResponseError, ServiceError
from alibabacloud_oss_v2.retry import NopRetryer, StandardRetryer
from requests.exceptions import RequestException
from Tea.exceptions import UnretryableException

from ragstone import alibaba, bucket
from ragstone.bucket import PAGE, WRITER, Bucket, Place, Unsure, part_size, read
from ragstone.errors import ConfigError, Conflict, StoreError
from ragstone.key import Stat

CONCURRENT = 4
"""Parts of one file sent at a time."""
TIMEOUT = 60
"""Seconds that the service may be silent for."""
TRIES = 60
"""Of one part of a large file; with the pauses, about as long as any other call is tried."""
FAILURES = (BaseError, CredentialException, UnretryableException, RequestException)
LOST = ("NoSuchUpload", "InvalidPart")
"""Codes of an upload that another run, or an earlier try, has ended or changed."""
PASSING = (RequestError, ResponseError, InconsistentError, OSError)
HINTS = {
    "NoSuchBucket": "create the bucket, or correct project.store",
    "AccessDenied": alibaba.REFUSED,
}


def connect(url: str) -> OssStore:
    """The store. Raises `ConfigError` when the URL is malformed or names no region; the bucket is asked at the first use."""
    place = read(url)
    found = re.search(r"oss-([a-z0-9-]+?)(-internal)?\.aliyuncs\.com", place.endpoint)
    region = place.region or (found[1] if found else "")
    if not region:
        raise ConfigError(f"{url} names no region, which signatures need", f"{url.partition('?')[0]}?region=cn-hangzhou")
    return OssStore(replace(place, region=region))


class OssStore(Bucket):
    """Objects below a prefix of a bucket."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        credentials = Credentials()
        self._client = _client(place, credentials, NopRetryer())
        self._parts = _client(place, credentials, StandardRetryer(TRIES, bucket.PAUSES[1], bucket.PAUSES[0]))
        self._exclusive = False

    def _look(self) -> None:
        with self._asking("can't list it"):
            self._client.list_objects_v2(oss.ListObjectsV2Request(bucket=self.place.bucket, max_keys=1))

    def _put(self, key: str, data: bytes | Path) -> None:
        asked = oss.PutObjectRequest(bucket=self.place.bucket, key=self.place.key(key))
        with self._asking(f"can't write {key}"):
            if isinstance(data, Path):
                self._upload(asked, key, data)
            else:
                asked.body = data
                self._client.put_object(asked)

    def _upload(self, asked: oss.PutObjectRequest, key: str, path: Path) -> None:
        """Send a file, in parts when it is large."""
        size = part_size(path.stat().st_size)
        try:
            if path.stat().st_size < size:
                self._parts.uploader(part_size=size).upload_file(asked, str(path))
            else:
                self._send(key, path, size)
        except BaseError as error:
            if getattr(alibaba.root(error), "code", "") not in LOST:
                raise
            there = self._head(key)  # the answer to the last call was lost, and the second found the upload complete, unless it was aborted
            if there is None or int(there.hash_crc64 or 0) != alibaba.crc(path):
                raise Unsure(f"{self.url}: the upload of {key} was aborted", "give the same command again") from error

    def _send(self, key: str, path: Path, size: int) -> None:
        """Send the parts of a file that no earlier run has sent, one that was killed or failed, and put all together."""
        place = {"bucket": self.place.bucket, "key": self.place.key(key)}
        place["upload_id"] = (
            self._under_way(place["key"]) or self._parts.initiate_multipart_upload(oss.InitiateMultipartUploadRequest(**place)).upload_id
        )
        held = {(int(part.part_number), _bare(part.etag)) for part in self._held(place)}
        numbers = range(1, -(-path.stat().st_size // size) + 1)
        with ThreadPoolExecutor(CONCURRENT) as pool:
            parts = list(pool.map(lambda number: self._part(place, number, _piece(path, number, size), held), numbers))
        whole = oss.CompleteMultipartUpload(parts=parts)
        done = self._parts.complete_multipart_upload(oss.CompleteMultipartUploadRequest(**place, complete_multipart_upload=whole))
        if int(done.hash_crc64 or 0) != alibaba.crc(path):
            raise Unsure(f"{self.url}: {key} arrived damaged", "give the same command again")

    def _under_way(self, name: str) -> str:
        """The newest upload of this key that is not complete, or nothing; also where the user may not look."""
        try:
            found = self._parts.list_multipart_uploads(oss.ListMultipartUploadsRequest(bucket=self.place.bucket, prefix=name)).uploads
        except BaseError as error:
            if not alibaba.refused(error):
                raise
            return ""
        own = [upload for upload in found or [] if upload.key == name]
        return str(max(own, key=lambda upload: upload.initiated).upload_id) if own else ""

    def _held(self, place: Mapping[str, str]) -> Iterator[oss.models.Part]:
        """The parts that the service has."""
        for page in self._parts.list_parts_paginator().iter_page(oss.ListPartsRequest(**place)):
            yield from page.parts or []

    def _part(self, place: Mapping[str, str], number: int, data: bytes, held: Collection[tuple[int, str]]) -> oss.models.UploadPart:
        """A part that is there, by its MD5, or is sent now."""
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest().upper()
        if (number, digest) in held:
            return oss.models.UploadPart(part_number=number, etag=f'"{digest}"')
        sent = self._parts.upload_part(oss.UploadPartRequest(**place, part_number=number, body=data))
        return oss.models.UploadPart(part_number=number, etag=sent.etag)

    def _create(self, key: str, data: bytes, writer: str) -> None:
        self._check()
        asked = oss.PutObjectRequest(
            bucket=self.place.bucket, key=self.place.key(key), body=data, forbid_overwrite=True, metadata={WRITER: writer}
        )
        with self._asking(f"can't create {key}"):
            try:
                self._client.put_object(asked)
            except BaseError as error:
                if getattr(alibaba.root(error), "code", "") != "FileAlreadyExists":
                    raise
                raise Conflict(f"{key} is already in {self.url}") from error

    def _check(self) -> None:
        """Once: a bucket that has versions, or had, ignores `x-oss-forbid-overwrite`."""
        if self._exclusive:
            return
        with self._asking("can't see whether it keeps versions (oss:GetBucketVersioning)"):
            status = self._client.get_bucket_versioning(oss.GetBucketVersioningRequest(bucket=self.place.bucket)).version_status
        if status:
            reason = f"the bucket {self.place.bucket} has versioning {status}: there OSS overwrites even what it was asked not to"
            raise StoreError(reason, "use a bucket that never had versioning")
        self._exclusive = True

    def _writer(self, key: str) -> str:
        found = self._head(key)
        return str((found.metadata or {}).get(WRITER, "")) if found else ""

    def _get(self, key: str, start: int, end: int | None) -> bytes:
        whole = start == 0 and end is None
        asked = oss.GetObjectRequest(bucket=self.place.bucket, key=self.place.key(key))
        if not whole:
            asked.range_header = f"bytes={start}-{'' if end is None else end - 1}"
            asked.range_behavior = "standard"  # else a range past the end is answered with the whole object
        with self._asking(f"can't read {key}"):
            try:
                found = self._client.get_object(asked)
                with found.body as body:
                    data = bytes(body.read())
            except BaseError as error:
                if alibaba.absent(error):
                    raise self.absent(key) from error
                if getattr(alibaba.root(error), "status_code", 0) == 416:
                    return b""
                raise
        if len(data) != int(found.content_length or 0) or (whole and _altered(data, found.hash_crc64)):
            raise Unsure(f"{self.url}: {key} arrived damaged", "give the same command again")
        return data

    def _stat(self, key: str) -> Stat | None:
        found = self._head(key)
        return Stat(key, int(found.content_length or 0)) if found else None

    def _head(self, key: str) -> oss.HeadObjectResult | None:
        with self._asking(f"can't look at {key}"):
            try:
                return self._client.head_object(oss.HeadObjectRequest(bucket=self.place.bucket, key=self.place.key(key)))
            except BaseError as error:
                if not alibaba.absent(error):
                    raise
                return None

    def _page(self, folder: str, after: str) -> tuple[Sequence[Stat], bool]:
        base = self.place.key("")
        asked = oss.ListObjectsV2Request(
            bucket=self.place.bucket,
            prefix=f"{base}{folder}/" if folder else base,
            start_after=f"{base}{after}" if after else None,
            max_keys=PAGE,
        )
        with self._asking("can't list it"):
            found = self._client.list_objects_v2(asked)
        return [Stat(one.key[len(base) :], int(one.size), _written(one)) for one in found.contents or []], bool(found.is_truncated)

    def _delete(self, key: str) -> None:
        with self._asking(f"can't delete {key}"):
            self._client.delete_object(oss.DeleteObjectRequest(bucket=self.place.bucket, key=self.place.key(key)))

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """The SDK's errors as ours."""
        try:
            yield
        except FAILURES as error:
            raise _told(f"{self.url}: {what}", error) from error


def _client(place: Place, credentials: Credentials, retryer: oss.retry.Retryer) -> oss.Client:
    settings = oss.config.load_default()
    settings.region = place.region
    settings.endpoint = place.endpoint or None
    settings.credentials_provider = CredentialsProviderFunc(lambda: alibaba.keys(credentials))
    settings.connect_timeout, settings.readwrite_timeout = TIMEOUT / 4, TIMEOUT
    settings.retryer = retryer
    return oss.Client(settings)


def _told(what: str, error: Exception) -> StoreError:
    """What the service says, by its code and message alone: the rest of an answer repeats the request, and with it who signed."""
    first = alibaba.root(error)
    if isinstance(first, ServiceError):
        told = f"{what}: {first.code}: {first.message}"
        if first.status_code >= 500 or first.status_code in (408, 429):
            return Unsure(told, "give the same command again")
        return StoreError(told, HINTS.get(str(first.code), alibaba.REFUSED if alibaba.refused(error) else ""))
    if alibaba.refused(error):
        return StoreError(f"{what}: no credentials were found", alibaba.REFUSED)
    if any(isinstance(cause, PASSING) for cause in alibaba.causes(error)):
        return Unsure(f"{what}: {type(first).__name__}: {first}", "is the endpoint in project.store right, and does it run?")
    return StoreError(f"{what}: {first}")


def _piece(path: Path, number: int, size: int) -> bytes:
    """The bytes of a part, counted from 1."""
    with path.open("rb") as file:
        file.seek((number - 1) * size)
        return file.read(size)


def _bare(etag: str | None) -> str:
    return (etag or "").strip('"').upper()


def _written(one: oss.ObjectProperties) -> float:
    return float(one.last_modified.timestamp()) if one.last_modified else 0.0


def _altered(data: bytes, crc: str | int | None) -> bool:
    """Whether the service has another CRC-64 for the object."""
    if crc is None:
        return False
    own = Crc64(0)
    own.update(data)
    return int(own.sum64()) != int(crc)
