"""The slowest answers: bounded in number and in time, and without words unless these are wanted."""

from __future__ import annotations

from ragstone.slow import HOUR, Slow, Slowest


def answer(total: float, at: float = 100.0) -> Slow:
    return Slow(at, total, 0.1, 0.2, 7, "generated", "r-1", "small/1", "acme", ("public",), "id", "Is my salary secret?")


def test_only_the_slowest_are_kept_the_slowest_first() -> None:
    kept = Slowest(most=3)
    for total in (2.0, 9.0, 1.0, 5.0, 3.0):
        kept.add(answer(total))
    assert [one.total for one in kept.of(100.0)] == [9.0, 5.0, 3.0]


def test_an_hour_later_they_make_room() -> None:
    kept = Slowest(most=2)
    kept.add(answer(9.0))
    kept.add(answer(8.0))
    kept.add(answer(1.0, at=100.0 + HOUR))
    assert [one.total for one in kept.of(100.0 + HOUR)] == [1.0]


def test_what_was_asked_is_kept_only_where_that_is_wanted() -> None:
    for words, question in ((False, ""), (True, "Is my salary secret?")):
        kept = Slowest(words)
        kept.add(answer(1.0))
        assert [one.question for one in kept.of(100.0)] == [question]
