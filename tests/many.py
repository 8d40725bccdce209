"""A project of many short chunks, for what shows only where there is more than one part of them."""

from __future__ import annotations

from pathlib import Path

from ragstone import config
from ragstone.config import Settings


def many(folder: Path, size: int, base: Path, serve: str = "none", index: str = "local") -> Settings:
    """The settings of a project folder with `size` chunks and more, over the base model in `base`; indexes are at the URL `index`."""
    (folder / "docs").mkdir()
    sections = (f"## Part {row}\n\n" + f"pump{row} valve{row % 7} seal{row % 11} " * 10 for row in range(size))
    (folder / "docs" / "parts.md").write_text("# Parts\n\n" + "\n\n".join(sections))
    toml = f'[corpus]\nchunk_words = 50\n[train]\nbase = "{base}"\n[serve]\nurl = "{serve}"\n[index]\nurl = "{index}"\n'
    (folder / "ragstone.toml").write_text(toml)
    return config.load(folder, {})
