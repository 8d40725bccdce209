"""The sequences of `tests/vectors/limits.json` as takings, the same for every edge that counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragstone.limit import Kind

VECTORS = json.loads((Path(__file__).parent / "vectors" / "limits.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Step:
    """One taking, what is to be waited for, and what the headers say afterwards."""

    kind: Kind
    cost: float
    owed: bool
    at: float
    wait: float
    headers: Mapping[str, str]


def steps(sequence: Mapping[str, Any]) -> Iterator[Step]:
    """The steps in order; what is settled is the difference to what was reserved."""
    reserved: dict[str, int] = {}
    for step in sequence["steps"]:
        kind: Kind = "requests" if step["do"] == "request" else "tokens"
        cost = 1 if step["do"] == "request" else step.get("tokens", 0)
        if step["do"] == "settle":
            cost = step["used"] - reserved[step["as"]]
        elif step["do"] == "reserve":
            reserved[step["as"]] = min(cost, sequence["tpm"])
        yield Step(kind, cost, step["do"] == "settle", step["at"], step["wait"], step["headers"])
