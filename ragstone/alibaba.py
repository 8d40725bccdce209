"""What everything on Alibaba Cloud shares: keys by the SDK's own chain, and what its errors mean. Nothing here keeps or prints a key.

OSS's SDK is imported where it is used: who calls PAI-EAS alone need not have it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from alibabacloud_credentials.client import Client as Credentials
from alibabacloud_credentials.exceptions import CredentialException
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException
from Tea.exceptions import UnretryableException

from ragstone.connect import is_here
from ragstone.errors import ConfigError

if TYPE_CHECKING:
    from alibabacloud_oss_v2.credentials import Credentials as Keys

logging.getLogger("credentials").setLevel(logging.CRITICAL)  # the SDK prints a traceback for each place without keys; the error has them

REFUSED = "set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or `aliyun configure`, for a user who may do this"

FAILURES = (AlibabaCloudException, UnretryableException, CredentialException)
"""What a call of a service raises, OSS's apart."""


def keys(credentials: Credentials) -> Keys:
    """The chain's keys, asked for at each call: those of a role expire."""
    from alibabacloud_oss_v2.credentials import Credentials as Keys

    now = credentials.get_credential()
    return Keys(now.access_key_id, now.access_key_secret, now.security_token)


def causes(error: BaseException) -> list[BaseException]:
    """The error and what it was made of, the first cause last: the SDKs wrap it up to three times."""
    inner = getattr(error, "inner_exception", None) or (error.unwrap() if hasattr(error, "unwrap") else None)
    return [error, *causes(inner)] if isinstance(inner, BaseException) else [error]


def root(error: BaseException) -> BaseException:
    """The first cause."""
    return causes(error)[-1]


def absent(error: BaseException) -> bool:
    """Whether it says that there is no such object. The answer to a HEAD has no body, and so no code of its own."""
    from alibabacloud_oss_v2.exceptions import ServiceError

    first = root(error)
    return isinstance(first, ServiceError) and first.status_code == 404 and first.code in ("NoSuchKey", "BadErrorResponse")


def refused(error: BaseException) -> bool:
    """Whether it is about keys and rights: none found, wrong ones, or such as may not do this."""
    first = root(error)
    keyless = isinstance(first, CredentialException) or type(first).__name__.startswith("Credentials")  # OSS has errors of its own for that
    return keyless or getattr(first, "status_code", 0) in (401, 403)


def told(error: BaseException) -> str:
    """What the service says, by its code and message alone: the rest of an answer repeats the request, and with it who signed."""
    first = root(error)
    code, message = getattr(first, "code", None), getattr(first, "message", None)
    return f"{code}: {message}" if code and message else str(first) or type(first).__name__


def passes(error: BaseException) -> bool:
    """Whether asking again may help: no connection, a server's own fault, too many requests."""
    first = root(error)
    if isinstance(first, AlibabaCloudException):
        return int(first.status_code or 0) >= 500 or int(first.status_code or 0) == 429 or "Throttling" in str(first.code)
    return not isinstance(first, CredentialException)


def server(endpoint: str) -> tuple[str, str]:
    """Protocol and host. Raises `ConfigError` on http to another machine: a session's token travels in a header.

    >>> server("pai-eas.cn-hangzhou.aliyuncs.com"), server("")
    (('https', 'pai-eas.cn-hangzhou.aliyuncs.com'), ('https', ''))
    """
    protocol, _, host = endpoint.rpartition("://")
    if protocol == "http" and not is_here(urlsplit(endpoint).hostname):
        raise ConfigError(f"{endpoint} is not encrypted", f"https://{host}")
    return protocol or "https", host.strip("/")


def crc(path: Path) -> int:
    """The CRC-64 that OSS keeps of each object, of a file."""
    from alibabacloud_oss_v2.crc import Crc64

    found = Crc64(0)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return int(found.sum64())
