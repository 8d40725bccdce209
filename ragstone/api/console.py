"""The console's page, as it was built into the package (`console/` is its source). It holds no data: the page asks `/v1` and `/admin`."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from ragstone.api.call import confirmed
from ragstone.errors import RequestError
from ragstone.relay import SCRIPT

BUILT = Path(__file__).parents[1] / "console"
POLICY = (
    "default-src 'none'; script-src 'self' {script}; style-src 'self' {style}; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify"
)
"""Scripts and styles come from here and from nowhere else; those inside the page are the built ones, by their digests. HTML is set only
once DOMPurify has cleaned it."""
HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cross-origin-opener-policy": "same-origin"}
FOR_GOOD = {**HEADERS, "cache-control": "public, max-age=31536000, immutable", "content-type": "text/javascript; charset=utf-8"}


async def page(request: Request) -> Response:
    """The page. No key is asked for: who sees it has nothing yet."""
    data = _file("index.html")
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {**HEADERS, "cache-control": "no-cache", "content-security-policy": _policy(data), "etag": etag}
    if confirmed(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(data, headers={**headers, "content-type": "text/html; charset=utf-8"})


async def script(request: Request) -> Response:
    """A script of the page. Its name is made of its content, so browsers keep it for good. Raises `RequestError` (not_found)."""
    name = request.path_params["name"]
    if not (SCRIPT.fullmatch(name) and (BUILT / name).is_file()):
        raise RequestError(f"the console has no {name[:80]!r}", status=404, code="not_found")
    return Response(_file(name), headers=FOR_GOOD)


@cache
def _file(name: str) -> bytes:
    return (BUILT / name).read_bytes()


@cache
def _policy(page: bytes) -> str:
    return POLICY.format(script=_digest("script", page), style=_digest("style", page))


def _digest(element: str, page: bytes) -> str:
    """Of what stands in the page's one such element."""
    inside = re.findall(f"<{element}>(.*?)</{element}>".encode(), page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside[0]).digest()).decode()}'"
