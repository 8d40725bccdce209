"""The questions of an exam, read from a JSONL file: what is asked, as whom, and what answers it. It knows no release.

A line that can't be asked is named with what was seen there: an exam without some of its questions is another exam.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ragstone.corpus import PUBLIC
from ragstone.corpus.labels import NAME, NEGATIVE, PASSAGE, Row, Target, plain, question_of, said
from ragstone.errors import ExamError

FORM = '{"question": "How long is the pump primed?", "document": "manuals/pump.md"}'
SHOWN = 5
"""Bad lines that a message names."""


@dataclass(frozen=True)
class Posed:
    """A question, the groups that it is asked as, and what is known of its answer."""

    text: str
    groups: tuple[str, ...] = (PUBLIC,)
    targets: tuple[Target, ...] = ()
    """Passages and documents that answer it; empty where the file names none."""
    answerable: bool = True
    """False when the documents have no answer, so that the right one is to abstain."""
    where: str = ""
    """The file and line that asked it first."""


def read(path: Path, groups: tuple[str, ...] = (PUBLIC,)) -> tuple[Posed, ...]:
    """The questions of the file, each once; `groups` are those of lines that name none. Raises `ExamError`, which names the bad lines."""
    found: dict[tuple[str, tuple[str, ...]], Posed] = {}
    faults: list[str] = []
    for number, line in enumerate(_lines(path), 1):
        try:
            if line.strip():
                _add(found, _posed(_row(line), groups, f"{path.name}:{number}"))
        except ValueError as error:
            faults.append(f"{path.name}:{number} {error}")
    if faults:
        named = "; ".join(faults[:SHOWN]) + ("; …" if len(faults) > SHOWN else "")
        raise ExamError(f"{len(faults)} of the questions can't be asked: {named}", f"write one object a line, like {FORM}")
    if not found:
        raise ExamError(f"{path} holds no question", f"write one object a line, like {FORM}")
    return tuple(found.values())


def _lines(path: Path) -> Sequence[str]:
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        ending = path.suffix or "nothing"
        raise ExamError(f"{path} is no file of questions: it ends in {ending}", f"give a .jsonl file of lines like {FORM}")
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExamError(f"{path} can't be read as questions: {error}", "ragstone eval --questions questions.jsonl") from error


def _row(line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"is not JSON ({error}): {line.strip()[:60]}") from error
    if not isinstance(row, dict):
        raise ValueError(f"is {line.strip()[:60]}, not an object")
    return plain(row)


def _posed(row: Row, groups: tuple[str, ...], where: str) -> Posed:
    try:
        text = question_of(row)
    except ValueError as error:
        raise ValueError(f"{error}: it has {', '.join(map(repr, row)) or 'nothing'}") from error
    answerable = row.get("answerable", True)
    if not isinstance(answerable, bool):
        raise ValueError(f"has answerable = {answerable!r}: write true or false")
    targets = _targets(row)
    if targets and not answerable:
        raise ValueError("names what answers it and says that nothing does: leave out one of them")
    return Posed(text, _groups(row, groups), targets, answerable, where)


def _targets(row: Row) -> tuple[Target, ...]:
    """What answers the question; none where the row names nothing. An `answer` in words is no passage here, but what a person would say."""
    named = {name: value for name, value in row.items() if name in (*PASSAGE, *NAME) or name == "relevance"}
    if not any(name in named for name in (*PASSAGE, *NAME)):
        if any(NEGATIVE.fullmatch(name) for name in row):
            raise ValueError("names only what does not answer it: name what does under 'document' or 'passage'")
        return ()
    found = tuple(replace(target, grade=vote) for target, vote in said(named) if vote > 0)
    if not found:
        raise ValueError("names only what does not answer it: name what does under 'document' or 'passage'")
    return found


def _groups(row: Row, groups: tuple[str, ...]) -> tuple[str, ...]:
    value = row.get("groups", list(groups))
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise ValueError(f'has groups = {value!r}: write a list of names, like ["public"]')
    return tuple(sorted(set(value)))


def _add(found: dict[tuple[str, tuple[str, ...]], Posed], one: Posed) -> None:
    """Keep the question; a second line that asks the same adds what it names. Raises `ValueError` when the two contradict each other."""
    key = " ".join(one.text.lower().split()), one.groups
    first = found.setdefault(key, one)
    if first.answerable != one.answerable:
        raise ValueError(f"asks what {first.where} asks, and only one of them says that it can't be answered")
    if first is not one:
        found[key] = replace(first, targets=tuple(dict.fromkeys((*first.targets, *one.targets))))
