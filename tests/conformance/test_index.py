"""What every index does. A new connector adds one line to `CONNECTORS`.

The corpus is drawn from a seed: chunks with words of a small vocabulary and random unit vectors, so that every expected list can
be computed here, by brute force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from ragstone import config
from ragstone.corpus import Chunk
from ragstone.embedder import Vectors
from ragstone.errors import IndexingError
from ragstone.index import Candidate, Index, Query, elasticsearch, local, opensearch
from tests import elastic_node, engines


def _local(folder: Path, chunks: Sequence[Chunk], vectors: Vectors) -> Index:
    local.build(folder / "index", chunks, vectors)
    return local.open(folder / "index", "a digest")


def _opensearch(folder: Path, chunks: Sequence[Chunk], vectors: Vectors) -> Index:
    place = opensearch.connect(config.Index(url=engines.url(f"test-{uuid4().hex}")))
    place.build(folder / "index", "a digest", chunks, vectors)
    return place.open(folder / "index", "a digest")


def _elasticsearch(folder: Path, chunks: Sequence[Chunk], vectors: Vectors) -> Index:
    place = elasticsearch.connect(config.Index(url=elastic_node.url(f"test-{uuid4().hex}")))
    place.build(folder / "index", "a digest", chunks, vectors)
    return place.open(folder / "index", "a digest")


CONNECTORS: dict[str, Callable[[Path, Sequence[Chunk], Vectors], Index]] = {
    "local": _local,
    "opensearch": _opensearch,
    "elasticsearch": _elasticsearch,
}
"""Scheme -> an opened index of these chunks, given an empty folder."""

SIZE, WIDTH = 300, 48
WORDS = "pump valve boiler seal torque flange gasket rotor stator bearing manifold piston".split()  # noqa: SIM905
STAFF, PUBLIC = ("staff",), ("public",)
ALL = ("public", "staff")


def unit(vectors: Vectors) -> Vectors:
    lengths: Vectors = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


def corpus() -> tuple[list[Chunk], Vectors]:
    """A tenth of the chunks is for staff only, a third in German, each document has three chunks."""
    draw = np.random.default_rng(5)
    chunks = [
        Chunk(
            id=f"{(row * 7919) % 10007:05d}",
            document=f"{row // 3}.md",
            title=f"Machine {row // 3}",
            path=("Care",),
            start=0,
            end=10,
            text=" ".join(draw.choice(WORDS, size=12)) + f" serial{row}",
            groups=STAFF if row % 10 == 0 else PUBLIC,
            metadata={"path": f"{row // 3}.md", "language": "de" if row % 3 == 0 else "en"},
        )
        for row in range(SIZE)
    ]
    return chunks, unit(draw.normal(size=(SIZE, WIDTH)).astype(np.float32))


CHUNKS, VECTORS = corpus()
ROWS = {chunk.id: row for row, chunk in enumerate(CHUNKS)}
VECTOR: Vectors = unit(VECTORS[17] + 0.5 * VECTORS[40])
QUERY = Query("Which gasket does the rotor need?", VECTOR, ALL, 20)


@pytest.fixture(params=CONNECTORS, scope="module")
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with closing(CONNECTORS[request.param](tmp_path_factory.mktemp("index"), CHUNKS, VECTORS)) as opened:
        yield opened


@pytest.fixture(params=CONNECTORS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Sequence[Chunk], Vectors], Index]:
    return lambda chunks, vectors: CONNECTORS[request.param](tmp_path, chunks, vectors)


def dense(found: Sequence[Candidate]) -> list[str]:
    return [one.chunk for one in sorted(found, key=lambda one: -one.dense) if one.in_dense]


def keyword(found: Sequence[Candidate]) -> list[str]:
    return [one.chunk for one in sorted(found, key=lambda one: -one.keyword) if one.in_keyword]


def is_nearest(found: Sequence[Candidate], limit: int, allowed: Callable[[Chunk], bool] = lambda chunk: True) -> bool:
    """Whether the dense list is that of exact search among the allowed chunks; an index may round, so near ties may swap."""
    cosines = VECTORS @ VECTOR
    expected = sorted((float(cosines[row]) for row, chunk in enumerate(CHUNKS) if allowed(chunk)), reverse=True)[:limit]
    rows = [ROWS[id] for id in dense(found)]
    return all(allowed(CHUNKS[row]) for row in rows) and [float(cosines[row]) for row in rows] == pytest.approx(expected, abs=1e-3)


def test_it_knows_its_digest_and_size(index: Index) -> None:
    assert (index.digest, len(index)) == ("a digest", SIZE)


def test_the_dense_list_is_that_of_exact_search(index: Index) -> None:
    assert is_nearest(index.search(QUERY), 20)


def test_every_candidate_carries_its_exact_cosine(index: Index) -> None:
    found = index.search(QUERY)
    assert any(not one.in_dense for one in found)
    for one in found:
        assert one.dense == pytest.approx(float(VECTORS[ROWS[one.chunk]] @ VECTOR), abs=1e-3)


def test_the_keyword_list_holds_the_words_that_were_asked_for(index: Index) -> None:
    best = keyword(index.search(QUERY))
    assert len(best) == 20
    assert all({"gasket", "rotor"} & set(CHUNKS[ROWS[id]].text.split()) for id in best)


def test_every_candidate_with_a_word_of_the_question_carries_its_bm25(index: Index) -> None:
    wide = {one.chunk: one.keyword for one in index.search(replace(QUERY, limit=SIZE))}
    for one in index.search(QUERY):
        assert one.keyword == pytest.approx(wide[one.chunk], rel=1e-5)
        assert (one.keyword > 0) == bool({"gasket", "rotor"} & set(CHUNKS[ROWS[one.chunk]].text.split()))


def test_a_rare_word_finds_its_chunk_first(index: Index) -> None:
    found = index.search(replace(QUERY, text="rotor serial123"))
    assert keyword(found)[0] == CHUNKS[123].id


def test_words_match_by_their_stem_whatever_their_case(index: Index) -> None:
    plain, varied = (index.search(replace(QUERY, text=text)) for text in ("gasket rotor", "GASKETS, rotors!"))
    assert keyword(plain) == keyword(varied)


def test_titles_and_headings_are_searched(index: Index) -> None:
    assert {CHUNKS[ROWS[id]].document for id in keyword(index.search(replace(QUERY, text="machine 42")))[:3]} == {"42.md"}


def test_each_list_is_as_long_as_asked(index: Index) -> None:
    for limit in (1, 7, 100):
        found = index.search(replace(QUERY, limit=limit))
        assert len(dense(found)) == limit
        assert len(keyword(found)) == limit
        assert len({one.chunk for one in found}) == len(found)


def test_a_limit_beyond_the_corpus_finds_all(index: Index) -> None:
    assert len(dense(index.search(replace(QUERY, limit=10_000)))) == SIZE


def test_a_caller_sees_only_chunks_that_share_a_group(index: Index) -> None:
    for groups in (PUBLIC, STAFF):
        found = index.search(replace(QUERY, groups=groups))
        assert {CHUNKS[ROWS[one.chunk]].groups for one in found} == {groups}


def test_a_filtered_search_still_fills_both_lists(index: Index) -> None:
    found = index.search(replace(QUERY, groups=STAFF, limit=12))
    assert is_nearest(found, 12, lambda chunk: chunk.groups == STAFF)
    assert len(keyword(found)) == 12


def test_a_filter_on_metadata_must_match_exactly(index: Index) -> None:
    found = index.search(replace(QUERY, filter={"language": "de"}))
    assert is_nearest(found, 20, lambda chunk: chunk.metadata["language"] == "de")
    assert {CHUNKS[ROWS[one.chunk]].metadata["language"] for one in found} == {"de"}
    assert index.search(replace(QUERY, filter={"language": "d"})) == []


def test_filters_on_groups_and_several_fields_all_hold(index: Index) -> None:
    found = index.search(replace(QUERY, groups=PUBLIC, filter={"language": "de", "path": "1.md"}))
    assert [CHUNKS[ROWS[one.chunk]].text.split()[-1] for one in found] == ["serial3"]


@pytest.mark.parametrize("change", [{"groups": ()}, {"groups": ("none",)}, {"filter": {"no such field": "x"}}, {"filter": {"path": "404"}}])
def test_what_matches_nothing_finds_nothing(index: Index, change: dict[str, object]) -> None:
    assert index.search(replace(QUERY, **change)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "???", "what is the", "zyzzyva", 'text:"unclosed AND (', "\0", "漢字", "gasket " * 20_000])
def test_any_text_can_be_searched(index: Index, text: str) -> None:
    found = index.search(replace(QUERY, text=text))
    assert is_nearest(found, 20)
    assert bool(keyword(found)) == ("gasket" in text)


def test_a_pasted_page_of_words_is_searched(index: Index) -> None:
    page = " ".join(f"word{number}" for number in range(5_000)) + " gasket gasket"
    assert keyword(index.search(replace(QUERY, text=page)))


def test_chunks_come_back_as_they_went_in_and_in_the_order_asked(index: Index) -> None:
    some = [CHUNKS[5], CHUNKS[250], CHUNKS[6]]
    assert index.chunks([chunk.id for chunk in some]) == some
    assert index.chunks([]) == []


@pytest.mark.parametrize("id", ["nobody", "", "\x7f", CHUNKS[0].id[:-1]])
def test_an_unknown_chunk_is_an_error_that_names_it(index: Index, id: str) -> None:
    with pytest.raises(IndexingError, match="has no chunk"):
        index.chunks([CHUNKS[0].id, id])


def test_searches_from_several_threads_do_not_disturb_each_other(index: Index) -> None:
    callers = [ALL, PUBLIC, STAFF] * 4
    queries = [replace(QUERY, text=word, groups=callers[row], vector=VECTORS[row]) for row, word in enumerate(WORDS)]
    expected = [index.search(query) for query in queries]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(index.search, queries * 4)) == expected * 4


def test_an_index_of_one_chunk_answers(make: Callable[[Sequence[Chunk], Vectors], Index]) -> None:
    with closing(make(CHUNKS[:1], VECTORS[:1])) as index:
        (found,) = index.search(replace(QUERY, text=CHUNKS[0].text))
    assert found.chunk == CHUNKS[0].id
    assert found.in_dense
    assert found.in_keyword


@pytest.mark.parametrize(
    ("question", "found"),
    [("离心泵", "zh"), ("泵的密封件多久更换？", "zh"), ("ポンプ", "ja"), ("펌프", "ko"), ("Python语言", "mixed"), ("密度", "")],
)
def test_writing_without_spaces_is_searched_by_pairs_of_characters(
    make: Callable[[Sequence[Chunk], Vectors], Index], question: str, found: str
) -> None:
    texts = {"zh": "离心泵的密封件每四年更换。", "ja": "ポンプのシール", "ko": "원심펌프를 점검한다", "mixed": "用Python语言编写"}
    chunks = [Chunk(id, id, "", (), 0, len(text), text) for id, text in texts.items()]
    with closing(make(chunks, VECTORS[:4])) as index:
        hits = index.search(Query(question, VECTORS[0], PUBLIC))
        best = max(hits, key=lambda hit: hit.keyword)
        assert (best.chunk if best.keyword else "") == found


def test_dimensions_of_any_number_are_taken(make: Callable[[Sequence[Chunk], Vectors], Index]) -> None:
    narrow = unit(VECTORS[:, :13])
    with closing(make(CHUNKS, narrow)) as index:
        assert dense(index.search(replace(QUERY, vector=narrow[9])))[0] == CHUNKS[9].id


def test_values_that_look_like_another_field_do_not_match_it(make: Callable[[Sequence[Chunk], Vectors], Index]) -> None:
    odd = [
        replace(CHUNKS[0], groups=("a",), metadata={"group": "b", "k=v": "w", "long": "x" * 300}),
        replace(CHUNKS[1], groups=("b",), metadata={"k": "v=w", "quote": '"]'}),
    ]
    with closing(make(odd, VECTORS[:2])) as index:
        asked: dict[str, dict[str, str]] = {odd[0].id: {"k=v": "w"}, odd[1].id: {"k": "v=w"}}
        for id, wanted in asked.items():
            assert [one.chunk for one in index.search(replace(QUERY, groups=("a", "b"), filter=wanted))] == [id]
        assert [one.chunk for one in index.search(replace(QUERY, groups=("b",)))] == [odd[1].id]
        assert [one.chunk for one in index.search(replace(QUERY, groups=("a",), filter={"long": "x" * 300}))] == [odd[0].id]
        assert index.search(replace(QUERY, groups=("a",), filter={"long": "x" * 299})) == []


def test_a_closed_index_says_so(make: Callable[[Sequence[Chunk], Vectors], Index]) -> None:
    index = make(CHUNKS, VECTORS)
    index.close()
    index.close()
    with pytest.raises(IndexingError, match="is closed"):
        index.search(QUERY)


def broken(row: int, value: float) -> Vectors:
    vectors = VECTORS.copy()
    vectors[row, 3] = value
    return vectors


@pytest.mark.parametrize(
    ("chunks", "vectors", "words"),
    [
        ([], VECTORS[:0], "no chunks"),
        (CHUNKS, VECTORS[:-1], "300 chunks need as many vectors"),
        (CHUNKS, broken(7, float("nan")), CHUNKS[7].id),
        (CHUNKS, broken(8, float("inf")), CHUNKS[8].id),
        ([*CHUNKS[:9], CHUNKS[0]], VECTORS[:10], "there twice"),
    ],
    ids=["no chunks", "too few vectors", "not a number", "infinite", "one id twice"],
)
def test_what_can_not_be_indexed_is_refused(
    make: Callable[[Sequence[Chunk], Vectors], Index], chunks: list[Chunk], vectors: Vectors, words: str
) -> None:
    with pytest.raises(IndexingError, match=words):
        make(chunks, vectors)
