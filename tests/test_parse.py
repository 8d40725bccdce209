"""Files of every kind become text with headings; bad ones a reason."""

from __future__ import annotations

import http.server
import io
import random
import socketserver
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from ragstone.corpus import Heading, headings
from ragstone.corpus.parse import KINDS, Parsed, decode, kind, parse, version
from ragstone.corpus.sandbox import Sandbox
from ragstone.errors import ParseError
from tests import office

BODY = "Open the valve before starting the pump."

SAMPLES = {
    "a.md": f"# Pump\n\n## Start\n\n{BODY}\n".encode(),
    "a.rst": f"Pump\n====\n\nStart\n-----\n\n{BODY}\n".encode(),
    "a.html": f"<html><head><title>Pump</title></head><body><h1>Pump</h1><h2>Start</h2><p>{BODY}</p></body></html>".encode(),
    "a.docx": office.docx((1, "Pump"), (2, "Start"), (0, BODY)),
    "a.epub": office.epub("Pump", "Ann", f"<h1>Pump</h1><h2>Start</h2><p>{BODY}</p>"),
    "a.pdf": office.pdf(("Pump", "Start", BODY), title="Pump", outline=(("Pump", 0), ("Start", 0))),
    "a.pptx": office.pptx(("Pump", "An overview"), ("Start", BODY)),
    "a.txt": f"{BODY}\n".encode(),
    "a.log": f"12:00 {BODY}\n".encode(),
    "a.csv": f"step,action\n1,{BODY}\n".encode(),
    "a.tsv": f"step\taction\n1\t{BODY}\n".encode(),
    "a.xlsx": office.xlsx("Start", ("step", "action"), ("1", BODY)),
}
WITH_HEADINGS = ("a.md", "a.rst", "a.html", "a.docx", "a.epub", "a.pdf", "a.pptx")


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def sandbox() -> object:
    with Sandbox(seconds=60) as sandbox:
        yield sandbox


@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_keeps_its_words(name: str, sandbox: Sandbox) -> None:
    assert BODY in words(sandbox.parse(SAMPLES[name], name).text)


@pytest.mark.parametrize("name", WITH_HEADINGS)
def test_headings_come_through_and_their_offsets_point_at_them(name: str, sandbox: Sandbox) -> None:
    parsed = sandbox.parse(SAMPLES[name], name)
    assert [heading.title for heading in parsed.headings] == ["Pump", "Start"]
    for heading in parsed.headings:
        assert parsed.text[heading.start :].lstrip("# ").startswith(heading.title)


@pytest.mark.parametrize("name", ["a.md", "a.html", "a.docx", "a.epub", "a.pdf", "a.rst"])
def test_the_title_is_the_documents_own(name: str, sandbox: Sandbox) -> None:
    assert sandbox.parse(SAMPLES[name], name).title == "Pump"


def test_the_author_and_the_language_are_metadata(sandbox: Sandbox) -> None:
    assert dict(sandbox.parse(SAMPLES["a.epub"], "a.epub").metadata) == {"author": "Ann", "language": "en"}
    assert dict(sandbox.parse(SAMPLES["a.pdf"], "a.pdf").metadata) == {"author": "Ann", "pages": "1"}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.xlsx"])
def test_each_row_of_a_table_names_its_columns(name: str, sandbox: Sandbox) -> None:
    assert f"step: 1; action: {BODY}" in sandbox.parse(SAMPLES[name], name).text


def test_a_table_without_column_names_keeps_its_cells() -> None:
    assert parse(b"1,2\n3,bolt\n", "a.csv").text == "1; 2\n3; bolt"


def test_a_pdf_bookmark_starts_at_its_number() -> None:
    data = office.pdf(("1 Intro", "Words here."), ("2.1 Valve", "More."), outline=(("Intro", 0), ("Valve", 1)))
    parsed = parse(data, "a.pdf")
    assert [parsed.text[heading.start :].split("\n")[0] for heading in parsed.headings] == ["1 Intro", "2.1 Valve"]
    assert parsed.title == ""  # of two chapters, neither names the document


def test_links_are_reduced_to_their_words() -> None:
    parsed = parse(b"<p>See <a href='http://x/y'>the manual</a>.<script>evil()</script><style>p{}</style>", "a.html")
    assert words(parsed.text) == "See the manual."


def test_a_page_in_another_charset_is_read_by_its_declaration() -> None:
    page = '<head><meta charset="iso-8859-2"><title>Łódź</title></head><p>żółć</p>'.encode("iso-8859-2")
    parsed = parse(page, "a.html")
    assert (parsed.title, words(parsed.text), parsed.metadata["encoding"]) == ("Łódź", "żółć", "iso-8859-2")


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (b"caf\xe9 \x93quoted\x94", "café “quoted”", "windows-1252"),
        ("grüße, naïve".encode() + b" \xff", "grüße, naïve �", "utf-8 with broken bytes"),
        ("žluť".encode("utf-16"), "žluť", "utf-16"),
        (b"\xef\xbb\xbfmarked", "marked", "utf-8"),
        (b"\x81\x8d\xff", "��ÿ", "windows-1252"),
        (b"one\r\ntwo\rthree", "one\ntwo\nthree", "utf-8"),
    ],
)
def test_text_is_read_in_the_encoding_that_it_shows(data: bytes, text: str, encoding: str) -> None:
    assert decode(data) == (text, encoding)


def test_invalid_utf8_is_a_document_that_says_how_it_was_read() -> None:
    assert parse(b"caf\xe9", "a.md") == Parsed("café", metadata={"encoding": "windows-1252"})


def test_binary_data_called_text_is_refused() -> None:
    with pytest.raises(ParseError, match="NUL bytes"):
        parse(b"\x7fELF\0\0\1", "a.txt")


@pytest.mark.parametrize("name", sorted({f"a{ending}" for ending in KINDS}))
def test_an_empty_file_is_a_reason_and_no_document(name: str, sandbox: Sandbox) -> None:
    with pytest.raises(ParseError):
        sandbox.parse(b"", name)


@pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.xlsx", "a.epub", "a.pdf"])
@pytest.mark.parametrize("damage", [b"not at all", b"PK\3\4 cut", b"%PDF-1.4 cut"])
def test_a_damaged_file_is_a_reason(name: str, damage: bytes, sandbox: Sandbox) -> None:
    with pytest.raises(ParseError, match=r"damaged|not a readable"):
        sandbox.parse(damage, name)


def test_a_file_of_marks_only_holds_no_words() -> None:
    with pytest.raises(ParseError, match="holds no words"):
        parse(b"--- *** ---\n\n...", "a.txt")


def test_a_scanned_pdf_says_that_it_may_be_a_scan() -> None:
    with pytest.raises(ParseError, match="a scan"):
        parse(office.pdf(()), "a.pdf")


def test_an_unknown_ending_is_named() -> None:
    with pytest.raises(ParseError, match=r"no parser for \.png"):
        parse(b"", "photo.png")
    assert kind("photo.png") == ""


def test_a_zip_bomb_is_not_unpacked() -> None:
    bomb = office.docx((0, "x"), more={"word/media/a.bin": bytes(60 << 20)})
    assert len(bomb) < 1 << 17
    with Sandbox(seconds=60, unpacked=50 << 20) as sandbox, pytest.raises(ParseError, match=r"unpacks to 63 MB.*zip bomb"):
        sandbox.parse(bomb, "a.docx")


def test_a_zip_bomb_that_lies_about_its_size_costs_one_file() -> None:
    honest = office.docx((0, "word " * 6_000_000))
    name = b"word/document.xml"
    place = honest.rindex(name) - 46 + 24  # the uncompressed size in the central directory
    lying = honest[:place] + (1000).to_bytes(4, "little") + honest[place + 4 :]
    with Sandbox(seconds=60, memory=64 << 20) as sandbox:
        with pytest.raises(ParseError):
            sandbox.parse(lying, "a.docx")
        assert sandbox.parse(SAMPLES["a.docx"], "a.docx").title == "Pump"


def test_a_file_that_takes_too_long_is_a_reason_and_the_next_is_parsed() -> None:
    with Sandbox(seconds=0.0) as sandbox, pytest.raises(ParseError, match=r"longer than 0 s"):
        sandbox.parse(SAMPLES["a.pdf"], "a.pdf")
    with Sandbox(seconds=60) as sandbox:
        sandbox.seconds = 0.0
        with pytest.raises(ParseError, match="longer"):
            sandbox.parse(SAMPLES["a.pdf"], "a.pdf")
        sandbox.seconds = 60
        assert sandbox.parse(SAMPLES["a.pdf"], "a.pdf").title == "Pump"


def test_a_parser_that_dies_is_a_reason_and_the_next_file_is_parsed() -> None:
    with Sandbox(seconds=60) as sandbox:
        sandbox.parse(SAMPLES["a.pdf"], "a.pdf")
        child = sandbox._child
        assert child is not None
        child.kill()
        child.wait()
        with pytest.raises(ParseError, match="SIGKILL"):
            sandbox.parse(SAMPLES["a.docx"], "a.docx")
        assert sandbox.parse(SAMPLES["a.docx"], "a.docx").title == "Pump"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the limit is not enforced")
def test_a_memory_bomb_is_a_reason() -> None:
    bomb = office.docx((0, random.Random(1).randbytes(8 << 20).hex()))  # noise: a ratio gives a plainer one away
    with Sandbox(seconds=60, memory=64 << 20) as sandbox:
        with pytest.raises(ParseError, match=r"died|memory"):
            sandbox.parse(bomb, "a.docx")
        assert sandbox.parse(SAMPLES["a.csv"], "a.csv").text


def test_plain_text_needs_no_child() -> None:
    with Sandbox(seconds=60) as sandbox:
        sandbox.parse(SAMPLES["a.md"], "a.md")
        assert sandbox._child is None


def test_the_sandbox_ends_its_child() -> None:
    with Sandbox(seconds=60) as sandbox:
        sandbox.parse(SAMPLES["a.pdf"], "a.pdf")
        child = sandbox._child
    assert child is not None
    assert child.returncode == 0


def test_parsing_asks_nothing_of_the_network(sandbox: Sandbox) -> None:
    asked: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with socketserver.TCPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        page = f"<link rel=stylesheet href={url}/s.css><img src={url}/a.png><iframe src={url}/f></iframe><p>{BODY}"
        sandbox.parse(page.encode(), "a.html")
        sandbox.parse(office.epub("Pump", "Ann", f'<p>{BODY}<img src="{url}/b.png"/></p>'), "a.epub")
        server.shutdown()
    assert asked == []


def test_an_external_entity_is_not_resolved(tmp_path: Path, sandbox: Sandbox) -> None:
    secret = tmp_path / "secret"
    secret.write_text("top secret words")
    chapter = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY leak SYSTEM "file://{secret}">]><html><body><p>{BODY} &leak;</p></body></html>'
    with zipfile.ZipFile(io.BytesIO(office.epub("Pump", "Ann", ""))) as book:
        files: dict[str, str | bytes] = {name: book.read(name) for name in book.namelist()}
    text = sandbox.parse(office.container({**files, "a.xhtml": chapter}), "a.epub").text
    assert BODY in text
    assert "secret" not in text


def test_a_version_names_the_engine() -> None:
    assert version("pdf").startswith("pdf-1-pypdfium2-")
    assert version("text") == "text-1"


MARKDOWN = [
    ("# A\n## B\n", [(0, 1, "A"), (4, 2, "B")]),
    ("A\n=\n\nB\n---\n", [(0, 1, "A"), (5, 2, "B")]),
    ("```\n# no\n```\n# yes ##\n", [(13, 1, "yes")]),
    ("~~~\n```\n# no\n~~~\n# yes\n", [(17, 1, "yes")]),
    ("# A\n```python\nx = 1\n\n# B\n", [(0, 1, "A"), (21, 1, "B")]),
    ("---\ntitle: T\n---\n# A\n", [(17, 1, "A")]),
    ("- item\n---\n", []),
    ("one\ntwo\n---\n", []),
    ("text\n\n---\n\nmore\n", []),
    ("#no space\n", []),
    ("####### seven\n", []),
    ("    # code\n", []),
    ("# *Important* `__init__` [link](x.html)\n", [(0, 1, "Important __init__ link")]),
    ("#\n", []),
]


@pytest.mark.parametrize(("text", "found"), MARKDOWN)
def test_markdown_headings_are_where_a_reader_sees_them(text: str, found: list[tuple[int, int, str]]) -> None:
    assert headings.markdown(text) == tuple(Heading(*heading) for heading in found)


def test_levels_of_rst_follow_the_order_of_adornments() -> None:
    text = "=====\nTitle\n=====\n\nPart\n====\n\nSub\n---\n\nPart two\n========\n\nnot\n--\n"
    assert [(heading.level, heading.title) for heading in headings.restructured(text)] == [
        (1, "Title"),
        (2, "Part"),
        (3, "Sub"),
        (2, "Part two"),
    ]


def test_front_matter_gives_the_title() -> None:
    parsed = parse(b"---\ntitle: 'The Pump'\nauthor: Ann\n---\n# One\n\n# Two\n", "a.md")
    assert (parsed.title, dict(parsed.metadata)) == ("The Pump", {"author": "Ann"})


def test_a_parsed_value_says_nothing_of_the_files_name() -> None:
    assert parse(b"words", "secret-name.txt") == Parsed("words")
