"""What is the file store's own: URLs, and what a disk can do to it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ragstone.errors import StoreError
from ragstone.store import connect, fetch, publish, published


def test_a_bare_path_is_a_file_store(tmp_path: Path) -> None:
    assert connect(str(tmp_path / "a folder")).url == f"file://{tmp_path / 'a folder'}"


def test_a_url_with_escapes_names_the_same_folder(tmp_path: Path) -> None:
    connect(f"file://{tmp_path}/a%20folder").put("key", b"bytes")
    assert (tmp_path / "a folder/key").read_bytes() == b"bytes"


def test_a_store_of_another_host_is_refused() -> None:
    with pytest.raises(StoreError, match=r"(?s)names the host 'srv'.*file:///srv/data"):
        connect("file://srv/data")


def test_what_a_killed_writer_left_is_not_listed(tmp_path: Path) -> None:
    store = connect(str(tmp_path))
    store.put("models/x", b"")
    (tmp_path / "models/.tmp-half").write_bytes(b"half")
    assert [stat.key for stat in store.list("")] == ["models/x"]


WRITE = """
import sys
from pathlib import Path
from ragstone import store
store.connect(sys.argv[1]).put("models/y", Path(sys.argv[2]))
"""


def test_what_a_killed_writer_left_goes_with_the_next_write_there_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    at, pipe = tmp_path / "store", tmp_path / "pipe"
    os.mkfifo(pipe)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(at), str(pipe)], env=environment)
    with pipe.open("wb"):  # opened when the writer reads: its temporary file is there
        connect(str(at)).put("models/x", b"")
        assert len(list(at.rglob(".tmp-*"))) == 1
        writer.kill()
        writer.wait()
    assert len(list(at.rglob(".tmp-*"))) == 1
    connect(str(at)).put("models/x", b"")
    assert not list(at.rglob(".tmp-*"))
    assert [stat.key for stat in connect(str(at)).list("")] == ["models/x"]


PUBLISH = """
import itertools, os, signal, sys, threading
from pathlib import Path
from ragstone import store
at = store.connect(sys.argv[1])
threading.Timer(float(sys.argv[3]), os.kill, (os.getpid(), signal.SIGKILL)).start()
for number in itertools.count(int(sys.argv[4])):
    store.publish(at, f"indexes/{number:06d}", Path(sys.argv[2]))
"""


def test_a_publication_that_is_killed_at_a_random_moment_is_whole_or_not_there(tmp_path: Path) -> None:
    draw, folder, at = random.Random(17), tmp_path / "made", tmp_path / "store"
    for name in ("meta.json", "vectors.npy", "words/a", "words/b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 20_000)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for trial in range(6):
        command = [sys.executable, "-c", PUBLISH, str(at), str(folder), str(draw.uniform(0.01, 0.2)), str(1000 * trial)]
        assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == -signal.SIGKILL
        started = {stat.key.split("/")[1] for stat in connect(str(at)).list("indexes/")}
        whole = {name for name in started if published(connect(str(at)), f"indexes/{name}")}
        for name in whole:
            fetch(connect(str(at)), f"indexes/{name}")
        for name in started - whole:
            publish(connect(str(at)), f"indexes/{name}", folder)
            fetch(connect(str(at)), f"indexes/{name}")
            assert not list((at / "indexes" / name).rglob(".tmp-*"))


def test_a_folder_in_the_way_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    store = connect(str(tmp_path))
    store.put("a/b", b"")
    for key in ("a", "a/b/c"):
        with pytest.raises(StoreError, match="can't write"):
            store.put(key, b"")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b"]
