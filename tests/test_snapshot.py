"""A listing becomes a snapshot: under a digest known beforehand, whole, and with every failure named."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from ragstone.config import Corpus, GroupRule
from ragstone.corpus import Snapshot
from ragstone.corpus.snapshot import Chunks, Size, build, chunks, load, prefix, size
from ragstone.corpus.stage import stage
from ragstone.errors import CorpusError, NotFound
from ragstone.store import Store, connect, published
from tests import office

SETTINGS = Corpus()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return connect(f"file://{tmp_path / 'store'}")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    write(folder, "pump.md", "# Pump\n\nOpen the valve.\n")
    write(folder, "hr/pay.txt", "Pay day is Friday.")
    return folder


def write(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def made(store: Store, source: Path, settings: Corpus = SETTINGS) -> Snapshot:
    return load(store, build(store, stage(store, source), settings))


def test_every_document_is_there_with_its_chunks(store: Store, source: Path) -> None:
    snapshot = made(store, source)
    assert [document.id for document in snapshot.documents] == ["hr/pay.txt", "pump.md"]
    pump = snapshot.documents[1]
    assert (pump.title, pump.groups, dict(pump.metadata)) == ("Pump", ("public",), {"path": "pump.md", "type": "md"})
    texts = {document.id: document.text for document in snapshot.documents}
    assert len(snapshot.chunks) == 2
    for chunk in snapshot.chunks:
        assert chunk.text == texts[chunk.document][chunk.start : chunk.end]
    assert snapshot.chunks[1].path == ("Pump",)


def test_a_document_without_a_title_goes_by_its_name(store: Store, source: Path) -> None:
    write(source, "hr/pay copy.txt", "Pay day is Friday.")
    assert [document.title for document in made(store, source).documents] == ["pay copy", "pay", "Pump"]


def test_duplicates_stay_documents_of_their_own(store: Store, source: Path) -> None:
    write(source, "a/same.md", "# Pump\n\nOpen the valve.\n")
    snapshot = made(store, source)
    assert [document.id for document in snapshot.documents] == ["a/same.md", "hr/pay.txt", "pump.md"]
    assert len({chunk.id for chunk in snapshot.chunks}) == 3


def test_the_digest_does_not_depend_on_time_or_place(store: Store, source: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, "hr/pay.txt", "Pay day is Friday.")
    write(elsewhere, "pump.md", "# Pump\n\nOpen the valve.\n")
    other = connect(f"file://{tmp_path / 'other'}")
    assert build(other, stage(other, elsewhere), SETTINGS) == build(store, stage(store, source), SETTINGS)


@pytest.mark.parametrize("change", [{"chunk_words": 50}, {"groups": (GroupRule("hr/*", ("hr",)),)}, {"max_mb": 1.0}])
def test_a_setting_that_changes_chunks_changes_the_digest(store: Store, source: Path, change: dict[str, object]) -> None:
    listing = stage(store, source)
    assert build(store, listing, SETTINGS) != build(store, listing, replace(SETTINGS, **change))  # type: ignore[arg-type]


def test_an_existing_snapshot_is_found_without_parsing(store: Store, source: Path) -> None:
    listing = stage(store, source)
    digest = build(store, listing, SETTINGS)
    for stat in list(store.list("raw/blobs/")):
        store.delete(stat.key)  # so that parsing would fail
    steps: list[tuple[int, int, str]] = []
    assert build(store, listing, SETTINGS, lambda *at: steps.append(at)) == digest
    assert steps == []


def test_only_changed_files_are_parsed(store: Store, source: Path) -> None:
    write(source, "manual.docx", office.docx((1, "Manual"), (0, "Turn the key.")))
    before = made(store, source)
    write(source, "pump.md", "# Pump\n\nClose the valve.\n")
    kept = next(document for document in before.documents if document.id == "manual.docx")
    (parsed,) = [stat.key for stat in store.list("parsed/")]
    assert kept.digest in parsed
    store.put(parsed, store.get(parsed).replace(b"Turn", b"Push"))  # what is kept is what is used
    after = {document.id: document.text for document in made(store, source).documents}
    assert "Push the key." in after["manual.docx"]
    assert "Close the valve." in after["pump.md"]


def test_the_last_rule_that_matches_gives_the_groups(store: Store, source: Path) -> None:
    rules = (GroupRule("*", ("staff",)), GroupRule("hr/*", ("hr", "board")))
    snapshot = made(store, source, replace(SETTINGS, groups=rules))
    assert {document.id: document.groups for document in snapshot.documents} == {"hr/pay.txt": ("hr", "board"), "pump.md": ("staff",)}
    assert {chunk.document: chunk.groups for chunk in snapshot.chunks} == {"hr/pay.txt": ("hr", "board"), "pump.md": ("staff",)}


BAD = {
    "broken.pdf": (b"%PDF-1.4 nothing", "not a readable PDF"),
    "empty.txt": (b"", "holds no words"),
    "cut.docx": (office.docx((0, "Turn the key."))[:200], "is damaged"),
    "photo.png": (b"\x89PNG", "no parser for .png"),
    "large.txt": (b"word " * 40_000, "more than corpus.max_mb"),
}


def test_each_file_is_told_when_its_turn_comes_and_each_failure_at_once(store: Store, source: Path) -> None:
    (source / "a.pdf").write_bytes(b"no PDF")
    (source / "b.md").write_text("# B\n\nText.")
    told: list[object] = []
    build(store, stage(store, source), Corpus(), lambda *at: told.append(at), lambda failure: told.append(failure.path))
    total = len([one for one in told if isinstance(one, tuple)]) - 1
    assert told[:3] == [(0, total, "a.pdf"), "a.pdf", (1, total, "b.md")]
    assert told[-1] == (total, total, "")


def test_a_file_that_cannot_be_parsed_is_named_with_its_reason_and_skipped(store: Store, source: Path) -> None:
    for name, (data, _) in BAD.items():
        write(source, name, data)
    snapshot = made(store, source, replace(SETTINGS, max_mb=0.1))
    assert [document.id for document in snapshot.documents] == ["hr/pay.txt", "pump.md"]
    reasons = {failure.path: failure.reason for failure in snapshot.failures}
    assert list(reasons) == sorted(BAD)
    for name, (_, reason) in BAD.items():
        assert reason in reasons[name]


def test_a_200_mb_file_is_reported_and_not_parsed(store: Store, source: Path) -> None:
    with (source / "large.txt").open("wb") as file:
        file.truncate(200_000_000)
    (failure,) = made(store, source).failures
    assert (failure.path, failure.reason) == ("large.txt", "is 200 MB, more than corpus.max_mb = 64")


def test_a_file_with_invalid_utf8_is_a_document_that_says_so(store: Store, source: Path) -> None:
    write(source, "old.txt", "Öl prüfen".encode("cp1252"))
    document = next(document for document in made(store, source).documents if document.id == "old.txt")
    assert (document.text, document.metadata["encoding"]) == ("Öl prüfen", "windows-1252")


def test_what_could_not_be_staged_is_among_the_failures(store: Store, source: Path, tmp_path: Path) -> None:
    write(tmp_path, "secret.md", "secret")
    (source / "escape.md").symlink_to(tmp_path / "secret.md")
    assert [failure.path for failure in made(store, source).failures] == ["escape.md"]


def test_strict_makes_a_failure_fatal_and_names_the_file(store: Store, source: Path) -> None:
    strict = replace(SETTINGS, strict=True)
    build(store, stage(store, source), strict)
    write(source, "broken.pdf", b"%PDF-1.4 nothing")
    for _ in range(2):  # also when the snapshot is there already
        with pytest.raises(CorpusError, match=r"broken\.pdf: is not a readable PDF"):
            build(store, stage(store, source), strict)


def test_an_empty_folder_is_an_error_that_says_what_to_do(store: Store, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    with pytest.raises(CorpusError, match=r"(?s)is empty.*put documents into it \(csv, docx"):
        build(store, stage(store, tmp_path / "docs"), SETTINGS)


def test_a_folder_of_unreadable_files_is_an_error_that_names_them(store: Store, tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / "docs", f"{number:02d}.png", b"\x89PNG")
    with pytest.raises(CorpusError, match=r"(?s)12 \.png.*00\.png: no parser.*and 2 more.*add files of these kinds") as caught:
        build(store, stage(store, tmp_path / "docs"), SETTINGS)
    assert len(str(caught.value).splitlines()) < 15
    assert list(store.list("corpora/")) == []


def test_a_folder_of_links_that_lead_out_is_an_error_that_names_them(store: Store, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/escape.md").symlink_to("/etc/hostname")
    with pytest.raises(CorpusError, match=r"(?s)none that can be read.*escape\.md: a link to /etc/hostname"):
        build(store, stage(store, tmp_path / "docs"), SETTINGS)


def test_a_damaged_copy_in_the_store_is_reported(store: Store, source: Path) -> None:
    listing = stage(store, source)
    store.put(f"raw/blobs/{listing.files['pump.md'].sha256}", b"# Pump\n\nBroken valve.\n")
    (failure,) = load(store, build(store, listing, SETTINGS)).failures
    assert "damaged" in failure.reason


def test_half_a_snapshot_is_not_there(store: Store, source: Path) -> None:
    listing = stage(store, source)
    digest = build(store, listing, SETTINGS)
    store.delete(f"{prefix(digest)}/manifest.json")  # as if killed before the last step
    assert not published(store, prefix(digest))
    with pytest.raises(NotFound):
        load(store, digest)
    assert build(store, listing, SETTINGS) == digest
    assert len(load(store, digest).documents) == 2


def test_progress_counts_files(store: Store, source: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    build(store, stage(store, source), SETTINGS, lambda *at: steps.append(at))
    assert steps == [(0, 2, "hr/pay.txt"), (1, 2, "pump.md"), (2, 2, "")]


def test_chunks_are_read_one_by_one_in_the_order_of_their_ids(store: Store, source: Path) -> None:
    for number in range(5):
        write(source, f"{number}.md", f"# Part {number}\n\nTurn it.\n")
    snapshot = made(store, source)
    whole, read = snapshot.chunks, chunks(store, snapshot.digest)
    assert list(read) == sorted(whole, key=lambda chunk: chunk.id)
    assert [id.decode() for id in read.ids] == [chunk.id for chunk in read]
    assert read[1:3] == list(read)[1:3]
    assert read[-1] == list(read)[-1]
    with pytest.raises(IndexError):
        read[len(whole)]


def test_a_sample_is_all_of_a_small_snapshot_as_it_stands_and_a_fixed_draw_of_a_large_one(store: Store, source: Path) -> None:
    for number in range(9):
        write(source, f"{number}.md", f"# Part {number}\n\nTurn it.\n")
    snapshot = made(store, source)
    read = chunks(store, snapshot.digest)
    assert read.sample(100) == list(snapshot.chunks)
    drawn = read.sample(4)
    assert {chunk.id for chunk in drawn} == {chunk.id for chunk in read[:4]}
    assert drawn == [chunk for chunk in snapshot.chunks if chunk in drawn]


def test_the_size_of_a_snapshot_is_that_of_what_it_holds(store: Store, source: Path) -> None:
    write(source, "broken.pdf", b"%PDF-1.4 nothing")
    snapshot = made(store, source)
    assert snapshot.failures
    assert size(store, snapshot.digest) == Size(len(snapshot.documents), len(snapshot.chunks), snapshot.failures)


def test_a_file_without_chunks_has_none(tmp_path: Path) -> None:
    (tmp_path / "chunks.jsonl").touch()
    assert list(Chunks(tmp_path / "chunks.jsonl")) == []


def test_documents_do_not_wait_for_each_other_in_memory_while_a_snapshot_is_made(store: Store, tmp_path: Path) -> None:
    size = 20_000
    for number in range(100):
        write(tmp_path / "docs", f"{number}.txt", f"Valve {number}. " + "Turn it by a degree. " * (size // 21))
    listing, held = stage(store, tmp_path / "docs"), list[int]()

    def look(done: int, total: int, path: str) -> None:
        if done % 20 == 3:
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        build(store, listing, SETTINGS, look)
    finally:
        tracemalloc.stop()
    assert held[-1] < held[0] + 20 * size, "80 documents later"
