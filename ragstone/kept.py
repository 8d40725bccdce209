"""What a model was asked and what it answered, kept in a file: after a kill nothing is asked twice. It knows no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Kept:
    """Answers by the digest of what was asked, a JSON line each, written as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)

    def answers(
        self, asked: Mapping[str, T], ask: Callable[[Sequence[T]], Iterable[object | None]], progress: Callable[[int], None]
    ) -> dict[str, Any]:
        """The answer to each question by its digest: from the file, else from `ask`, which is given those that are missing.

        `ask` answers in order; None is no answer, which is neither kept nor returned. `progress` is told how many are done.
        """
        missing = [key for key in asked if key not in self._known]
        before = len(asked) - len(missing)
        answered = ask([asked[key] for key in missing]) if missing else ()
        for done, (key, answer) in enumerate(zip(missing, answered, strict=True), before + 1):
            if answer is not None:
                self._keep(key, answer)
            progress(done)
        return {key: self._known[key] for key in asked if key in self._known}

    def _keep(self, key: str, answer: object) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps([key, answer])}")  # the newline first: a line that a kill cut off spoils no other
        self._known[key] = answer


def digest(*parts: object) -> str:
    """SHA-256 of what was asked, in hex."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    known = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            key, answer = json.loads(line)
        except ValueError:  # empty, or cut off
            continue
        known[key] = answer
    return known
