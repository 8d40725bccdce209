"""The console's page, as it was built into the package (`console/` is its source). It holds no data: the page asks `/v1` and `/admin`."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from ragstone.api.call import confirmed
from ragstone.errors import RequestError

BUILT = Path(__file__).parents[1] / "console"
KINDS = {
    "index.html": "text/html; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify"
)
"""Scripts and styles come from here and from nowhere else, none is inline, and HTML is set only once DOMPurify has cleaned it."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


async def page(request: Request) -> Response:
    """The page, or one of the files that it asks for. No key is asked for: who sees it has nothing yet."""
    name = request.path_params.get("name", "index.html")
    if name not in KINDS:
        raise RequestError(f"the console has no {name[:80]!r}", status=404, code="not_found")
    data = _file(name)
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    if confirmed(request, etag):
        return Response(status_code=304, headers={**HEADERS, "etag": etag})
    return Response(data, headers={**HEADERS, "etag": etag, "content-type": KINDS[name]})


@cache
def _file(name: str) -> bytes:
    return (BUILT / name).read_bytes()
