"""A corpus becomes vectors part by part: what is encoded, what is taken from an index, and what a kill costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ragstone import draft, embedder, encoding, indexing, project, store
from ragstone.config import Settings
from ragstone.corpus import Chunk
from ragstone.corpus.snapshot import chunks as read_chunks
from ragstone.corpus.views import views
from ragstone.draft import Draft, Progress
from ragstone.errors import IndexingError
from ragstone.index import local
from ragstone.show import Silence
from ragstone.store import Store
from tests import kills
from tests.many import many
from tests.test_project import Lines
from tests.tiny import tiny

WIDTH = 8
TOLD = Progress("an index", "a snapshot", "a model", 3000)
CHUNKS = [Chunk(f"{row:05d}", "a.md", "A", (), 0, 1, f"word{row} pump") for row in range(3000)]
SIZE = 1500


class Encoder:
    """A vector that says how long the first view is; counts what it was given."""

    def __init__(self) -> None:
        self.parts: list[int] = []

    def __call__(self, seen: Sequence[Sequence[str]], progress: Callable[[int], None]) -> list[encoding.Vector]:
        self.parts.append(len(seen))
        progress(sum(map(len, seen)))
        return [np.full(WIDTH, len(each[0]), np.float32) for each in seen]


class Bar:
    """What a bar was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int | None, str, float | None]] = []

    def __call__(
        self, done: int, total: int | None = None, note: str = "", left: float | None = None, figures: Mapping[str, float] | None = None
    ) -> None:
        self.told.append((done, total, note, left))


def test_every_chunk_gets_its_row_in_parts_that_grow(tmp_path: Path) -> None:
    made, encode, bar = Draft(tmp_path, WIDTH), Encoder(), Bar()
    assert encoding.fill(made, CHUNKS, encoding.Known(None), encode, TOLD, bar) == len(CHUNKS)
    assert made.vectors[:, 0].tolist() == [len(chunk.context) for chunk in CHUNKS]
    assert encode.parts == [encoding.FIRST, len(CHUNKS) - encoding.FIRST]


def test_the_bar_shows_the_pace_and_the_time_left(tmp_path: Path) -> None:
    bar = Bar()
    encoding.fill(Draft(tmp_path, WIDTH), CHUNKS, encoding.Known(None), Encoder(), TOLD, bar)
    assert [done for done, _, _, _ in bar.told] == sorted(done for done, _, _, _ in bar.told)
    done, total, note, left = bar.told[-1]
    assert (done, total, left) == (len(CHUNKS), len(CHUNKS), 0.0)
    assert note.endswith("docs/s")


def test_a_draft_is_gone_on_with_where_it_ends(tmp_path: Path) -> None:
    Draft(tmp_path, WIDTH).add(np.zeros((2900, WIDTH), np.float32))
    made, encode = Draft(tmp_path, WIDTH), Encoder()
    assert encoding.fill(made, CHUNKS, encoding.Known(None), encode, TOLD, Bar()) == 100
    assert encode.parts == [100]
    assert not made.vectors[:2900].any()
    assert made.vectors[2900:].all()


def test_what_an_index_knows_is_not_encoded(tmp_path: Path) -> None:
    vectors = np.random.default_rng(3).normal(size=(3000, WIDTH)).astype(np.float32)
    local.build(tmp_path / "index", CHUNKS[:2000], vectors[:2000])
    edited = replace(CHUNKS[7], title="Another title")
    chunks = [*CHUNKS[:7], edited, *CHUNKS[8:]]
    made, encode = Draft(tmp_path, WIDTH), Encoder()
    known = encoding.Known(local.open(tmp_path / "index", "d"))
    assert encoding.fill(made, chunks, known, encode, TOLD, Bar()) == 1001
    assert made.vectors[0] == pytest.approx(vectors[0] / np.linalg.norm(vectors[0]), abs=1e-3)
    assert made.vectors[7].tolist() == [len(edited.context)] * WIDTH


def test_the_known_vectors_are_asked_for_part_by_part_and_those_that_lack_are_counted(tmp_path: Path) -> None:
    local.build(tmp_path / "index", CHUNKS[:2000], np.ones((2000, WIDTH), np.float32))
    index, asked = local.open(tmp_path / "index", "d"), list[int]()

    class Asked(encoding.Known):
        def __call__(self, chunks: Sequence[Chunk]) -> Mapping[str, encoding.Vector]:
            asked.append(len(chunks))
            return super().__call__(chunks)

    vectors = encoding.ByRow(CHUNKS, Asked(index))
    found = [vectors(row) for row in range(len(CHUNKS))]
    assert [vector is not None for vector in found] == [True] * 2000 + [False] * 1000
    assert vectors.fresh == 1000
    assert asked == [encoding.FIRST, encoding.FIRST, len(CHUNKS) - 2 * encoding.FIRST]


def test_an_index_that_fails_is_asked_no_more_and_all_is_encoded(tmp_path: Path) -> None:
    local.build(tmp_path / "index", CHUNKS, np.ones((3000, WIDTH), np.float32))
    index = local.open(tmp_path / "index", "d")
    index.close()
    with pytest.raises(IndexingError):
        index.encoded(CHUNKS[:1])
    encode = Encoder()
    assert encoding.fill(Draft(tmp_path, WIDTH), CHUNKS, encoding.Known(index), encode, TOLD, Bar()) == 3000


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Settings, Store, str, str]:
    """A project of `SIZE` chunks and a model that is quick: its settings and store, the digests of its snapshot and its model."""
    settings = many(tmp_path, SIZE, tiny(tmp_path / "tiny"))
    at = store.connect(settings.store_url)
    project.stage(settings, at, Silence())
    return settings, at, project.snapshot(settings, at, Silence()), project.base(settings, at, Silence())


def indexed(settings: Settings, at: Store, snapshot: str, model: str) -> tuple[str, int]:
    """The digest of the index, and how many chunks were encoded for it."""
    said = Lines()
    digest = indexing.index(settings, at, snapshot, model, said)
    (told,) = [re.search(r"(\d+) of them encoded", line) for line in said.lines]
    assert told
    return digest, int(told[1])


def test_after_a_kill_only_what_was_not_kept_is_encoded(corpus: tuple[Settings, Store, str, str]) -> None:
    settings, at, snapshot, model = corpus
    chunks = read_chunks(at, snapshot)
    kills.index(settings, snapshot, model, "encode", encoding.FIRST + 200)
    (told,) = draft.progress(settings.work_folder)
    assert (told.snapshot, told.model, told.chunks, told.encoded, told.running) == (snapshot, model, len(chunks), encoding.FIRST, False)

    digest, encoded = indexed(settings, at, snapshot, model)
    assert encoded == len(chunks) - encoding.FIRST
    assert draft.progress(settings.work_folder) == []
    index = local.open(store.fetch(at, f"indexes/{digest}"), digest)
    some = [*chunks[:3], *chunks[-3:]]
    expected = embedder.Embedder(store.fetch(at, f"models/{model}")).passages([views(chunk) for chunk in some])
    assert np.stack([index.encoded(some)[chunk.id] for chunk in some]) == pytest.approx(expected, abs=1e-3)


def test_after_a_kill_while_the_index_is_built_nothing_is_encoded_again(corpus: tuple[Settings, Store, str, str]) -> None:
    settings, at, snapshot, model = corpus
    kills.index(settings, snapshot, model, "index")
    assert not list(at.list("indexes/"))
    assert indexed(settings, at, snapshot, model)[1] == 0
