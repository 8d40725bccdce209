"""What `oss://` does beside the contract of every store. Verified against a server of our own that checks signatures and CRC-64."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragstone import bucket
from ragstone.errors import ConfigError, Conflict, StoreError
from ragstone.store import Stat, connect, fetch, publish
from tests import cloud as clouds
from tests import proxy
from tests.cloud import Cloud
from tests.proxy import BUSY, LOST, Proxy


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bucket, "PAUSES", (0.001, 0.01))


@pytest.fixture
def half(cloud: Cloud) -> Iterator[Proxy]:
    """OSS with every second call failing, each time in another way."""
    with proxy.before_half(cloud.endpoint) as between:
        yield between


def through(between: Proxy, url: str) -> str:
    """The store's URL by way of the proxy."""
    return f"{url.partition('&')[0]}&endpoint={between.endpoint}"


def test_a_store_that_fails_half_of_its_calls_costs_time_not_data(cloud: Cloud, half: Proxy, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    contents = {f"{number}.bin": os.urandom(50_000 * number) for number in range(6)} | {"big": os.urandom(2 * bucket.CHUNK + 5)}
    for name, content in contents.items():
        (made / name).write_bytes(content)
    store = connect(through(half, cloud.store()))
    publish(store, "models/x", made)
    for number in range(12):
        store.create(f"channels/production/{number:08}.json", str(number).encode())
    for reader in (store, connect(cloud.store())):
        folder = fetch(reader, "models/x")
        assert {name: (folder / name).read_bytes() for name in contents} == contents
        assert [reader.get(stat.key) for stat in reader.list("channels/")] == [b"%d" % number for number in range(12)]


def test_who_created_an_object_is_known_even_when_the_answer_was_lost(cloud: Cloud) -> None:
    lost = iter((LOST,))
    with proxy.before(cloud.endpoint, lambda number, call: next(lost, "") if "PUT" in call else "") as between:
        store = connect(through(between, cloud.store()))
        store.create("a", b"same")
        with pytest.raises(Conflict):
            store.create("a", b"same")
        assert sum("PUT" in call for call in between.calls) == 3


@pytest.mark.parametrize("state", ["Enabled", "Suspended"])
def test_a_bucket_with_versions_is_refused_because_it_overwrites_all_the_same(cloud: Cloud, state: str) -> None:
    cloud.versioning = state
    store = connect(cloud.store())
    with pytest.raises(StoreError, match=f"versioning {state}"):
        store.create("channels/production/00000001.json", b"{}")
    assert list(store.list("")) == []


def test_a_listing_of_many_pages_is_whole_and_sorted(cloud: Cloud) -> None:
    folder = cloud.root / "bucket/a/store/raw/blobs"
    folder.mkdir(parents=True)
    names = sorted(f"{number * 7919 % 2503:04x}" for number in range(2503))
    for name in names:
        (folder / name).write_bytes(b"1")
    assert list(connect(cloud.store()).list("raw/blobs/")) == [Stat(f"raw/blobs/{name}", 1) for name in names]
    assert sum("list-type" in call for call in cloud.calls) == 1 + 3


def test_only_the_pages_that_are_read_are_asked_for(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragstone.store.oss.PAGE", 2)
    store = connect(cloud.store())
    for number in range(9):
        store.put(f"a/{number}", b"1")
    before = len(cloud.calls)
    assert [stat.key for stat in itertools.islice(store.list("a/"), 3)] == ["a/0", "a/1", "a/2"]
    assert len(cloud.calls) - before == 2
    assert len(list(store.list("a/"))) == 9


def test_a_large_file_goes_up_in_parts(cloud: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(2 * bucket.CHUNK + 1))
    store = connect(cloud.store())
    store.put("large", path)
    assert sum(bool(re.search("partNumber=", call)) for call in cloud.calls) == 3
    with store.open("large") as stream:
        stream.seek(-5, os.SEEK_END)
        assert stream.read() == path.read_bytes()[-5:]


def test_an_upload_that_died_goes_on_with_the_parts_that_are_there_if_they_are_the_files(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(5 * bucket.CHUNK + 1))
    monkeypatch.setattr(bucket, "PATIENCE", 0.1)
    monkeypatch.setattr("ragstone.store.oss.TRIES", 2)
    with proxy.before(cloud.endpoint, lambda number, call: BUSY if "partNumber=5" in call else "") as between, pytest.raises(StoreError):
        connect(through(between, cloud.store())).put("large", path)
    (held,) = cloud.parts.values()
    assert set(held) == {1, 2, 3, 4, 6}
    held[2] = b"of another file"
    before = len(cloud.calls)
    connect(cloud.store()).put("large", path)
    sent = sorted(re.findall(r"partNumber=(\d)", " ".join(cloud.calls[before:])))
    assert sent == ["2", "5"]
    assert connect(cloud.store()).get("large") == path.read_bytes()
    assert not cloud.parts


def test_an_upload_whose_last_answer_was_lost_is_there(cloud: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(bucket.CHUNK + 1))
    lost = iter((LOST,))
    with proxy.before(cloud.endpoint, lambda number, call: next(lost, "") if "POST" in call and "uploadId=" in call else "") as between:
        connect(through(between, cloud.store())).put("large", path)
    assert not list(lost)
    assert connect(cloud.store()).get("large") == path.read_bytes()


def test_what_arrives_with_another_crc_is_never_taken(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    store = connect(cloud.store())
    store.put("a", b"1")
    cloud.wrong_crc = True
    monkeypatch.setattr(bucket, "PATIENCE", 0.1)
    with pytest.raises(StoreError, match="damaged"):
        store.get("a")
    with pytest.raises(StoreError, match="can't write b"):
        store.put("b", b"2")


@pytest.mark.parametrize(
    ("given", "url", "said", "hint"),
    [
        ({}, "oss://no-such-bucket?", "NoSuchBucket: The specified bucket does not exist", "create the bucket"),
        ({"secret": "wrong-secret"}, "oss://bucket?", "SignatureDoesNotMatch", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
        ({"key": "wrong-key"}, "oss://bucket?", "InvalidAccessKeyId", "ALIBABA_CLOUD_ACCESS_KEY_ID"),
        ({"key": None, "secret": None}, "oss://bucket?", "no credentials were found", "ALIBABA_CLOUD_ACCESS_KEY_ID"),
        ({}, "oss://bucket?endpoint=http://127.0.0.1:9", "Connection", "endpoint"),
    ],
)
def test_what_is_wrong_is_said_without_a_key(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, given: dict[str, str | None], url: str, said: str, hint: str
) -> None:
    monkeypatch.setattr(bucket, "FIRST", 0.1)
    clouds.keys(monkeypatch, **given)
    if "endpoint" not in url:
        url += f"endpoint={cloud.endpoint}"
    with pytest.raises(StoreError, match=said) as caught:
        connect(f"{url}&region={clouds.REGION}").stat("a")
    assert hint in caught.value.hint
    for secret in (clouds.KEY, clouds.SECRET, "wrong-secret", "wrong-key"):
        assert secret not in str(caught.value)


def test_a_region_is_named_or_read_from_the_endpoint(cloud: Cloud) -> None:
    from ragstone.store.oss import connect as store

    with pytest.raises(ConfigError, match="names no region"):
        store("oss://bucket/prefix")
    assert store("oss://bucket?endpoint=https://oss-cn-hangzhou-internal.aliyuncs.com").place.region == "cn-hangzhou"
