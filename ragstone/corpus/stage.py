"""Staging: a folder's files into the store, by content. Knows nothing of parsing.

`raw/blobs/<sha256>` holds the bytes; numbered listings, each created once, say which path had which content. The highest number
is current. A run that was killed leaves blobs that the next run finds, and no listing. Blobs of deleted files stay: older
snapshots rest on them.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat as modes
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from ragstone.corpus import Failure, forgotten
from ragstone.corpus.forgotten import Forgotten
from ragstone.errors import Conflict, CorpusError
from ragstone.store import Store

Progress = Callable[[int, int], None]
"""Called with how many bytes are done and how many there are in all."""

BLOBS = "raw/blobs/"
LISTINGS = "raw/listings/"
IN_MEMORY = 8 << 20
"""A larger file is hashed into a temporary copy instead of memory: what is stored is then exactly what was hashed."""

THREADS = 8
"""Files copied at a time: a store spends most of a small one waiting for the disk or the network."""


@dataclass(frozen=True)
class File:
    """One staged file: the digest of its content, and the size and time by which the next run sees that it is unchanged."""

    sha256: str
    size: int
    mtime_ns: int


Found = tuple[Path, os.stat_result]
"""Where a file's bytes are, and what the folder said of them."""


@dataclass(frozen=True)
class Count:
    """So many files, so many bytes.

    >>> str(Count(2, 3_500_000))
    '2 files (3.5 MB)'
    """

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.files + other.files, self.bytes + other.bytes)

    def __str__(self) -> str:
        return f"{self.files} file{'' if self.files == 1 else 's'} ({self.bytes / 1e6:.1f} MB)"


@dataclass(frozen=True)
class Summary:
    """What a run did. Every file is either copied or skipped (its content was in the store); `read` were opened to find that out."""

    copied: Count = Count()
    skipped: Count = Count()
    deleted: Count = Count()
    read: Count = Count()


@dataclass(frozen=True)
class Listing:
    """What a folder held when it was staged: its files by relative path, and what could not be staged."""

    number: int
    files: Mapping[str, File]
    failures: tuple[Failure, ...] = ()
    at: float = field(default=0.0, compare=False)
    summary: Summary = field(default=Summary(), compare=False)
    """What the run that returned this listing did; not stored."""


Outcome = tuple[str, File | Failure, Summary]
"""A file's name, what became of it, and what that took."""


def stage(store: Store, source: Path | str, progress: Progress | None = None, *, delete: bool = True) -> Listing:
    """The listing of `source` as it is now, with every file's content in the store. Without `delete` it keeps what is gone from `source`.

    A file of the same size and modification time as in the last listing is not read again; an unchanged folder makes no new
    listing. Hidden files are skipped; what can't be read, and links that leave the folder, are in the listing's `failures`.
    Raises `CorpusError` when `source` is no folder.
    """
    root = _root(store, source)
    before = latest(store)
    known = before.files if before else {}
    stored = {stat.key: stat.size for stat in store.list(BLOBS)}  # one listing instead of a question per file
    found, failures = _walk(root)
    unwanted = forgotten.of(store)
    failures += [why for name in sorted(found) if (why := unwanted.why(name))]
    found = {name: file for name, file in found.items() if name not in unwanted.paths}
    total = sum(status.st_size for _, status in found.values())
    gone = {name: known[name] for name in known.keys() - found.keys()}
    summary = Summary(deleted=_count(gone.values())) if delete else Summary()
    done = 0
    files: dict[str, File] = {} if delete else gone
    for name, outcome, step in _files(store, stored, unwanted, known, found):
        if isinstance(outcome, File):
            files[name] = outcome
        else:
            failures.append(outcome)
        summary = _add(summary, step)
        done += found[name][1].st_size
        if progress:
            progress(done, total)
    return _save(store, Listing(0, files, tuple(sorted(failures, key=lambda failure: failure.path)), time.time(), summary))


def drop(store: Store, paths: Iterable[str]) -> Listing:
    """The listing without these paths. Raises `CorpusError` when nothing else is staged."""
    gone, now = {*paths}, latest(store)
    left = {name: file for name, file in now.files.items() if name not in gone} if now else {}
    if not now or not left:
        raise CorpusError(f"nothing but {', '.join(sorted(gone))} is staged in {store.url}", "stop serving, and remove the store")
    return _save(store, Listing(0, left, now.failures, time.time()))


def latest(store: Store) -> Listing | None:
    """The current listing, or None when nothing was staged yet."""
    last = None
    for last in store.list(LISTINGS):  # noqa: B007  the highest number is the last key
        pass
    if last is None:
        return None
    parts = json.loads(store.get(last.key))
    files = {checked(name): File(**entry) for name, entry in parts["files"].items()}
    return Listing(_number(last.key), files, tuple(Failure(**failure) for failure in parts["failures"]), parts["at"])


def blob(digest: str) -> str:
    """The key of the content with this SHA-256."""
    return BLOBS + digest


def checked(name: str) -> str:
    """`name`, if it is a path below the root. Raises `CorpusError` otherwise.

    >>> checked("manual/pump.md")
    'manual/pump.md'
    >>> checked("../etc/passwd")
    Traceback (most recent call last):
    ragstone.errors.CorpusError: '../etc/passwd' is not a path below the staged folder
    """
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise CorpusError(f"{name!r} is not a path below the staged folder")
    return name


def _root(store: Store, source: Path | str) -> Path:
    root = Path(source).expanduser().resolve()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "is not there"
        raise CorpusError(f"the source folder {root} {what}", "ragstone up <folder>, or set project.source in ragstone.toml")
    local = Path(store.url.removeprefix("file://"))
    if store.url.startswith("file://") and local.is_relative_to(root) and not _hidden(local.relative_to(root).as_posix()):
        reason = f"the store {local} lies inside the source folder {root}: it would stage itself"
        raise CorpusError(reason, "set project.store to a folder outside, or to a hidden one such as file://.ragstone/store")
    return root


def _walk(root: Path) -> tuple[dict[str, Found], list[Failure]]:
    """Every visible file below `root` with where its bytes are (the target, for a link), and what can't be staged."""
    found: dict[str, Found] = {}
    failures: list[Failure] = []
    for path in _visible(root, failures):
        name = path.relative_to(root).as_posix()
        try:
            name.encode()
            target = _target(root, path)
            if target is not None:
                found[checked(name)] = target, _regular(target)
        except UnicodeEncodeError:
            failures.append(Failure(os.fsencode(name).decode("utf-8", "replace"), "its name is not UTF-8; rename it"))
        except (OSError, RuntimeError) as error:  # RuntimeError: links that form a loop
            failures.append(Failure(name, getattr(error, "strerror", None) or str(error)))
    return found, failures


def _visible(root: Path, failures: list[Failure]) -> Iterator[Path]:
    """Files and links below `root`, hidden ones left out."""

    def unlisted(error: OSError) -> None:
        failures.append(Failure(Path(error.filename).relative_to(root).as_posix(), f"can't be listed: {error.strerror}"))

    for folder, folders, names in os.walk(root, onerror=unlisted):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted([*names, *links]) if not _hidden(name))


def _target(root: Path, path: Path) -> Path | None:
    """Where the file's bytes are. None for a link to a folder inside (staged under its own path) or to what is hidden.

    Raises `OSError` for a link that is not followed.
    """
    if not path.is_symlink():
        return path
    target = path.resolve()
    if not target.is_relative_to(root):
        raise OSError(0, f"a link to {os.readlink(path)}, outside the source folder: not followed")
    if not target.exists():
        raise OSError(0, f"a broken link to {os.readlink(path)}")
    return None if target.is_dir() or _hidden(target.relative_to(root).as_posix()) else target


def _regular(path: Path) -> os.stat_result:
    status = path.lstat()
    if not modes.S_ISREG(status.st_mode):
        raise OSError(0, "neither a file nor a folder (a device, pipe or socket)")
    return status


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _files(
    store: Store, stored: dict[str, int], unwanted: Forgotten, known: Mapping[str, File], found: Mapping[str, Found]
) -> Iterator[Outcome]:
    """Every file found: unchanged ones as they were, the others read and copied."""
    changed = {}
    for name, (path, status) in sorted(found.items()):
        old = known.get(name)
        unchanged = old and (old.size, old.mtime_ns) == (status.st_size, status.st_mtime_ns)
        if old and unchanged and stored.get(blob(old.sha256)) == old.size:
            yield name, old, Summary(skipped=Count(1, old.size))
        else:
            changed[name] = path
    pool = ThreadPoolExecutor(THREADS)
    try:
        yield from pool.map(lambda name: _copy(store, stored, unwanted, name, changed[name]), changed)
    finally:
        pool.shutdown(cancel_futures=True)


def _copy(store: Store, stored: dict[str, int], unwanted: Forgotten, name: str, path: Path) -> Outcome:
    """Read the file and put its content, unless the store has it. The time kept is that before reading, so a later edit is seen."""
    try:
        with _open(path) as source:
            status = os.fstat(source.fileno())
            if status.st_size <= IN_MEMORY:
                data = source.read()
                digest = hashlib.sha256(data).hexdigest()
                new = digest not in unwanted.contents and _put(store, stored, digest, len(data), data)
            else:
                with tempfile.NamedTemporaryFile(prefix="ragstone-") as spool:
                    digest, size = _spool(source, spool)
                    new = digest not in unwanted.contents and _put(store, stored, digest, size, Path(spool.name))
    except OSError as error:
        return name, Failure(name, f"can't be read: {error.strerror}"), Summary()
    if why := unwanted.why(name, digest):
        return name, why, Summary(read=Count(1, status.st_size))
    count = Count(1, status.st_size)
    summary = Summary(copied=count, read=count) if new else Summary(skipped=count, read=count)
    return name, File(digest, status.st_size, status.st_mtime_ns), summary


def _open(path: Path) -> BinaryIO:
    """The file itself: a link or a pipe put in its place since it was listed is an error, not a way out of the folder."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _spool(source: BinaryIO, spool: IO[bytes]) -> tuple[str, int]:
    digest = hashlib.sha256()
    while block := source.read(1 << 20):
        digest.update(block)
        spool.write(block)
    spool.flush()
    return digest.hexdigest(), spool.tell()


def _put(store: Store, stored: dict[str, int], digest: str, size: int, data: bytes | Path) -> bool:
    """Whether the content was new to the store, which `stored` keeps track of."""
    if stored.get(blob(digest)) == size:
        return False
    store.put(blob(digest), data)
    stored[blob(digest)] = size
    return True


def _save(store: Store, listing: Listing) -> Listing:
    """The listing under the next free number, or its old one when nothing changed. Of two runs that race, the later is current."""
    data = json.dumps(
        {
            "at": listing.at,
            "files": {name: asdict(file) for name, file in listing.files.items()},
            "failures": [asdict(failure) for failure in listing.failures],
        }
    ).encode()
    while True:
        before = latest(store)
        if before and (before.files, before.failures) == (listing.files, listing.failures):
            return Listing(before.number, before.files, before.failures, before.at, listing.summary)
        number = before.number + 1 if before else 1
        try:
            store.create(f"{LISTINGS}{number:08d}.json", data)
        except Conflict:
            continue
        return Listing(number, listing.files, listing.failures, listing.at, listing.summary)


def _number(key: str) -> int:
    return int(key.removeprefix(LISTINGS).removesuffix(".json"))


def _count(files: Iterable[File]) -> Count:
    return sum((Count(1, file.size) for file in files), Count())


def _add(one: Summary, other: Summary) -> Summary:
    return Summary(one.copied + other.copied, one.skipped + other.skipped, one.deleted + other.deleted, one.read + other.read)
