"""How much of the CPU each process used between two looks."""

from __future__ import annotations

from ragstone.load import Meter


def test_a_share_is_what_was_used_a_second_since_the_last_look() -> None:
    now = iter([10.0, 12.0, 14.0])
    meter = Meter(lambda: next(now))
    assert meter.shares(lambda: {7: 5.0}) == {}
    assert meter.shares(lambda: {7: 6.0, 8: 1.0}) == {7: 0.5}
    assert meter.shares(lambda: {8: 5.0}) == {8: 2.0}


def test_who_looks_too_soon_gets_what_the_last_look_found() -> None:
    now = iter([10.0, 11.0, 11.1])
    meter = Meter(lambda: next(now))
    meter.shares(lambda: {7: 5.0})
    found = meter.shares(lambda: {7: 5.5})
    assert meter.shares(lambda: {7: 9.0}) == found == {7: 0.5}
