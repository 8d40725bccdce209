"""A page of a PDF as an image: the one on which a place of the document's text lies. A foreign parser draws it: `sandbox` runs this."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any

from ragstone.corpus import parse
from ragstone.errors import ParseError

WIDTH = 1000
"""Pixels from left to right."""
HIGHEST = 3000
"""Pixels from top to bottom, at most: a scroll is drawn smaller."""


def draw(data: bytes, start: int) -> bytes:
    """The page where the character at `start` of the document's text stands, as PNG. Raises `ParseError`."""
    import pypdfium2

    try:
        document, texts = parse.pages(data)
        page = document[_page_at(texts, start)]
        wide, high = page.get_size()
        drawn = page.render(scale=min(WIDTH / max(wide, 1), HIGHEST / max(high, 1)), rev_byteorder=True)
    except pypdfium2.PdfiumError as error:
        raise ParseError(f"has no page that can be drawn: {error}") from error
    return _png(drawn.to_numpy()[:, :, :3])


def _page_at(texts: Iterable[str], start: int) -> int:
    """The number of the page, from 0; the last one where the text is shorter."""
    number, at = 0, 0
    for number, text in enumerate(texts):  # noqa: B007  counted
        at += len(text) + len(parse.BREAK)
        if start < at:
            break
    return number


def _png(pixels: Any) -> bytes:
    """Rows of red, green and blue, [height, width, 3] bytes, as a PNG."""
    high, wide, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # each without a filter
    head = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _part(b"IHDR", head) + _part(b"IDAT", zlib.compress(rows)) + _part(b"IEND", b"")


def _part(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
