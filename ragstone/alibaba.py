"""What everything on Alibaba Cloud shares: keys by the SDK's own chain, and what its errors mean. Nothing here keeps or prints a key."""

from __future__ import annotations

import logging
from pathlib import Path

from alibabacloud_credentials.client import Client as Credentials
from alibabacloud_credentials.exceptions import CredentialException
from alibabacloud_oss_v2.crc import Crc64
from alibabacloud_oss_v2.credentials import Credentials as Keys
from alibabacloud_oss_v2.exceptions import CredentialsBaseError, ServiceError

logging.getLogger("credentials").setLevel(logging.CRITICAL)  # the SDK prints a traceback for each place without keys; the error has them

REFUSED = "set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or `aliyun configure`, for a user who may do this"


def keys(credentials: Credentials) -> Keys:
    """The chain's keys, asked for at each call: those of a role expire."""
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
    first = root(error)
    return isinstance(first, ServiceError) and first.status_code == 404 and first.code in ("NoSuchKey", "BadErrorResponse")


def refused(error: BaseException) -> bool:
    """Whether it is about keys and rights: none found, wrong ones, or such as may not do this."""
    first = root(error)
    return isinstance(first, CredentialException | CredentialsBaseError) or getattr(first, "status_code", 0) in (401, 403)


def crc(path: Path) -> int:
    """The CRC-64 that OSS keeps of each object, of a file."""
    found = Crc64(0)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return int(found.sum64())
