"""Small documents of each kind, made by code: what the parser tests read."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
LINKS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SLIDE = "http://schemas.openxmlformats.org/presentationml/2006/main"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
MEDIA = "application/vnd.openxmlformats-officedocument"


def container(files: Mapping[str, str | bytes]) -> bytes:
    """A zip of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def docx(*paragraphs: tuple[int, str], more: Mapping[str, str | bytes] | None = None) -> bytes:
    """A Word document of (heading level or 0, text)."""
    body = "".join(_paragraph(level, text) for level, text in paragraphs)
    main = {"word/document.xml": f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'}
    return _package("word/document.xml", f"{MEDIA}.wordprocessingml.document.main+xml", {}, {**main, **(more or {})})


def pptx(*slides: tuple[str, str]) -> bytes:
    """A presentation of (title, text)."""
    numbers = range(1, len(slides) + 1)
    ids = "".join(f'<p:sldId id="{255 + number}" r:id="r{number}"/>' for number in numbers)
    files = {
        "ppt/presentation.xml": f'<p:presentation xmlns:p="{SLIDE}" xmlns:r="{OFFICE}"><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>',
        "ppt/_rels/presentation.xml.rels": _links({f"r{number}": ("slide", f"slides/slide{number}.xml") for number in numbers}),
    }
    files |= {f"ppt/slides/slide{number}.xml": _slide(*slide) for number, slide in zip(numbers, slides, strict=True)}
    parts = {f"ppt/slides/slide{number}.xml": f"{MEDIA}.presentationml.slide+xml" for number in numbers}
    return _package("ppt/presentation.xml", f"{MEDIA}.presentationml.presentation.main+xml", parts, files)


def xlsx(name: str, *rows: tuple[str, ...]) -> bytes:
    """A workbook with one sheet."""
    lines = ["".join(_cell(number, *cell) for cell in enumerate(row)) for number, row in enumerate(rows, 1)]
    cells = "".join(f'<row r="{number}">{line}</row>' for number, line in enumerate(lines, 1))
    sheets = f'<sheets><sheet name="{name}" sheetId="1" r:id="r1"/></sheets>'
    files = {
        "xl/workbook.xml": f'<workbook xmlns="{SHEET}" xmlns:r="{OFFICE}">{sheets}</workbook>',
        "xl/_rels/workbook.xml.rels": _links({"r1": ("worksheet", "worksheets/sheet1.xml")}),
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{SHEET}"><sheetData>{cells}</sheetData></worksheet>',
    }
    parts = {"xl/worksheets/sheet1.xml": f"{MEDIA}.spreadsheetml.worksheet+xml"}
    return _package("xl/workbook.xml", f"{MEDIA}.spreadsheetml.sheet.main+xml", parts, files)


def epub(title: str, author: str, body: str) -> bytes:
    """A book of one chapter of XHTML."""
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="i">x</dc:identifier>'
        f"<dc:title>{title}</dc:title><dc:language>en</dc:language><dc:creator>{author}</dc:creator></metadata>"
        '<manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="a"/></spine></package>'
    )
    pointer = (
        '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    chapter = f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>{title}</title></head><body>{body}</body></html>'
    return container({"mimetype": "application/epub+zip", "META-INF/container.xml": pointer, "book.opf": package, "a.xhtml": chapter})


def pdf(*pages: tuple[str, ...], title: str = "", outline: tuple[tuple[str, int], ...] = ()) -> bytes:
    """A PDF with these lines on its pages and an outline of (title, page from 0)."""
    first = 5  # 1 catalog, 2 page tree, 3 font, 4 information
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    roots = first + 2 * len(pages)
    marks = f"/Outlines {roots} 0 R" if outline else ""
    objects = [
        f"<</Type/Catalog/Pages 2 0 R {marks}>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        f"<</Title({title})/Author(Ann)>>",
    ]
    for number, lines in enumerate(pages):
        drawn = "BT /F1 12 Tf 14 TL 50 740 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>/Contents {first + 2 * number + 1} 0 R>>"
        )
        objects.append(f"<</Length {len(drawn)}>>stream\n{drawn}\nendstream")
    if outline:
        objects.append(f"<</Type/Outlines/First {roots + 1} 0 R/Last {roots + len(outline)} 0 R/Count {len(outline)}>>")
    for number, (words, page) in enumerate(outline, 1):
        after = f"/Next {roots + number + 1} 0 R" if number < len(outline) else ""
        objects.append(f"<</Title({words})/Parent {roots} 0 R/Dest[{first + 2 * page} 0 R/Fit]{after}>>")
    return _numbered(objects)


def _numbered(objects: list[str]) -> bytes:
    out = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj{content}endobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer<</Size {len(objects) + 1}/Root 1 0 R/Info 4 0 R>>\n"
    return out + f"{end}startxref\n{len(out)}\n%%EOF".encode()


def _package(main: str, media: str, parts: Mapping[str, str], files: Mapping[str, str | bytes]) -> bytes:
    overrides = "".join(f'<Override PartName="/{name}" ContentType="{kind}"/>' for name, kind in {main: media, **parts}.items())
    defaults = (
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
    )
    head = {
        "[Content_Types].xml": f'<Types xmlns="{TYPES}">{defaults}{overrides}</Types>',
        "_rels/.rels": _links({"r1": ("officeDocument", main)}),
    }
    return container({**head, **files})


def _links(links: Mapping[str, tuple[str, str]]) -> str:
    inner = "".join(f'<Relationship Id="{name}" Type="{OFFICE}/{kind}" Target="{target}"/>' for name, (kind, target) in links.items())
    return f'<Relationships xmlns="{LINKS}">{inner}</Relationships>'


def _paragraph(level: int, text: str) -> str:
    style = f'<w:pPr><w:pStyle w:val="Heading{level}"/></w:pPr>' if level else ""
    return f"<w:p>{style}<w:r><w:t>{text}</w:t></w:r></w:p>"


def _cell(row: int, column: int, text: str) -> str:
    return f'<c r="{chr(65 + column)}{row}" t="inlineStr"><is><t>{text}</t></is></c>'


def _slide(title: str, text: str) -> str:
    return (
        f'<p:sld xmlns:p="{SLIDE}" xmlns:a="{DRAWING}" xmlns:r="{OFFICE}"><p:cSld><p:spTree>'
        f"{_shape('<p:ph type=' + chr(34) + 'title' + chr(34) + '/>', title)}{_shape('', text)}</p:spTree></p:cSld></p:sld>"
    )


def _shape(place: str, text: str) -> str:
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="2" name="x"/><p:cNvSpPr/><p:nvPr>{place}</p:nvPr></p:nvSpPr><p:spPr/>'
        f"<p:txBody><a:bodyPr/><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"
    )
