"""From the bytes of a file to its text, title and headings. Binary formats are read by foreign parsers: run those in `sandbox`.

Office files, EPUB and HTML become Markdown; a table of a CSV or a workbook becomes a line per row that names each column, so that a
chunk from its middle still says what its numbers mean.
"""

from __future__ import annotations

import codecs
import csv
import html
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

from ragstone.corpus import Heading, headings
from ragstone.errors import ParseError

VERSION = "1"
"""Raised when the same bytes would be read differently: parse results that are kept in a store carry it."""

KINDS = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".log": "text",
    ".rst": "rst",
    ".csv": "csv",
    ".tsv": "csv",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".pptx": "pptx",
    ".xlsx": "xlsx",
    ".epub": "epub",
}
"""What a file is, by its ending."""

ENGINES = {"html": "xberg", "docx": "xberg", "pptx": "xberg", "xlsx": "xberg", "epub": "xberg", "pdf": "pypdfium2"}
"""The package that reads a kind; kinds without one are read here."""

OFFICE = "application/vnd.openxmlformats-officedocument"
MEDIA = {
    "html": "text/html",
    "docx": f"{OFFICE}.wordprocessingml.document",
    "pptx": f"{OFFICE}.presentationml.presentation",
    "xlsx": f"{OFFICE}.spreadsheetml.sheet",
    "epub": "application/epub+zip",
}
BREAK = "\n\n"
"""Between two pages of a PDF."""
ZIPPED = ("docx", "pptx", "xlsx", "epub")
UNPACKED = 512 << 20
"""A container that says it unpacks to more bytes than this is not opened."""


@dataclass(frozen=True)
class Parsed:
    """What was read out of a file, and nothing of its name. Each heading starts at its offset in `text`; the title may be empty."""

    text: str
    title: str = ""
    headings: tuple[Heading, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def kind(path: str) -> str:
    """What the file is, by its ending, or "" when nothing reads it.

    >>> kind("a/Manual.PDF"), kind("photo.png")
    ('pdf', '')
    """
    return KINDS.get(PurePosixPath(path).suffix.lower(), "")


def version(kind: str) -> str:
    """What reads this kind: equal versions read the same bytes alike.

    >>> version("markdown")
    'markdown-1'
    """
    engine = ENGINES.get(kind)
    if engine is None:
        return f"{kind}-{VERSION}"
    try:
        return f"{kind}-{VERSION}-{engine}-{metadata.version(engine)}"
    except metadata.PackageNotFoundError:
        return f"{kind}-{VERSION}-{engine}-absent"


def parse(data: bytes, path: str, unpacked: int = UNPACKED) -> Parsed:
    """The document in `data`, read by the ending of `path`. Raises `ParseError` with the reason, in words for the file's owner.

    >>> parse(b"# Pump\\n\\nOpen the valve.", "pump.md").title
    'Pump'
    """
    name = kind(path)
    if not name:
        raise ParseError(f"no parser for {PurePosixPath(path).suffix or 'a file without an ending'}")
    if name in ZIPPED:
        _check_container(data, unpacked)
    try:
        parsed = READERS[name](data)
    except ImportError as error:
        raise ParseError(f"needs the package {error.name}", "pip install 'ragstone[parse]'") from error
    if not re.search(r"\w", parsed.text):
        raise ParseError("holds no words" + (" (a scan? its text must be recognised first)" if name == "pdf" else ""))
    return replace(parsed, title=parsed.title.strip() or _first_title(parsed))


def decode(data: bytes) -> tuple[str, str]:
    """The text, and the encoding that it was read in: by its byte order mark, else UTF-8, else Windows-1252. Line ends become `\\n`.

    Text that is UTF-8 but for a few broken bytes stays UTF-8, with U+FFFD in their place.

    >>> decode(b"caf\\xe9")
    ('café', 'windows-1252')
    >>> decode("naïve ☕ ".encode() + b"\\xff")
    ('naïve ☕ �', 'utf-8 with broken bytes')
    """
    text, encoding = _decode(data)
    if "\0" in text:
        raise ParseError("is not text (it holds NUL bytes)")
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def _decode(data: bytes) -> tuple[str, str]:
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, "replace"), encoding.removesuffix("-sig")
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if sum(character > "\x7f" for character in text) - broken > broken:
        return text, "utf-8 with broken bytes"
    return data.decode("cp1252", "replace"), "windows-1252"


def _facts(encoding: str, **more: str) -> dict[str, str]:
    """Metadata without what is empty or as expected."""
    facts = {"encoding": "" if encoding == "utf-8" else encoding, **more}
    return {name: value for name, value in facts.items() if value}


def _first_title(parsed: Parsed) -> str:
    """The words of the first heading, if no other is as high: of several chapters, none names the document."""
    highest = min((heading.level for heading in parsed.headings), default=0)
    highest_ones = [heading for heading in parsed.headings if heading.level == highest]
    return highest_ones[0].title if len(highest_ones) == 1 and highest_ones[0] == parsed.headings[0] else ""


def _text(data: bytes) -> Parsed:
    text, encoding = decode(data)
    return Parsed(text, metadata=_facts(encoding))


def _markdown(data: bytes) -> Parsed:
    text, encoding = decode(data)
    _, front = headings.front_matter(text)
    return Parsed(text, front.get("title", ""), headings.markdown(text), _facts(encoding, author=front.get("author", "")))


def _rst(data: bytes) -> Parsed:
    text, encoding = decode(data)
    return Parsed(text, "", headings.restructured(text), _facts(encoding))


def _csv(data: bytes) -> Parsed:
    text, encoding = decode(data)
    csv.field_size_limit(1 << 24)
    try:
        dialect: Any = csv.Sniffer().sniff(text[:8192], ",;\t|")
    except csv.Error:
        dialect = csv.excel
    try:
        table = list(csv.reader(io.StringIO(text), dialect))
    except csv.Error as error:
        raise ParseError(f"is not a CSV table: {error}") from error
    return Parsed("\n".join(_rows(table)), metadata=_facts(encoding))


def _rows(table: Iterable[Sequence[str]]) -> list[str]:
    """A line per row, `column: value; …` when the first row names the columns.

    >>> _rows([["bolt", "torque"], ["M8", "25"], ["", ""]])
    ['bolt: M8; torque: 25']
    """
    rows = [[" ".join(cell.split()) for cell in row] for row in table]
    rows = [row for row in rows if any(row)]
    if len(rows) < 2 or not _names(rows[0]):
        return ["; ".join(filter(None, row)) for row in rows]
    names = rows[0]
    return ["; ".join(f"{name}: {cell}" if name else cell for name, cell in _aligned(names, row) if cell) for row in rows[1:]]


def _aligned(names: list[str], row: list[str]) -> Iterable[tuple[str, str]]:
    return zip([*names, *[""] * (len(row) - len(names))], row, strict=False)


def _names(row: list[str]) -> bool:
    """Whether a first row can be column names: distinct, and none of them a number."""
    cells = [cell for cell in row if cell]
    return len(set(cells)) == len(cells) and not any(re.fullmatch(r"[-+]?[\d.,:/ %€$]+", cell) for cell in cells)


def _pdf(data: bytes) -> Parsed:
    import pypdfium2

    try:
        document, texts = pages(data)
        read = list(texts)
        facts = document.get_metadata_dict()
        outline = [(mark.level + 1, mark.get_title(), _page_of(mark)) for mark in document.get_toc()]
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        raise ParseError("is locked with a password" if locked else f"is not a readable PDF: {error}") from error
    more = _facts("utf-8", author=facts.get("Author", ""), pages=str(len(read)))
    return Parsed(BREAK.join(read), facts.get("Title", ""), _outlined(outline, read), more)


def pages(data: bytes) -> tuple[Any, Iterator[str]]:
    """An open PDF and the text of its pages, each read as it is asked for: joined by `BREAK` they are the document's text."""
    import pypdfium2

    document = pypdfium2.PdfDocument(data)
    return document, (_page(page.get_textpage().get_text_range()) for page in document)


def _page(text: str) -> str:
    """A page's text with words joined that PDFium marks as broken at a line's end (U+FFFE, or U+0002 in older versions)."""
    return re.sub("[\ufffe\x02](?:\r?\n)?", "", text).replace("\r\n", "\n").replace("\0", "").strip()


def _page_of(mark: Any) -> int | None:
    destination = mark.get_dest()
    index: int | None = destination.get_index() if destination else None
    return index


def _outlined(outline: list[tuple[int, str, int | None]], pages: list[str]) -> tuple[Heading, ...]:
    """The bookmarks of a PDF as headings: each where its words stand on its page, after the one before; else where the page starts."""
    starts = [0]
    for page in pages:
        starts.append(starts[-1] + len(page) + 2)
    found: list[Heading] = []
    last = -1
    for level, title, page_number in outline:
        title = " ".join(title.split())
        if not title or page_number is None or not 0 <= page_number < len(pages):
            continue
        where = _position(pages[page_number], title, last + 1 - starts[page_number])
        last = max(last + 1, starts[page_number] + where)
        if last < starts[page_number + 1] - 2:
            found.append(Heading(last, level, title))
    return tuple(found)


def _position(page: str, title: str, after: int) -> int:
    """Where the title's words stand on the page, at or after an offset, with the number before them ("2.1"); 0 when they don't."""
    words = r"\s*".join(map(re.escape, title.replace(" ", "")))
    match = re.compile(rf"(?:^(?:[A-Z\d.]{{1,8}}|Appendix [A-Z])[ \t]+)?{words}", re.MULTILINE).search(page, max(0, after))
    return match.start() if match else 0


def _html(data: bytes) -> Parsed:
    text, encoding = _decode_html(data)
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
    parsed = _office("html", text.encode())
    facts = {**_facts(encoding), **parsed.metadata}
    return replace(parsed, title=" ".join(html.unescape(title[1]).split()) if title else parsed.title, metadata=facts)


def _decode_html(data: bytes) -> tuple[str, str]:
    """The text by the charset that the page declares, when it is not UTF-8. The declaration goes: the text is UTF-8 from here on."""
    declared = re.search(rb"<meta[^>]+charset=[\"']?([\w-]+)", data[:4096], re.IGNORECASE)
    try:
        text, encoding = data.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = decode(data)
        name = declared[1].decode() if declared else ""
        if name and name.lower() not in ("utf-8", "utf8"):
            with suppress(LookupError):  # no such encoding: what `decode` found stands
                text, encoding = data.decode(name, "replace"), name.lower()
    return re.sub(r"(<meta[^>]+charset=[\"']?)[\w-]+", r"\1utf-8", text[:4096], flags=re.IGNORECASE) + text[4096:], encoding


def _office(kind: str, data: bytes) -> Parsed:
    """A document as Markdown, by xberg. Its cache, text recognition and remote inputs are off: bytes in, text out."""
    import asyncio

    import xberg

    library: Any = xberg
    config = library.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,
        output_format=library.OutputFormat("markdown"),
        html_options=library.ConversionOptions(extract_metadata=False, compact_tables=True),
    )

    async def extract() -> Any:
        source = library.ExtractInput(kind=library.ExtractInputKind("bytes"), bytes=data, mime_type=MEDIA[kind])
        return (await library.extract(source, config)).results[0]

    try:
        found = asyncio.run(extract())
    except Exception as error:  # xberg raises bare RuntimeError for a broken file
        raise ParseError(f"is not a readable {kind}: {str(error).removeprefix('Parsing error: ')}") from error
    text = _plain_tables(found) if kind == "xlsx" else _without_links(found.content)
    about = found.metadata
    facts = _facts("utf-8", author=", ".join(about.authors or ()), language=about.language or "")
    return Parsed(text, about.title or "", headings.markdown(text), facts)


def _without_links(text: str) -> str:
    """Markdown with links and images reduced to their words, and without the pilcrows that link to a heading: noise to a search.

    >>> _without_links("See [the manual](http://x/y 'm') and ![pump](a.png).")
    'See the manual and pump.'
    """
    text = re.sub(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^()\s]*(?:\([^()]*\)[^()\s]*)*(?:\s+[\"'][^\n]*?[\"'])?\)", r"\1", text)
    return re.sub(r"[ \t]*¶$", "", text, flags=re.MULTILINE)


def _plain_tables(found: Any) -> str:
    text: str = found.content
    for table in found.tables:
        text = text.replace(table.markdown.strip(), "\n".join(_rows(table.cells)), 1)
    return text


def _check_container(data: bytes, unpacked: int) -> None:
    """Refuse a zip bomb by the sizes that its directory declares, before anything is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as container:
            size = sum(entry.file_size for entry in container.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ParseError(f"is damaged: {error}") from error
    if size > unpacked:
        raise ParseError(f"unpacks to {size / 1e6:.0f} MB, more than the {unpacked / 1e6:.0f} MB allowed: a zip bomb?")


READERS: Mapping[str, Callable[[bytes], Parsed]] = {
    "markdown": _markdown,
    "text": _text,
    "rst": _rst,
    "csv": _csv,
    "html": _html,
    "pdf": _pdf,
    "docx": lambda data: _office("docx", data),
    "pptx": lambda data: _office("pptx", data),
    "xlsx": lambda data: _office("xlsx", data),
    "epub": lambda data: _office("epub", data),
}
