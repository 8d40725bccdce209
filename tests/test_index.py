"""What is the local index's own: its files, damage to them, and its speed-ups over exact search."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ragstone.corpus import Chunk
from ragstone.corpus.snapshot import Chunks
from ragstone.embedder import Vectors
from ragstone.errors import IndexingError
from ragstone.index import Query, local
from ragstone.store import connect, fetch, publish
from tests.conformance.test_index import CHUNKS, QUERY, VECTORS, dense, unit


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "index"
    local.build(folder, CHUNKS, VECTORS)
    return folder


ARRAYS = [local.IDS, local.VECTORS, local.OFFSETS, local.ROWS]
FILES = [local.META, local.CODES, local.CHUNKS, local.FACETS, f"{local.WORDS}/meta.json", *ARRAYS]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_damaged_file_is_named_when_the_index_is_opened(built: Path, tmp_path: Path, file: str, damage: str) -> None:
    folder = tmp_path / "index"
    shutil.copytree(built, folder)
    data = (folder / file).read_bytes()
    if damage == "missing":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(data[: len(data) // 2] if damage == "cut" else b"\xff" * len(data))
    with pytest.raises(IndexingError, match=Path(file).parts[0]):
        local.open(folder, "d").chunks([CHUNKS[0].id])


def test_another_format_is_refused_with_its_number(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(built, folder)
    meta = json.loads((folder / local.META).read_text())
    (folder / local.META).write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(IndexingError, match=f"has format 99; this version reads {local.FORMAT}"):
        local.open(folder, "d")


def test_a_folder_that_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexingError, match=r"can't read .*meta\.json"):
        local.open(tmp_path, "d")


def test_what_was_published_is_what_is_opened(built: Path, tmp_path: Path) -> None:
    store = connect(str(tmp_path / "store"))
    publish(store, "indexes/d", built)
    opened = local.open(fetch(store, "indexes/d"), "d")
    assert opened.search(QUERY) == local.open(built, "d").search(QUERY)


def test_an_opened_index_outlives_its_folder(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(built, folder)
    opened = local.open(folder, "d")
    expected = local.open(built, "d").search(QUERY)
    shutil.rmtree(folder)
    assert opened.search(QUERY) == expected
    assert opened.chunks([expected[0].chunk])


def test_opening_and_searching_write_nothing(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(built, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    local.open(folder, "d").search(replace(QUERY, groups=("staff",)))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_order_of_the_chunks_changes_no_result(built: Path, tmp_path: Path) -> None:
    local.build(tmp_path / "index", CHUNKS[::-1], VECTORS[::-1])
    assert local.open(tmp_path / "index", "d").search(QUERY) == local.open(built, "d").search(QUERY)


def test_chunks_from_a_file_and_mapped_vectors_make_the_same_index(built: Path, tmp_path: Path) -> None:
    (tmp_path / "chunks.jsonl").write_text("".join(json.dumps(asdict(chunk)) + "\n" for chunk in CHUNKS))
    chunks = Chunks(tmp_path / "chunks.jsonl")
    VECTORS[[CHUNKS.index(chunk) for chunk in chunks]].tofile(tmp_path / "vectors")
    local.build(tmp_path / "index", chunks, np.memmap(tmp_path / "vectors", np.float32, "r", shape=VECTORS.shape))
    for file in (local.IDS, local.VECTORS, local.CODES, local.CHUNKS, local.OFFSETS, local.FACETS, local.ROWS):
        assert (tmp_path / "index" / file).read_bytes() == (built / file).read_bytes(), file
    assert local.open(tmp_path / "index", "d").search(QUERY) == local.open(built, "d").search(QUERY)


def test_chunks_that_are_all_alike_are_indexed(tmp_path: Path) -> None:
    chunks = [replace(CHUNKS[0], id=f"{row:05d}") for row in range(2 * local.SAMPLE)]
    local.build(tmp_path / "index", chunks, np.repeat(VECTORS[:1], len(chunks), axis=0))
    assert len(dense(local.open(tmp_path / "index", "d").search(QUERY))) == QUERY.limit


def test_a_place_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IndexingError, match="can't write the index"):
        local.build(tmp_path / "file" / "index", CHUNKS, VECTORS)


def clustered(size: int) -> Vectors:
    """Vectors as embeddings lie: in clumps, of few directions."""
    draw = np.random.default_rng(3)
    centres = draw.normal(size=(40, 12)) @ draw.normal(size=(12, 64))
    return unit((centres[draw.integers(40, size=size)] + 0.7 * draw.normal(size=(size, 64))).astype(np.float32))


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_codes_and_exact_ranking_lose_no_neighbour(tmp_path: Path, share: float) -> None:
    vectors = clustered(5_000)
    some = int(5_000 * share)
    chunks = [Chunk(f"{row:05d}", "d", "", (), 0, 1, "text", ("in",) if row < some else ("out",)) for row in range(len(vectors))]
    local.build(tmp_path / "index", chunks, vectors)
    index = local.open(tmp_path / "index", "d")
    hits = 0
    for query in unit(vectors[:40] + np.float32(0.02)):
        cosines = vectors[:some] @ query
        found = dense(index.search(Query("", query, ("in",), 10)))
        tenth = float(np.sort(cosines)[-10])
        hits += sum(cosines[int(id)] > tenth - 5e-4 for id in found)  # fp16 may swap what is nearer than that
    assert hits / 400 >= 0.99


def test_building_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[int] = []
    local.Folders().build(tmp_path, "d", CHUNKS, VECTORS, told.append)
    assert told == list(range(1, len(CHUNKS) + 1))
