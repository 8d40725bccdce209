from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ragstone import release, store
from ragstone.errors import Conflict, ReleaseError
from ragstone.release import Release
from ragstone.store import Store

PARTS = Release(
    snapshot="s1",
    model="m1",
    index="i1",
    generator={"answers/1": 100},
    retrieval={"top_k": 5, "similarity_threshold": 0.75},
    calibration=(0.1, -2.0),
    prompt="Answer from the evidence.",
)
CHANGES: list[dict[str, Any]] = [
    {"snapshot": "s2"},
    {"model": "m2"},
    {"index": "i2"},
    {"generator": {"answers/1": 90, "answers/2": 10}},
    {"retrieval": {"top_k": 6, "similarity_threshold": 0.75}},
    {"calibration": (0.1, -2.1)},
    {"prompt": "Answer."},
]


@pytest.fixture
def at(tmp_path: Path) -> Store:
    return store.connect(str(tmp_path / "store"))


def made(at: Store, *names: str) -> list[str]:
    """The ids of saved releases, one per name."""
    return [release.save(at, dataclasses.replace(PARTS, prompt=name)) for name in names]


def in_force(at: Store) -> str:
    record = release.current(at, "production")
    assert record
    return record.release


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_part_is_in_the_id(change: dict[str, Any]) -> None:
    assert dataclasses.replace(PARTS, **change).id != PARTS.id


def test_equal_parts_are_the_same_release_whatever_the_note_says_and_in_any_order() -> None:
    assert dataclasses.replace(PARTS, note="the base model stays").id == PARTS.id
    assert dataclasses.replace(PARTS, retrieval=dict(reversed(list(PARTS.retrieval.items())))).id == PARTS.id
    assert release.ID.fullmatch(PARTS.id)


def test_a_saved_release_loads_as_it_was_and_is_never_overwritten(at: Store) -> None:
    id = release.save(at, dataclasses.replace(PARTS, note="first"))
    assert release.save(at, dataclasses.replace(PARTS, note="second")) == id
    assert release.load(at, id) == PARTS
    assert release.load(at, id).note == "first"
    assert release.saved(at) == [id]


def test_promotion_and_its_history(at: Store) -> None:
    a, b = made(at, "a", "b")
    assert release.current(at, "production") is None
    assert release.promote(at, "production", a).number == 1
    assert release.promote(at, "production", b).number == 2
    records = release.history(at, "production")
    assert [(record.number, record.release, record.returns_to) for record in records] == [(1, a, None), (2, b, None)]
    assert records[0].at <= records[1].at
    assert release.current(at, "production") == records[-1]
    assert release.current(at, "canary") is None


def test_history_keeps_its_order_past_nine(at: Store) -> None:
    ids = made(at, *"abcdefghijkl")
    for id in ids:
        release.promote(at, "production", id)
    assert [record.release for record in release.history(at, "production")] == ids
    assert in_force(at) == ids[-1]


def test_rollback_goes_back_one_and_twice_goes_back_two(at: Store) -> None:
    a, b, c = made(at, "a", "b", "c")
    for id in (a, b, c):
        release.promote(at, "production", id)
    assert release.rollback(at, "production").release == b
    assert release.rollback(at, "production").release == a
    with pytest.raises(ReleaseError, match="no release before"):
        release.rollback(at, "production")
    assert in_force(at) == a
    assert [record.returns_to for record in release.history(at, "production")] == [None, None, None, 2, 1]


def test_rollback_after_a_rollback_and_a_promotion_returns_to_what_was_in_force(at: Store) -> None:
    a, b, c = made(at, "a", "b", "c")
    release.promote(at, "production", a)
    release.promote(at, "production", b)
    release.rollback(at, "production")
    release.promote(at, "production", c)
    assert release.rollback(at, "production").release == a


def test_a_canary_stands_beside_what_is_in_force_and_a_rollback_ends_it_first(at: Store) -> None:
    a, b, c = made(at, "a", "b", "c")
    release.promote(at, "production", a)
    release.promote(at, "production", b)
    record = release.canary(at, "production", c, 10)
    assert (record.release, record.canary) == (b, {c: 10})
    assert c in release.reachable(at, 0)
    assert release.canary(at, "production", c, 30).canary == {c: 30}
    ended = release.rollback(at, "production")
    assert (ended.release, ended.canary, ended.returns_to) == (b, {}, 2)
    assert release.rollback(at, "production").release == a
    release.canary(at, "production", c, 5)
    assert release.promote(at, "production", c).canary == {}, "a promotion ends it"


@pytest.mark.parametrize(("who", "share"), [("in force", 10), ("other", 100), ("other", -1)])
def test_a_share_that_cant_be_changes_nothing(at: Store, who: str, share: int) -> None:
    a, b = made(at, "a", "b")
    with pytest.raises(ReleaseError, match="beside no release"):
        release.canary(at, "production", b, 10)
    release.promote(at, "production", a)
    with pytest.raises(ReleaseError, match="can't have"):
        release.canary(at, "production", a if who == "in force" else b, share)
    assert len(release.history(at, "production")) == 1


def test_a_purge_is_remembered_by_channel_the_last_one_counts(at: Store) -> None:
    assert release.purged(at, "production") == 0
    first = release.purge(at, "production")
    assert release.purged(at, "production") == first == release.purged(at, "production")
    assert release.purge(at, "production") >= first
    assert release.purged(at, "canary") == 0


def test_rollback_passes_over_repeated_promotions_of_the_same_release(at: Store) -> None:
    a, b = made(at, "a", "b")
    for id in (a, b, b):
        release.promote(at, "production", id)
    assert release.rollback(at, "production").release == a


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_difference_names_the_part_and_both_values(change: dict[str, Any]) -> None:
    ((part, value),) = change.items()
    assert release.diff(PARTS, dataclasses.replace(PARTS, **change)) == [(part, getattr(PARTS, part), value)]
    assert release.diff(PARTS, dataclasses.replace(PARTS, note="another note")) == []


def test_there_is_nothing_to_roll_back_before_the_first_promotion(at: Store) -> None:
    with pytest.raises(ReleaseError, match="no release to roll back"):
        release.rollback(at, "production")


def test_a_name_is_a_channel_or_a_release(at: Store) -> None:
    a, b = made(at, "a", "b")
    release.promote(at, "production", a)
    assert release.resolve(at, "production") == a
    assert release.resolve(at, b) == b
    for unknown in ("canary", "r-000000000000", "", "../releases/x", "Production"):
        with pytest.raises(ReleaseError, match="neither a channel nor a release"):
            release.resolve(at, unknown)


def test_only_a_saved_release_can_be_promoted(at: Store) -> None:
    for id in ("r-000000000000", "../channels/production/00000001", ""):
        with pytest.raises(ReleaseError, match="no release"):
            release.promote(at, "production", id)
    assert release.history(at, "production") == []


@pytest.mark.parametrize("channel", ["", "Production", "../raw", "a/b", "x" * 64])
def test_a_channel_has_a_plain_name(at: Store, channel: str) -> None:
    (a,) = made(at, "a")
    with pytest.raises(ReleaseError, match="not a channel name"):
        release.promote(at, channel, a)


def test_a_promotion_that_rests_on_an_overtaken_record_changes_nothing(at: Store) -> None:
    a, b, c = made(at, "a", "b", "c")
    seen = release.promote(at, "production", a)
    release.promote(at, "production", b, after=seen.number)
    for overtaken in (seen.number, 0, 7):
        with pytest.raises(Conflict, match="another promotion"):
            release.promote(at, "production", c, after=overtaken)
    assert in_force(at) == b


RACE = """
import sys
from ragstone import release, store
from ragstone.errors import Conflict
at = store.connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    print(release.promote(at, "production", sys.argv[2], after=int(sys.argv[3])).number)
except Conflict:
    print("Conflict")
"""
FOREVER = """
import sys
from ragstone import release, store
at = store.connect(sys.argv[1])
while True:
    print(release.promote(at, "production", sys.argv[2]).number, flush=True)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def test_of_16_processes_that_promote_at_once_one_wins_and_the_others_get_a_conflict(at: Store) -> None:
    ids = made(at, *"abcdefghijklmnop")
    release.promote(at, "production", ids[0])
    racing = [start(RACE, at.url, id, "1") for id in ids]
    for process in racing:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in racing:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in racing]
    assert sorted(said) == ["2", *["Conflict"] * 15]
    assert [record.number for record in release.history(at, "production")] == [1, 2]
    assert in_force(at) == ids[said.index("2")]


def test_a_promotion_killed_at_any_moment_leaves_the_channel_readable(at: Store) -> None:
    (a,) = made(at, "a")
    for wanted in range(1, 9):
        process = start(FOREVER, at.url, a)
        assert process.stdout
        told = [int(process.stdout.readline()) for _ in range(wanted)][-1]
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        numbers = [record.number for record in release.history(at, "production")]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= told
    assert release.promote(at, "production", a).number == len(numbers) + 1
