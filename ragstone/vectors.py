"""OpenAI's `/v1/embeddings` as values: what is asked, and the answer. It knows no model.

Source: https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragstone.corpus import views
from ragstone.engine import Vectors
from ragstone.errors import RequestError
from ragstone.fields import Fields

DOCUMENT, QUERY, CHUNK = KINDS = ("document", "query", "chunk")
"""What a text is: a passage, a question, or a chunk as an index has it, which is JSON of its title and its text."""
INPUTS = 2048
"""Texts in one request, as with OpenAI."""


@dataclass(frozen=True)
class Asked:
    """A `POST /v1/embeddings`."""

    model: str
    texts: tuple[str, ...]
    base64: bool
    dimensions: int | None
    kind: str
    """What the texts are: a `document`, a `query`, or a `chunk` as an index has it (`views.passage`)."""

    def check_chunks(self) -> None:
        """Raises `RequestError` when the texts should be chunks and one is none."""
        try:
            for text in self.texts if self.kind == CHUNK else ():
                views.of_passage(text)
        except ValueError as error:
            message = "input of the type chunk must be JSON of two texts: title with headings, and the text"
            raise RequestError(message, "input") from error

    def check_dimensions(self, most: int) -> None:
        """Raises `RequestError` when more are asked for than the model has."""
        if self.dimensions and self.dimensions > most:
            raise RequestError(f"dimensions is {self.dimensions}; the model has {most}", "dimensions")


def read(fields: Fields, usual: str = DOCUMENT) -> Asked:
    """The request in a body; `usual` says what the texts are where the body does not. Raises `RequestError` naming the field."""
    given = fields.values.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 0 < len(texts) <= INPUTS or not all(isinstance(text, str) and text for text in texts):
        raise RequestError(f"input must be a text or a list of 1 to {INPUTS} texts, none of them empty; tokens are not supported", "input")
    encoding = fields.values.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise fields.wrong("encoding_format", "float or base64")
    own = fields.object("ragstone")
    own.only("input_type")
    kind = own.values.get("input_type", usual)
    if kind not in KINDS:
        raise own.wrong("input_type", f"{', '.join(KINDS[:-1])} or {KINDS[-1]}")
    return Asked(fields.text("model"), tuple(texts), encoding == "base64", fields.whole("dimensions", 1, 1 << 16), kind)


def answer(asked: Asked, vectors: Vectors, tokens: int) -> dict[str, Any]:
    """The body of the answer: the vectors, cut to the dimensions that were asked for and then of length 1 again."""
    data = [
        {"object": "embedding", "index": number, "embedding": _base64(vector) if asked.base64 else vector.tolist()}
        for number, vector in enumerate(_shortened(vectors, asked.dimensions))
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    if dimensions is None:
        return vectors
    short = vectors[:, :dimensions]
    lengths = np.linalg.norm(short, axis=1, keepdims=True)
    shortened: Vectors = (short / np.maximum(lengths, 1e-12)).astype(np.float32)
    return shortened


def _base64(vector: Vectors) -> str:
    """Little-endian float32, as OpenAI sends it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
