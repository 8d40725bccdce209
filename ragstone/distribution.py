"""Which scores passages get that answer a question, and which those that do not: kept with a calibration, shown beside a threshold.

Numbers alone are kept, no question and no passage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from ragstone.errors import Conflict, NotFound
from ragstone.release import Release, canonical
from ragstone.store import Store


@dataclass(frozen=True)
class Distribution:
    """Scores P(relevant), each of one question."""

    relevant: tuple[float, ...] = ()
    """Of a question made from a passage, what that passage got."""
    irrelevant: tuple[float, ...] = ()
    """Of a question that people asked elsewhere, what the best passage got."""
    asked: int = 0
    """Questions made from passages: more than `relevant` has, where the own passage was not among the best."""


def keep(store: Store, index: str, coefficients: Sequence[float], found: Distribution) -> None:
    """Beside the calibration of an index; what is there already stays."""
    with suppress(Conflict):
        store.create(_key(index, coefficients), json.dumps(asdict(found)).encode())


def of(store: Store, release: Release) -> Distribution | None:
    """That of a release; None where none was kept, or where passages are found and scored elsewhere."""
    if release.rag:
        return None
    try:
        told = json.loads(store.get(_key(release.index, release.calibration)))
    except NotFound:
        return None
    return Distribution(tuple(told["relevant"]), tuple(told["irrelevant"]), told["asked"])


def _key(index: str, coefficients: Sequence[float]) -> str:
    return f"calibrations/scores-{hashlib.sha256(canonical([index, [*coefficients]])).hexdigest()}.json"
