"""The index as an immutable folder: 4-bit codes and fp16 vectors for the dense list, tantivy for BM25, JSON lines for the chunks.

Rows are in the order of chunk ids, in every file. A dense search scans the codes (turbovec), then ranks what it found, and all
that the keyword search found, by the exact cosine of the fp16 vectors. Groups and metadata are lists of rows, which become one mask.
Everything is opened at once: an index goes on working when its folder is removed.
"""

from __future__ import annotations

import json
import mmap
import os
import random
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from ragstone import config, facets, keywords
from ragstone.analyser import Analyser
from ragstone.corpus import Chunk
from ragstone.embedder import Vectors
from ragstone.errors import IndexingError
from ragstone.facets import Wanted
from ragstone.index import Candidate, Done, Query, check, counted, ignored, slabs
from ragstone.keywords import Terms

FORMAT = 3
"""Counts up with every change of the files or of how words are analysed; part of an index's digest."""

BITS = 4
"""Of a code, for each dimension. 2 bits save 10 MB at 100,000 chunks and find fewer neighbours."""

SPARE = 50
"""How many more than asked the codes are searched for, beside a quarter of what is asked. Of 100,000 vectors in clumps of 50 recall@10
is .78 with 0, 1.0 from 33 on; in clumps of 500, whose cosines differ by less than a code tells, .69, .84 with 50, .97 with 100. MiniLM's of
five collections, up to 5,000, need 10, and 100 where 200 are asked. turbovec scores more coarsely where more than 31 are asked of more
than 32,768."""

SAMPLE = 1024
"""Rows that the codes' scale is fitted to; turbovec's own advice."""

CEILING = 2.2
"""BM25 of a term is below this times its rarity: k1 + 1, tantivy's k1 being 1.2."""

HEAP = 256 << 20
"""Bytes tantivy may buffer; a segment is written when they are full. 100,000 chunks are one segment then and not seven, and a search
visits each."""

META, IDS, VECTORS, CODES, CHUNKS, OFFSETS, FACETS, ROWS, WORDS = (
    "meta.json",
    "ids.npy",
    "vectors.npy",
    "codes.tv",
    "chunks.jsonl",
    "offsets.npy",
    "facets.json",
    "rows.npy",
    "words",
)

Order = NDArray[np.intp]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
T = TypeVar("T")


class Folders:
    """Indexes as folders; the store keeps them."""

    identity = (FORMAT,)

    def check(self) -> None:
        """A folder can always be made; `build` says when not."""

    def build(self, folder: Path, digest: str, chunks: Sequence[Chunk], vectors: Vectors, progress: Done = ignored) -> None:
        build(folder, chunks, vectors, progress)

    def open(self, folder: Path, digest: str) -> LocalIndex:
        return open(folder, digest)

    def point(self, folder: Path, channel: str) -> None:
        """The store's channel is the only name."""

    def remove(self, name: str) -> None:
        """There is nothing outside the store."""


def connect(settings: config.Index) -> Folders:
    """The place of `index.url = "local"`."""
    return Folders()


def build(folder: Path, chunks: Sequence[Chunk], vectors: Vectors, progress: Done = ignored) -> None:
    """Write the index of `chunks`, row by row with `vectors`, into the fresh `folder`, synced to disk. Raises `IndexingError`."""
    ids = check(chunks, vectors)
    order = np.argsort(ids, kind="stable")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / IDS, ids[order])
        _write_vectors(folder, vectors, order)
        _write_texts(folder, chunks, order, progress)
        _write_meta(folder, len(chunks), vectors.shape[1])
        _sync(folder)
    except OSError as error:
        raise IndexingError(f"can't write the index to {folder}: {error.strerror or error}") from error


def open(folder: Path, digest: str) -> LocalIndex:
    """The index that `build` wrote. Raises `IndexingError`, naming the file, when one is missing or damaged."""
    meta = _read_meta(folder)
    return LocalIndex(
        digest,
        _Dense(_load(folder / CODES, _read_codes), _load(folder / VECTORS, _read_array)),
        _load(folder / WORDS, _Words),
        _Table(_load(folder / IDS, _read_array), _load(folder / CHUNKS, _read_lines), _load(folder / OFFSETS, _read_array)),
        _Facets(_load(folder / FACETS, _read_json), _load(folder / ROWS, _read_array), int(meta["chunks"])),
    )


class LocalIndex:
    """An opened folder. Safe to search from several threads."""

    encodes = False

    def __init__(self, digest: str, dense: _Dense, words: _Words, table: _Table, facets: _Facets) -> None:
        self.digest = digest
        self._parts: tuple[_Dense, _Words, _Table, _Facets] | None = (dense, words, table, facets)

    def __len__(self) -> int:
        return len(self._opened()[2])

    def search(self, query: Query) -> list[Candidate]:
        dense, words, table, places = self._opened()
        wanted = facets.wanted(query.groups, query.filter)
        mask = places.mask(wanted)
        if mask is not None and not mask.any():
            return []
        asked = words.asked(query.text, query.bigram_weight)
        keyword = words.search(asked, query.limit, () if mask is None else wanted)
        best = dense.nearest(query.vector, query.limit, mask)
        cosines = best | dense.cosines(query.vector, sorted(keyword.keys() - best.keys()))
        scores = keyword | words.scores(asked, best.keys() - keyword.keys())
        kept = sorted(cosines)
        return [
            Candidate(id, cosines[row], scores.get(row, 0.0), row in best, row in keyword)
            for id, row in zip(table.ids(kept), kept, strict=True)
        ]

    def chunks(self, ids: Sequence[str]) -> list[Chunk]:
        return self._opened()[2].chunks(ids)

    def encoded(self, chunks: Sequence[Chunk]) -> dict[str, NDArray[np.float32]]:
        """The unit vectors, by id, of those of the chunks that are in here with the same context: they need not be encoded again."""
        dense, _, table, _ = self._opened()
        rows = {chunk.id: row for chunk in chunks if (row := table.row(chunk.id)) is not None and table.chunk(row).context == chunk.context}
        return {id: dense.vector(row) for id, row in rows.items()}

    def close(self) -> None:
        """Searches that are under way end well; the files are let go with the last of them."""
        self._parts = None

    def _opened(self) -> tuple[_Dense, _Words, _Table, _Facets]:
        if self._parts is None:
            raise IndexingError(f"index {self.digest} is closed")
        return self._parts


class _Dense:
    """Vectors twice: as codes to find rows with, and as fp16 to rank them by."""

    def __init__(self, codes: Any, vectors: NDArray[np.float16]) -> None:
        self._codes = codes
        self._vectors = np.asarray(vectors)  # still mapped; as a memmap each row that is taken would be one

    def nearest(self, vector: NDArray[np.float32], limit: int, mask: Mask | None) -> dict[int, float]:
        """The `limit` nearest rows with their cosines."""
        padded = _padded(np.asarray(vector, np.float32).reshape(1, -1))
        _, found = self._codes.search(padded, k=min(limit + limit // 4 + SPARE, len(self._vectors)), mask=mask)
        rows = found[0].astype(np.int64)
        cosines = self._exact(vector, rows)
        best = np.lexsort((rows, -cosines))[:limit]
        return dict(zip(rows[best].tolist(), cosines[best].tolist(), strict=True))

    def cosines(self, vector: NDArray[np.float32], rows: Sequence[int]) -> dict[int, float]:
        """The cosine of each row."""
        return dict(zip(rows, self._exact(vector, rows).tolist(), strict=True)) if rows else {}

    def _exact(self, vector: NDArray[np.float32], rows: Rows | Sequence[int]) -> NDArray[np.float32]:
        cosines: NDArray[np.float32] = self._vectors[rows].astype(np.float32) @ np.asarray(vector, np.float32)
        return cosines

    def vector(self, row: int) -> NDArray[np.float32]:
        vector = self._vectors[row].astype(np.float32)
        unit: NDArray[np.float32] = vector / np.linalg.norm(vector)
        return unit


@dataclass(frozen=True)
class _Asked:
    """What keyword search looks for: the stems and the pairs of a question with their weights, and the most that BM25 can give."""

    terms: Terms
    ceiling: float


class _Words:
    """BM25 (k1 1.2, b 0.75) over the words and the pairs of words of each chunk's title, headings and text; English, without stop words."""

    def __init__(self, folder: Path) -> None:
        import tantivy

        index = tantivy.Index.open(str(folder))
        self._schema = index.schema
        self._searcher = index.searcher()
        self._analyser = Analyser()

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def asked(self, text: str, bigram_weight: float) -> _Asked:
        terms = keywords.asked(self._analyser.analyze(text), bigram_weight)
        return _Asked(terms, CEILING * sum(weight * self._rarity(*term) for term, weight in terms.items()))

    def search(self, asked: _Asked, limit: int, facets: Sequence[Sequence[str]]) -> dict[int, float]:
        """The `limit` best rows with their scores, of those that have one facet of each kind."""
        from tantivy import Query

        return self._run(asked, limit, [Query.term_set_query(self._schema, "facet", list(kind)) for kind in facets])

    def scores(self, asked: _Asked, rows: Collection[int]) -> dict[int, float]:
        """The scores of those of the rows that have a word of the question.

        A query for each row: for 200 of 100,000 that takes a third of what a set of them takes.
        """
        from tantivy import Occur, Query

        each = [(Occur.Should, Query.term_query(self._schema, "row", row, "basic")) for row in sorted(rows)]
        return self._run(asked, len(rows), [Query.boolean_query(each)]) if rows else {}

    def _rarity(self, field: str, term: str) -> float:
        """The inverse document frequency as tantivy has it."""
        return keywords.rarity(len(self), self._searcher.doc_freq(field, term))

    def _run(self, asked: _Asked, limit: int, allowed: Sequence[Any]) -> dict[int, float]:
        """The `limit` best rows that each query in `allowed` has."""
        from tantivy import Occur, Query

        if not asked.terms:
            return {}
        each = [Query.boost_query(Query.term_query(self._schema, *term, "freq"), weight) for term, weight in asked.terms.items()]
        query = Query.boolean_query([(Occur.Should, one) for one in each])
        for only in allowed:
            query = Query.boolean_query([(Occur.Must, query), (Occur.Must, Query.const_score_query(only, 0.0))])
        hits = self._searcher.search(query, limit, count=False).hits
        found = self._searcher.fast_field_values("row", [address for _, address in hits])
        return {int(str(row)): min(1.0, float(score) / asked.ceiling) for row, (score, _) in zip(found, hits, strict=True)}


class _Table:
    """Chunks by id: sorted ids, and the lines of `chunks.jsonl` by their offsets."""

    def __init__(self, ids: NDArray[np.bytes_], lines: mmap.mmap, offsets: Rows) -> None:
        self._ids = ids
        self._lines = lines
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, rows: Sequence[int]) -> list[str]:
        return [bytes(id).decode() for id in self._ids[list(rows)]]

    def chunks(self, ids: Sequence[str]) -> list[Chunk]:
        rows = {id: self.row(id) for id in ids}
        missing = [id for id, row in rows.items() if row is None]
        if missing:
            raise IndexingError(f"the index has no chunk {missing[0]!r}")
        return [self.chunk(row) for row in map(rows.get, ids) if row is not None]

    def row(self, id: str) -> int | None:
        """Where the chunk is; None when it is not in here."""
        row = int(np.searchsorted(self._ids, id.encode()))
        return row if row < len(self._ids) and self._ids[row] == id.encode() else None

    def chunk(self, row: int) -> Chunk:
        try:
            parts = json.loads(self._lines[self._offsets[row] : self._offsets[row + 1]])
            return Chunk(**{**parts, "path": tuple(parts["path"]), "groups": tuple(parts["groups"])})
        except (ValueError, TypeError, KeyError) as error:
            raise IndexingError(f"{CHUNKS} is damaged at row {row}: {error}", "ragstone index") from error


class _Facets:
    """Which rows a group may see, and which have a value of a metadata field."""

    def __init__(self, places: Mapping[str, Sequence[int]], rows: Rows, size: int) -> None:
        self._places = places
        self._rows = rows
        self._size = size
        self.mask = lru_cache(maxsize=256)(self._mask)

    def _mask(self, wanted: Wanted) -> Mask | None:
        """The rows that have one facet of each kind; None when all have."""
        mask = np.ones(self._size, np.bool_)
        for kind in wanted:
            mask &= self._any(kind)
        return None if mask.all() else mask

    def _any(self, facets: Sequence[str]) -> Mask:
        mask = np.zeros(self._size, np.bool_)
        for facet in facets:
            start, end = self._places.get(facet, (0, 0))
            mask[self._rows[start:end]] = True
        return mask


def _write_vectors(folder: Path, vectors: Vectors, order: Order) -> None:
    """As fp16 and as codes, in one pass."""
    codes = _codes(vectors, order)
    with (folder / VECTORS).open("wb") as file:
        form = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": vectors.shape}
        np.lib.format.write_array_header_1_0(file, form)
        for _, rows in slabs(vectors, order):
            file.write(rows.astype(np.float16).data)
            codes.add(_padded(rows))
    codes.write(str(folder / CODES))


def _codes(vectors: Vectors, order: Order) -> Any:
    """None yet, their scale fitted to a sample."""
    from turbovec import TurboQuantIndex

    codes = TurboQuantIndex(dim=vectors.shape[1] + -vectors.shape[1] % 8, bit_width=BITS)
    if len(order) >= SAMPLE:
        sample = sorted(random.Random(0).sample(range(len(order)), SAMPLE))
        with suppress(ValueError):  # all alike: there is no scale to fit
            codes.calibrate(_padded(np.ascontiguousarray(vectors[order[sample]], np.float32)))
    return codes


def _padded(vectors: Vectors) -> Vectors:
    """With zeros up to the next multiple of 8 dimensions, which the codes need; no cosine changes."""
    if vectors.shape[1] % 8 == 0:
        return vectors
    return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, -vectors.shape[1] % 8))))


def _write_texts(folder: Path, chunks: Sequence[Chunk], order: Order, progress: Done) -> None:
    """Chunks, words and facets in one pass: a chunk may be read from a file each time that it is asked for."""
    ends, rows = array("q", [0]), defaultdict[str, "array[int]"](lambda: array("q"))
    with (folder / CHUNKS).open("wb") as lines, _writing(folder / WORDS) as add:
        for row, at in enumerate(counted(order.tolist(), progress)):
            chunk = chunks[at]
            having = facets.of(chunk)
            ends.append(ends[-1] + lines.write(orjson.dumps(vars(chunk), option=orjson.OPT_APPEND_NEWLINE)))
            add(row, chunk.context, having)
            for facet in having:
                rows[facet].append(row)
    np.save(folder / OFFSETS, np.frombuffer(ends, np.int64))
    _write_facets(folder, rows)


def _write_facets(folder: Path, rows: Mapping[str, array[int]]) -> None:
    ends = np.cumsum([0, *(len(rows[facet]) for facet in sorted(rows))]).tolist()
    places = {facet: [ends[place], ends[place + 1]] for place, facet in enumerate(sorted(rows))}
    (folder / FACETS).write_text(json.dumps(places, ensure_ascii=False), encoding="utf-8")
    np.save(folder / ROWS, np.concatenate([np.empty(0, np.int64), *(np.frombuffer(rows[facet], np.int64) for facet in sorted(rows))]))


@contextmanager
def _writing(folder: Path) -> Iterator[Callable[[int, str, list[str]], None]]:
    """What adds a row's text and facets to the words. One thread: rows are in order within a segment, so equal corpora rank ties alike."""
    from tantivy import Document, Index, SchemaBuilder

    builder = SchemaBuilder().add_text_field("text", tokenizer_name="whitespace", index_option="freq")
    builder = builder.add_text_field("pairs", tokenizer_name="whitespace", index_option="freq")
    builder = builder.add_text_field("facet", tokenizer_name="raw", index_option="basic")
    schema = builder.add_integer_field("row", indexed=True, fast=True).build()
    folder.mkdir()
    writer, reader = Index(schema, path=str(folder)).writer(heap_size=HEAP, num_threads=1), Analyser()

    def add(row: int, text: str, having: list[str]) -> None:
        stems = reader.analyze(text)
        writer.add_document(Document(text=" ".join(stems), pairs=" ".join(keywords.pairs(stems)), facet=having, row=row))

    yield add
    writer.commit()
    writer.wait_merging_threads()
    for lock in folder.glob(".tantivy-*.lock"):
        lock.unlink()


def _write_meta(folder: Path, chunks: int, dimensions: int) -> None:
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    meta = {"format": FORMAT, "chunks": chunks, "dimensions": dimensions, "sizes": sizes}
    (folder / META).write_text(json.dumps(meta, indent=1, sort_keys=True), encoding="utf-8")


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_meta(folder: Path) -> dict[str, Any]:
    """The description of the folder, held against the files that are there. Their SHA-256 is the store's to check."""
    meta = _load(folder / META, _read_json)
    if meta.get("format") != FORMAT:
        raise IndexingError(f"{folder} has format {meta.get('format')!r}; this version reads {FORMAT}", "ragstone index")
    for name, size in meta["sizes"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise IndexingError(f"{path} is missing or cut short", "ragstone index")
    return meta


def _load(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except Exception as error:  # tantivy, turbovec and numpy each raise their own kinds for a damaged file
        raise IndexingError(f"can't read {path}: {error}", "ragstone index") from error


def _read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_bytes())
    return values


def _read_codes(path: Path) -> Any:
    from turbovec import TurboQuantIndex

    codes = TurboQuantIndex.load(str(path))
    codes.prepare()
    return codes


def _read_array(path: Path) -> NDArray[Any]:
    """Mapped, not read: pages come as they are used, and all processes of a machine share them."""
    array: NDArray[Any] = np.load(path, mmap_mode="r")
    return array


def _read_lines(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
