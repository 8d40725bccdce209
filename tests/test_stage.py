"""A folder comes into the store by content: once, and again only where it changed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragstone.corpus import Failure
from ragstone.corpus.forgotten import Forgotten
from ragstone.corpus.stage import IN_MEMORY, Count, Listing, _copy, blob, latest, stage
from ragstone.errors import CorpusError
from ragstone.store import Store, connect

OLD = 1_000_000_000_000_000_000
"""A modification time in the past, in ns."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return connect(f"file://{tmp_path / 'store'}")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    write(folder / "a.md", "alpha")
    write(folder / "deep/er/b.txt", "beta")
    return folder


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything, so it steps down."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def listings(store: Store) -> list[str]:
    return [stat.key for stat in store.list("raw/listings/")]


def test_every_file_of_the_folder_is_in_the_store_by_its_content(store: Store, source: Path) -> None:
    listing = stage(store, source)
    assert list(listing.files) == ["a.md", "deep/er/b.txt"]
    for name, file in listing.files.items():
        assert store.get(blob(file.sha256)) == (source / name).read_bytes()
        assert hashlib.sha256((source / name).read_bytes()).hexdigest() == file.sha256
    assert listing.summary.copied == Count(2, 9)


def test_what_was_staged_can_be_read_again(store: Store, source: Path) -> None:
    assert latest(store) is None
    listing = stage(store, source)
    assert latest(store) == listing


def test_an_unchanged_folder_makes_no_new_listing_and_is_not_read(store: Store, source: Path) -> None:
    stage(store, source)
    again = stage(store, source)
    assert again.number == 1
    assert listings(store) == ["raw/listings/00000001.json"]
    assert (again.summary.read, again.summary.copied, again.summary.skipped) == (Count(), Count(), Count(2, 9))


def test_an_edit_is_found_and_only_it_is_read(store: Store, source: Path) -> None:
    before = stage(store, source)
    write(source / "a.md", "gamma")
    os.utime(source / "a.md", ns=(OLD, OLD))
    after = stage(store, source)
    assert after.number == 2
    assert after.files["a.md"] != before.files["a.md"]
    assert after.files["deep/er/b.txt"] == before.files["deep/er/b.txt"]
    assert after.summary.read == Count(1, 5)


def test_a_deletion_is_found_and_the_old_content_stays_for_old_snapshots(store: Store, source: Path) -> None:
    before = stage(store, source)
    (source / "a.md").unlink()
    after = stage(store, source)
    assert list(after.files) == ["deep/er/b.txt"]
    assert after.summary.deleted == Count(1, 5)
    assert store.get(blob(before.files["a.md"].sha256)) == b"alpha"


def test_without_delete_what_is_gone_from_the_folder_stays_staged(store: Store, source: Path) -> None:
    before = stage(store, source)
    (source / "a.md").unlink()
    (source / "new.md").write_text("new")
    after = stage(store, source, delete=False)
    assert sorted(after.files) == ["a.md", "deep/er/b.txt", "new.md"]
    assert after.files["a.md"] == before.files["a.md"]
    assert after.summary.deleted == Count()


def test_a_touched_file_is_read_but_not_copied(store: Store, source: Path) -> None:
    stage(store, source)
    os.utime(source / "a.md", ns=(OLD, OLD))
    summary = stage(store, source).summary
    assert (summary.read, summary.copied, summary.skipped) == (Count(1, 5), Count(), Count(2, 9))


def test_duplicates_are_copied_once_and_stay_two_files(store: Store, source: Path) -> None:
    write(source / "copy.md", "alpha")
    listing = stage(store, source)
    assert listing.files["copy.md"].sha256 == listing.files["a.md"].sha256
    assert len(list(store.list("raw/blobs/"))) == 2


def test_content_missing_from_the_store_is_copied_again(store: Store, source: Path) -> None:
    listing = stage(store, source)
    store.delete(blob(listing.files["a.md"].sha256))
    assert stage(store, source).summary.copied == Count(1, 5)
    assert store.get(blob(listing.files["a.md"].sha256)) == b"alpha"


def test_hidden_files_and_folders_are_skipped(store: Store, source: Path) -> None:
    for name in (".DS_Store", ".git/config", "deep/.cache/x.md"):
        write(source / name, "hidden")
    listing = stage(store, source)
    assert list(listing.files) == ["a.md", "deep/er/b.txt"]
    assert listing.failures == ()


def test_a_large_file_is_streamed(store: Store, source: Path) -> None:
    size = 200 << 20
    with (source / "large.txt").open("wb") as file:
        file.truncate(size)
    assert size > IN_MEMORY
    listing = stage(store, source)
    digest = listing.files["large.txt"].sha256
    stat = store.stat(blob(digest))
    assert stat is not None
    assert stat.size == size
    with store.open(blob(digest)) as copy:
        assert hashlib.file_digest(copy, "sha256").hexdigest() == digest  # type: ignore[arg-type]  # a BinaryIO is what it takes


def test_a_link_out_of_the_folder_is_not_followed_and_is_reported(store: Store, source: Path, tmp_path: Path) -> None:
    secret = write(tmp_path / "elsewhere/secret.md", "secret")
    (source / "escape.md").symlink_to(secret)
    (source / "folder").symlink_to(secret.parent)
    listing = stage(store, source)
    assert list(listing.files) == ["a.md", "deep/er/b.txt"]
    assert [failure.path for failure in listing.failures] == ["escape.md", "folder"]
    assert all("outside the source folder" in failure.reason for failure in listing.failures)
    assert latest(store) == listing


def test_a_link_inside_the_folder_is_a_file_of_its_own(store: Store, source: Path) -> None:
    (source / "link.md").symlink_to("a.md")
    (source / "again").symlink_to("deep")  # what is in there is staged under `deep`
    listing = stage(store, source)
    assert list(listing.files) == ["a.md", "deep/er/b.txt", "link.md"]
    assert listing.failures == ()


def test_a_link_to_what_is_hidden_stays_hidden(store: Store, source: Path) -> None:
    write(source / ".env", "PASSWORD=x")
    (source / "env.txt").symlink_to(".env")
    assert "env.txt" not in stage(store, source).files


def test_broken_links_loops_and_pipes_are_reported(store: Store, source: Path) -> None:
    (source / "broken.md").symlink_to("gone.md")
    (source / "loop.md").symlink_to("loop.md")
    os.mkfifo(source / "pipe.md")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(source / "socket.md"))
    failures = stage(store, source).failures
    assert [failure.path for failure in failures] == ["broken.md", "loop.md", "pipe.md", "socket.md"]


def test_unreadable_files_and_folders_are_reported() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not below tmp_path, which nobody but its owner may enter
        store, source = connect(f"file://{folder}/store"), Path(folder, "docs")
        write(source / "a.md", "alpha").chmod(0)
        write(source / "deep/er/b.txt", "beta")
        (source / "deep").chmod(0)
        Path(folder).chmod(0o777)
        with as_nobody():
            listing = stage(store, source)
        (source / "deep").chmod(0o700)
    assert listing.files == {}
    assert [failure.reason for failure in listing.failures] == ["can't be read: Permission denied", "can't be listed: Permission denied"]
    assert [failure.path for failure in listing.failures] == ["a.md", "deep"]


def test_a_link_put_in_a_files_place_before_it_is_opened_is_not_followed(store: Store, source: Path, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.md", "secret")
    (source / "swapped.md").symlink_to(secret)
    name, outcome, _ = _copy(store, {}, Forgotten(), "swapped.md", source / "swapped.md")
    assert outcome == Failure(name, "can't be read: Too many levels of symbolic links")


def test_a_name_that_is_not_utf8_is_reported(store: Store, source: Path) -> None:
    os.close(os.open(os.fsencode(source) + b"/caf\xe9.md", os.O_CREAT))
    assert stage(store, source).failures == (Failure("caf�.md", "its name is not UTF-8; rename it"),)


def test_a_path_outside_the_root_in_a_listing_is_an_error(store: Store) -> None:
    entry = {"sha256": "0" * 64, "size": 0, "mtime_ns": 0}
    for number, name in enumerate(("../etc/passwd", "/etc/passwd", "a/../../b", ""), 1):
        store.create(f"raw/listings/{number:08d}.json", json.dumps({"at": 0, "files": {name: entry}, "failures": []}).encode())
        with pytest.raises(CorpusError, match="not a path below"):
            latest(store)


def test_a_source_that_is_no_folder_is_an_error_that_names_it(store: Store, source: Path) -> None:
    with pytest.raises(CorpusError, match=r"gone is not there"):
        stage(store, source / "gone")
    with pytest.raises(CorpusError, match=r"a\.md is a file, not a folder"):
        stage(store, source / "a.md")


def test_a_store_inside_the_source_is_an_error_unless_it_is_hidden(source: Path) -> None:
    with pytest.raises(CorpusError, match="stage itself"):
        stage(connect(f"file://{source / 'store'}"), source)
    assert list(stage(connect(f"file://{source / '.store'}"), source).files) == ["a.md", "deep/er/b.txt"]


def test_an_empty_folder_is_an_empty_listing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    assert stage(store, tmp_path / "docs") == Listing(1, {})


def test_progress_ends_at_all_bytes(store: Store, source: Path) -> None:
    steps: list[tuple[int, int]] = []
    stage(store, source, lambda done, total: steps.append((done, total)))
    assert steps == [(5, 9), (9, 9)]


def test_two_runs_at_once_both_end_with_the_folder_staged(store: Store, source: Path) -> None:
    program = staging(store, source)
    runs = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    listing = latest(store)
    assert listing is not None
    assert list(listing.files) == ["a.md", "deep/er/b.txt"]
    assert stage(store, source).number == listing.number


def test_a_killed_run_leaves_no_listing_and_the_next_copies_only_the_rest(store: Store, source: Path) -> None:
    for number in range(300):
        write(source / f"many/{number}.txt", f"number {number}")
    stopping = staging(store, source, "print(flush=True) or sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", stopping], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()  # one file is copied, and the run waits; its threads may be some files ahead
        run.kill()
    assert run.returncode == -signal.SIGKILL
    assert latest(store) is None
    kept = len(list(store.list("raw/blobs/")))
    assert kept > 0
    summary = stage(store, source).summary
    assert (summary.read.files, summary.copied.files, summary.skipped.files) == (302, 302 - kept, kept)


def staging(store: Store, source: Path, step: str = "None") -> str:
    """A program that stages the folder, and does `step` after each file."""
    return (
        "import sys; from ragstone.corpus.stage import stage; from ragstone.store import connect; "
        f"stage(connect({store.url!r}), {str(source)!r}, lambda done, total: {step})"
    )
