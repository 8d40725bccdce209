"""A cross-encoder in a folder: a transformer with one output over question and passage, by the package transformers. Safetensors only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ragstone import weights
from ragstone.config import Train
from ragstone.errors import WeightsError
from ragstone.teacher import Listed, Say

BATCH = 32
"""Passages a call, of like length, so that little is padded."""
SLAB = 64
"""Lists that are put into batches together."""
TOKENS = 512
"""What question and passage together are cut to, unless the model reads less: a chunk has about 360."""
FILES = (".json", ".model", ".safetensors", ".txt")
"""The endings of the files that scores depend on."""


def connect(settings: Train, say: Say) -> CrossEncoder:
    """The cross-encoder of a folder or a hub's id, got first when the cache lacks it; it is loaded when it scores."""
    return CrossEncoder(weights.pull(settings.teacher, say))


class CrossEncoder:
    """A folder as Sentence-Transformers' CrossEncoder writes it. It runs on a CUDA device if there is one, else on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the files that scores depend on."""
        whole = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.suffix in FILES:
                with path.open("rb") as file:
                    whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return f"cross-encoder {whole.hexdigest()}"

    def scores(self, lists: Sequence[Listed]) -> Iterator[list[float]]:
        """Logits. On a CPU those of a passage depend on its neighbours by rounding only. Raises `WeightsError`."""
        for start in range(0, len(lists), SLAB):
            slab = lists[start : start + SLAB]
            found = iter(self._logits([(one.question, passage) for one in slab for passage in one.passages]))
            for one in slab:
                yield [next(found) for _ in one.passages]

    def _logits(self, asked: Sequence[tuple[str, str]]) -> list[float]:
        found = [0.0] * len(asked)
        order = sorted(range(len(asked)), key=lambda at: -len(asked[at][1]))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            for row, logit in zip(rows, self._batch([asked[row] for row in rows]), strict=True):
                found[row] = logit
        return found

    def _batch(self, asked: Sequence[tuple[str, str]]) -> list[float]:
        import torch

        model, tokenizer = self._opened
        questions, passages = zip(*asked, strict=True)
        most = min(TOKENS, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or TOKENS)
        read = tokenizer(list(questions), list(passages), truncation=True, max_length=most, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits: list[float] = model(**read.to(model.device)).logits[:, 0].tolist()
        return logits

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        """Model and tokenizer, from files that run no code."""
        try:
            import torch
            from transformers import AutoModelForSequenceClassification, AutoTokenizer
            from transformers.utils import logging
        except ImportError as error:
            raise WeightsError(f"a teacher needs {error.name}, which is not installed", "pip install 'ragstone[transformers]'") from error
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        options = {**safe, "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
        try:
            model, told = AutoModelForSequenceClassification.from_pretrained(self.folder, **options)
            tokenizer = AutoTokenizer.from_pretrained(self.folder, **safe)
        except Exception as error:  # the package raises whatever it meets
            raise WeightsError(f"transformers can't load the teacher {self.folder}: {str(error).splitlines()[0]}") from error
        _check(self.folder, model.config.num_labels, sorted(told["missing_keys"]))
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def _check(folder: Path, outputs: int, missing: Sequence[str]) -> None:
    """Refuse what would score at random, or more than one thing."""
    if missing:
        reason = f"{folder} is no cross-encoder: it has no {missing[0]}"
        raise WeightsError(reason, "set train.teacher to a model that was trained to score a question with a passage")
    if outputs != 1:
        raise WeightsError(f"the teacher {folder} has {outputs} outputs; one that says how well a passage answers is needed")
