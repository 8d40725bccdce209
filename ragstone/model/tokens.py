"""A model's own tokenizer: text in, token ids out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ragstone.errors import WeightsError


def tokenizer(folder: Path, max_tokens: int) -> Any:
    """The tokenizer of a model folder, which cuts a text to `max_tokens`; the package is untyped. Raises `WeightsError`."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise WeightsError(f"can't read {path}: {error}", "ragstone up") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
