from collections.abc import Callable

import pytest

from ragstone.scale import Bounds, Scaler, wanted

BOUNDS = Bounds(least=1, most=10, target=70.0, up=2.0, down=10.0)


def counts(load: Callable[[int], float], seconds: int, bounds: Bounds = BOUNDS, count: int = 1) -> list[int]:
    """How many replicas there are after each second, when a replica starts and ends at once."""
    scaler, found = Scaler(bounds), []
    for second in range(seconds):
        count = scaler.advise(float(second), count, load(second))
        found.append(count)
    return found


@pytest.mark.parametrize(
    ("count", "load", "expected"),
    [(1, 100.0, 2), (2, 100.0, 3), (3, 76.9, 3), (3, 78.0, 4), (3, 63.1, 3), (3, 62.0, 3), (3, 46.0, 2), (10, 7.0, 1), (4, 0.0, 0)],
)
def test_the_formula_is_that_of_kubernetes_with_its_tolerance(count: int, load: float, expected: int) -> None:
    assert wanted(count, load, 70.0) == expected


def test_a_lasting_load_adds_replicas_until_the_most() -> None:
    found = counts(lambda second: 100.0, 60)
    assert found[:3] == [1, 1, 1]
    assert found == sorted(found)
    assert found[-1] == 10


def test_a_peak_shorter_than_the_window_starts_nothing() -> None:
    assert set(counts(lambda second: 100.0 if second == 5 else 60.0, 20)) == {1}


def test_replicas_end_only_after_a_whole_window_without_need() -> None:
    found = counts(lambda second: 0.0, 20, count=5)
    assert found[:10] == [5] * 10
    assert found[-1] == 1


def test_one_busy_second_within_the_window_keeps_them() -> None:
    found = counts(lambda second: 70.0 if second % 8 == 0 else 0.0, 40, count=5)
    assert set(found) == {5}


def test_bounds_hold_whatever_the_load() -> None:
    assert counts(lambda second: 1000.0, 5, Bounds(2, 3, up=0.0))[-1] == 3
    assert counts(lambda second: 0.0, 5, Bounds(2, 3, down=0.0), count=3)[-1] == 2
    assert counts(lambda second: 50.0, 1, Bounds(2, 3), count=1) == [2]
