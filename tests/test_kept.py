from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ragstone.kept import Kept, digest


def upper(asked: Sequence[str]) -> Iterator[str | None]:
    return (text.upper() or None for text in asked)


def test_an_answer_is_asked_for_once(tmp_path: Path) -> None:
    asked = {"1": "a", "2": "b"}
    assert Kept(tmp_path / "deep" / "kept.jsonl").answers(asked, upper, lambda done: None) == {"1": "A", "2": "B"}

    def never(asked: Sequence[str]) -> Iterator[str]:
        raise AssertionError(asked)

    assert Kept(tmp_path / "deep" / "kept.jsonl").answers(asked, never, lambda done: None) == {"1": "A", "2": "B"}


def test_what_has_no_answer_is_left_out_and_asked_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept.jsonl")
    assert kept.answers({"1": "", "2": "b"}, upper, lambda done: None) == {"2": "B"}
    assert kept.answers({"1": "a", "2": "x"}, upper, lambda done: None) == {"1": "A", "2": "B"}


def test_what_came_before_a_failure_is_kept(tmp_path: Path) -> None:
    def failing(asked: Sequence[str]) -> Iterator[str]:
        yield "A"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        Kept(tmp_path / "kept.jsonl").answers({"1": "a", "2": "b"}, failing, lambda done: None)
    seen: list[int] = []
    assert Kept(tmp_path / "kept.jsonl").answers({"1": "x", "2": "b"}, upper, seen.append) == {"1": "A", "2": "B"}
    assert seen == [2]


@pytest.mark.parametrize("torn", ["\n", '\n["1', '\n["1", "A', "\n\xff"])
def test_a_line_that_a_kill_cut_off_spoils_no_other(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "kept.jsonl"
    Kept(path).answers({"0": "z"}, upper, lambda done: None)
    with path.open("a", encoding="latin-1") as file:
        file.write(torn)
    Kept(path).answers({"2": "b"}, upper, lambda done: None)
    assert Kept(path).answers({"0": "x", "2": "x"}, upper, lambda done: None) == {"0": "Z", "2": "B"}


def test_a_digest_tells_apart_where_one_part_ends() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a", ("b",)) == digest("a", ["b"])
