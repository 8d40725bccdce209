"""Every error Ragstone raises on purpose, as one tree.

    RagstoneError
    ├── ConfigError          a setting is missing, unknown or malformed
    ├── StoreError           the store can't do what was asked
    │   ├── NotFound         no such object
    │   └── Conflict         put-if-absent lost: the object is already there
    ├── CorpusError          a folder that can't become a snapshot
    │   └── ParseError       one file that can't become a document
    ├── WeightsError         a weight file is missing, unsafe or not what its SHA-256 says
    ├── TrainError           training can't start or go on
    ├── ExamError            questions that can't be put to a release
    ├── IndexingError        an index can't be built or opened
    ├── GeneratorError       the generator failed, timed out or died
    ├── ReleaseError         a release or channel that is not there, or not whole
    ├── OriginError          the edge can't get an answer from the origin
    ├── AccessError          who is asking
    │   ├── Unauthorized     no key, or one that is forged, expired or revoked
    │   ├── Forbidden        a good key that may not do this
    │   └── RateLimited      over the limit; carries `retry_after`
    └── RequestError         a request body that can't be served; carries `param`

A message names the thing and the value seen; `hint` is the next command to type. `status`, `type` and `code` are what an HTTP
client sees, in OpenAI's error JSON.
"""

from __future__ import annotations


class RagstoneError(Exception):
    """The root: `except RagstoneError` catches all that Ragstone raises on purpose."""

    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  try: {self.hint}" if self.hint else self.message


class ConfigError(RagstoneError):
    code = "config_error"


class StoreError(RagstoneError):
    status = 503
    code = "store_error"


class NotFound(StoreError):
    status = 404
    code = "not_found"


class Conflict(StoreError):
    status = 409
    code = "conflict"


class CorpusError(RagstoneError):
    code = "corpus_error"


class ParseError(CorpusError):
    code = "parse_error"


class WeightsError(RagstoneError):
    code = "weights_error"


class TrainError(RagstoneError):
    code = "train_error"


class ExamError(RagstoneError):
    code = "exam_error"


class IndexingError(RagstoneError):
    code = "index_error"


class GeneratorError(RagstoneError):
    """`retryable` says that the same call may succeed later: nothing was sent to the client yet."""

    status = 502
    code = "generator_error"

    def __init__(self, message: str, hint: str = "", *, retryable: bool = False) -> None:
        super().__init__(message, hint)
        self.retryable = retryable


class ReleaseError(RagstoneError):
    status = 404
    code = "release_not_found"


class OriginError(RagstoneError):
    """`status` is 502 for a broken answer, 503 when there is none to ask, 504 for a late one; `retry_after` is in seconds."""

    code = "origin_error"

    def __init__(self, message: str, hint: str = "", *, status: int = 502, retry_after: float = 1.0) -> None:
        super().__init__(message, hint)
        self.status = status
        self.retry_after = retry_after


class AccessError(RagstoneError):
    status = 401
    type = "invalid_request_error"


class Unauthorized(AccessError):
    code = "invalid_api_key"


class Forbidden(AccessError):
    status = 403
    code = "forbidden"


class RateLimited(AccessError):
    status = 429
    type = "requests"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after: float, *, type: str = "requests") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.type = type


class RequestError(RagstoneError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.param = param
        self.status = status
        self.code = code
