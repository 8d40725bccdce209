"""Where an index is that is not in the store: a note in the index's folder."""

from __future__ import annotations

import json
from pathlib import Path

PLACE = "place.json"
"""The file of an index's folder that says, for one outside the store, where it is: its `url` without credentials, and its name there."""


def write(folder: Path, url: str, name: str) -> None:
    """Make the note; the folder is made when it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLACE).write_text(json.dumps({"url": url, "index": name}, indent=1), encoding="utf-8")


def url(folder: Path) -> str | None:
    """The place's URL; None of an index in the store."""
    note = folder / PLACE
    return str(json.loads(note.read_text(encoding="utf-8"))["url"]) if note.exists() else None


def name(folder: Path) -> str:
    """What the index is called there."""
    return str(json.loads((folder / PLACE).read_text(encoding="utf-8"))["index"])
