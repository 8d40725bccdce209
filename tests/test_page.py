"""Pages of a PDF as images: the right page for a place in the text, drawn in the sandbox."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

import pytest

from ragstone.corpus.page import HIGHEST, WIDTH
from ragstone.corpus.parse import parse
from ragstone.corpus.sandbox import Sandbox
from ragstone.errors import ParseError
from tests import office

MANUAL = office.pdf(("Pump", "Prime it for ninety seconds."), ("Valve", "Tighten the bonnet crosswise."), ("Drum", "Blow it down."))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(seconds=60) as made:
        yield made


def ink(image: bytes) -> tuple[int, int, int]:
    """Width, height, and how many of the bytes of its rows are not white."""
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    wide, high = struct.unpack(">II", image[16:24])
    start = image.index(b"IDAT")
    (size,) = struct.unpack(">I", image[start - 4 : start])
    rows = zlib.decompress(image[start + 4 : start + 4 + size])
    assert len(rows) == high * (3 * wide + 1)
    return wide, high, len(rows) - rows.count(255) - high


def test_each_place_of_the_text_is_drawn_on_its_own_page(sandbox: Sandbox) -> None:
    text = parse(MANUAL, "manual.pdf").text
    drawn = [sandbox.draw(MANUAL, text.index(word)) for word in ("Pump", "ninety", "Valve", "crosswise", "Drum")]
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3] != drawn[4]
    assert sandbox.draw(MANUAL, len(text) + 1000) == drawn[4]
    wide, high, dark = ink(drawn[0])
    assert (wide, high) == (WIDTH, math.ceil(WIDTH * 792 / 612))
    assert dark > 100


def test_a_page_that_is_a_scroll_is_drawn_smaller(sandbox: Sandbox) -> None:
    scroll = MANUAL.replace(b"[0 0 612 792]", b"[0 0 100 14000]")
    assert ink(sandbox.draw(scroll, 0))[1] <= HIGHEST + 1


def test_what_is_no_pdf_has_no_page_and_the_next_one_is_drawn(sandbox: Sandbox) -> None:
    with pytest.raises(ParseError):
        sandbox.draw(b"this is no PDF", 0)
    assert ink(sandbox.draw(MANUAL, 0))[0] == WIDTH
