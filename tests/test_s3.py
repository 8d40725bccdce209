"""What `s3://` does beside the contract of every store: a service that fails, answers that are lost, many pages, clear errors."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ragstone import bucket
from ragstone.errors import ConfigError, Conflict, StoreError
from ragstone.store import Stat, connect, fetch, publish
from tests import gateway, proxy
from tests.gateway import Gateway
from tests.proxy import LOST, REFUSED, Proxy


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bucket, "PAUSES", (0.001, 0.01))
    return tmp_path / "cache"


@pytest.fixture
def half(s3: Gateway) -> Iterator[Proxy]:
    """The server with every second call failing, each time in another way."""
    with proxy.before_half(s3.endpoint) as between:
        yield between


def through(between: Proxy, url: str) -> str:
    """The store's URL by way of the proxy."""
    return url.replace(urlsplit(url).query.partition("&")[0], f"endpoint={between.endpoint}")


def test_a_store_that_fails_half_of_its_calls_costs_time_not_data(s3: Gateway, half: Proxy, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    contents = {f"{number}.bin": os.urandom(100_000 * number) for number in range(6)} | {"big": os.urandom(2 * bucket.CHUNK + 5)}
    for name, content in contents.items():
        (made / name).write_bytes(content)
    url = s3.url()
    store = connect(through(half, url))
    publish(store, "models/x", made)
    for number in range(12):
        store.create(f"channels/production/{number:08}.json", str(number).encode())
    for reader in (store, connect(url)):
        folder = fetch(reader, "models/x")
        assert {name: (folder / name).read_bytes() for name in contents} == contents
        assert [stat.key for stat in reader.list("channels/")] == [f"channels/production/{number:08}.json" for number in range(12)]
        assert [reader.get(f"channels/production/{number:08}.json") for number in range(12)] == [b"%d" % number for number in range(12)]


def test_who_created_an_object_is_known_even_when_the_answer_was_lost(s3: Gateway) -> None:
    lost = iter((LOST,))
    with proxy.before(s3.endpoint, lambda number, call: next(lost, "") if "PUT" in call else "") as between:
        store = connect(through(between, s3.url()))
        store.create("a", b"same")
        with pytest.raises(Conflict):
            store.create("a", b"same")
        assert sum("PUT" in call for call in between.calls) == 3


def test_a_lost_answer_does_not_turn_another_writers_object_into_ours(s3: Gateway) -> None:
    refused = iter((REFUSED,))
    url = s3.url()
    connect(url).create("a", b"same")
    with (
        proxy.before(s3.endpoint, lambda number, call: next(refused, "") if "PUT" in call else "") as between,
        pytest.raises(Conflict),
    ):
        connect(through(between, url)).create("a", b"same")


def test_a_listing_of_many_pages_is_whole_and_sorted(s3: Gateway) -> None:
    url = s3.url()
    parts = urlsplit(url)
    folder = s3.root / parts.netloc / parts.path.strip("/") / "raw/blobs"
    folder.mkdir(parents=True)
    names = sorted(f"{number * 7919 % 2503:04x}" for number in range(2503))
    for name in names:
        (folder / name).write_bytes(b"1")
    assert list(connect(url).list("raw/blobs/")) == [Stat(f"raw/blobs/{name}", 1) for name in names]


def test_only_the_pages_that_are_read_are_asked_for(s3: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragstone.store.s3.PAGE", 2)
    with proxy.before(s3.endpoint) as between:
        store = connect(through(between, s3.url()))
        for number in range(9):
            store.put(f"a/{number}", b"1")
        before = len(between.calls)
        assert [stat.key for stat in itertools.islice(store.list("a/"), 3)] == ["a/0", "a/1", "a/2"]
        assert len(between.calls) - before == 2
        assert len(list(store.list("a/"))) == 9


def test_a_large_file_goes_up_in_parts(s3: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(2 * bucket.CHUNK + 1))
    with proxy.before(s3.endpoint) as between:
        store = connect(through(between, s3.url()))
        store.put("large", path)
        assert sum("partNumber=" in call for call in between.calls) == 3
        with store.open("large") as stream:
            stream.seek(-5, os.SEEK_END)
            assert stream.read() == path.read_bytes()[-5:]


def test_an_upload_whose_last_answer_was_lost_is_there(s3: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(bucket.CHUNK + 1))
    url = s3.url()
    lost = iter((LOST,))
    with proxy.before(s3.endpoint, lambda number, call: next(lost, "") if "POST" in call and "uploadId=" in call else "") as between:
        connect(through(between, url)).put("large", path)
    assert not list(lost)
    assert connect(url).get("large") == path.read_bytes()


def test_a_folder_is_copied_once_and_again_when_the_copy_was_damaged(s3: Gateway, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "one").write_bytes(b"123")
    with proxy.before(s3.endpoint) as between:
        store = connect(through(between, s3.url()))
        publish(store, "models/x", made)
        folder = fetch(store, "models/x")
        read = [call for call in between.calls if "/one" in call]
        assert fetch(store, "models/x") == folder
        assert [call for call in between.calls if "/one" in call] == read
        (folder / "one").write_bytes(b"124")
        assert (fetch(store, "models/x") / "one").read_bytes() == b"123"


def test_processes_that_copy_a_folder_at_once_all_get_it_whole(s3: Gateway, tmp_path: Path, cache: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for number in range(5):
        (made / str(number)).write_bytes(os.urandom(200_000))
    url = s3.url()
    publish(connect(url), "models/x", made)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        read = pool.map(copied, [(url, str(cache))] * 6)
    assert read == [[path.read_bytes() for path in sorted(made.iterdir())]] * 6
    assert not list((cache / "published").glob(".new-*"))


def copied(asked: tuple[str, str]) -> list[bytes]:
    url, cache = asked
    os.environ["RAGSTONE_CACHE"] = cache
    folder = fetch(connect(url), "models/x")
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.json"]


def test_a_process_killed_while_it_copies_leaves_no_half_copy(s3: Gateway, tmp_path: Path, cache: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "one").write_bytes(b"123")
    url = s3.url()
    publish(connect(url), "models/x", made)
    reached, killed = threading.Event(), threading.Event()

    def hold(number: int, call: str) -> str:
        if "GET" in call and "/one" in call:
            reached.set()
            killed.wait(60)
            return REFUSED
        return ""

    with proxy.before(s3.endpoint, hold) as between:
        process = multiprocessing.get_context("spawn").Process(target=copied, args=((through(between, url), str(cache)),))
        process.start()
        assert reached.wait(60)
        process.kill()
        process.join()
        killed.set()
    assert [path.name[:5] for path in (cache / "published").iterdir()] == [".new-"]
    assert (fetch(connect(url), "models/x") / "one").read_bytes() == b"123"


@pytest.mark.parametrize(
    ("changed", "said", "hint"),
    [
        ({"bucket": "no-such-bucket"}, "NoSuchBucket: The specified bucket does not exist", "create the bucket"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "wrong-key"}, "No user exists", "AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": ""}, "no credentials were found", "AWS_ACCESS_KEY_ID"),
        ({"endpoint": "http://127.0.0.1:9"}, "error sending request", "endpoint"),
    ],
)
def test_what_is_wrong_is_said_without_a_key(
    s3: Gateway, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], said: str, hint: str
) -> None:
    monkeypatch.setattr(bucket, "FIRST", 0.1)
    url = s3.url()
    for name, value in changed.items():
        if not name.startswith("AWS_"):
            url = url.replace(urlsplit(url).netloc if name == "bucket" else s3.apart, value)
        elif value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=said) as caught:
        connect(url).stat("a")
    assert hint in caught.value.hint
    for secret in (gateway.KEY, gateway.SECRET, "wrong-secret", "wrong-key", "StringToSign"):
        assert secret not in str(caught.value)


def test_an_endpoint_elsewhere_must_be_encrypted_unless_told_otherwise() -> None:
    with pytest.raises(ConfigError, match="not encrypted"):
        bucket.read("s3://bucket?endpoint=http://10.0.0.1:9000")
    assert bucket.read("s3://bucket?endpoint=http://10.0.0.1:9000&insecure=true").endpoint == "http://10.0.0.1:9000"
    assert bucket.read("s3://bucket?endpoint=http://127.0.0.1:9000").endpoint == "http://127.0.0.1:9000"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket?colour=red", "no option 'colour'"),
        ("s3://bucket?endpoint=ftp://host", "is no endpoint"),
        ("s3://key:secret@bucket/prefix", "holds a key"),
    ],
)
def test_what_is_no_url_of_a_bucket_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        bucket.read(url)
    assert "secret" not in str(caught.value)


def test_a_bucket_that_goes_away_is_an_error_of_the_store(s3: Gateway) -> None:
    url = s3.url()
    store = connect(url)
    store.put("a", b"1")
    shutil.rmtree(s3.root / urlsplit(url).netloc)
    with pytest.raises(StoreError):
        store.create("b", b"2")


def test_what_the_server_will_never_take_is_not_tried_again(s3: Gateway) -> None:
    with proxy.before(s3.endpoint) as between:
        store = connect(through(between, s3.url()))
        store.put("a", b"1")
        with pytest.raises(StoreError, match="ObjectParentIsFile"):
            store.create("a/below", b"2")
        assert sum("below" in call for call in between.calls) == 1
