"""What a new model must not unlearn: small collections of questions, each with one passage that answers it and near misses beside it.

General language and negation are written by hand and shipped. Identifiers and numbers are made from the corpus: its passages stand
beside copies in which the identifier or number is another. It knows no model; `evaluate` asks the questions.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice

from ragstone.corpus import Chunk
from ragstone.corpus.pairs import Mined, Question
from ragstone.words import FUNCTION

QUESTIONS = 120
"""Made from a corpus, at most."""
LEAST = 30
"""With fewer no fall could be told from chance, and the guard is left out."""
PASSAGE = 40
"""Words of a made passage."""
ASKED = 4
"""Words of a made question beside the identifier or number, at most; with fewer than two it would ask for nothing."""
NEAR = 8
"""How many words before and after it those are taken from."""

NUMBER = re.compile(r"\d[\d.,]*\d(?:%|[A-Za-z]{1,2})?")
IDENTIFIER = re.compile(
    r"""
    (?=.*[A-Za-z])(?:
      (?=.*\d)(?!\d+(?:st|nd|rd|th)$)\w+(?:[-./:]\w+)*      # E-1042, utf-8, x15
    | \w*[A-Za-z0-9]_\w+ | \w+_[A-Za-z0-9]\w*               # max_tokens, __init__
    | [A-Za-z_]{2,}(?:\.[A-Za-z_]{2,})+                     # os.path.join
    | [a-z]+[A-Z]\w*                                        # getName
    )""",
    re.VERBOSE,
)
Kind = Callable[[str], bool]


@dataclass(frozen=True)
class Guard:
    """A collection by name: every question is asked of all passages."""

    name: str
    questions: tuple[Question, ...]
    passages: tuple[Chunk, ...]
    shipped: bool = False
    """Whether the retriever as a whole is held to it too, and not the embedding model alone."""


def guards(mined: Mined, seed: int = 17) -> tuple[Guard, ...]:
    """The guards of a corpus: the shipped ones, and those made from it as far as it has identifiers and numbers.

    They are made from documents that training did not see where there are enough.
    """
    unseen = {question.document for question in mined.questions}
    made = (make(name, mined.judged, unseen, seed) for name in KINDS)
    return (*(shipped(name) for name in SHIPPED), *(guard for guard in made if guard))


SHIPPED = ("general", "negation")


def shipped(name: str) -> Guard:
    """A guard of `ragstone/guards/`, by the file's name. Two questions over the same passages are of one document."""
    text = resources.files("ragstone").joinpath(f"guards/{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    ids: dict[str, str] = {}
    for row in rows:
        for passage in (row["right"], *row["wrong"]):
            ids.setdefault(passage, f"{name} {len(ids)}")
    asked = [Question(row["question"], min(ids[one] for one in (row["right"], *row["wrong"])), (ids[row["right"]],), name) for row in rows]
    return Guard(name, tuple(asked), tuple(_passage(id, passage) for passage, id in ids.items()))


def make(name: str, chunks: Sequence[Chunk], unseen: Collection[str] = (), seed: int = 17) -> Guard | None:
    """The `identifiers` or `numbers` of a corpus, those of `unseen` documents first; None when there are too few."""
    draw = random.Random(f"{name} {seed}")
    order = draw.sample(list(chunks), len(chunks))
    order.sort(key=lambda chunk: chunk.document not in unseen)
    spots = list(islice(_spots(order, KINDS[name], draw), QUESTIONS))
    if len(spots) < LEAST:
        return None
    others = sorted({spot.token for spot in spots})
    passages: list[Chunk] = []
    questions: list[Question] = []
    for at, spot in enumerate(spots):
        right = _passage(f"{name} {at}", spot.passage, spot.document)
        wrong = _passage(f"{name} {at} changed", spot.with_token(changed(spot.token, others, draw)), spot.document)
        passages += [right, wrong]
        questions.append(Question(spot.question, spot.document, (right.id,), name))
    return Guard(name, tuple(questions), tuple(passages), shipped=True)


def changed(token: str, others: Sequence[str], draw: random.Random) -> str:
    """The token with every digit another one; one without digits becomes one of the others.

    >>> changed("E-104", [], random.Random(1)), changed("os.path", ["os.path", "getName"], random.Random(1))
    ('E-426', 'getName')
    """
    if any(character.isdigit() for character in token):
        return re.sub(r"\d", lambda digit: draw.choice([one for one in "123456789" if one != digit[0]]), token)
    return draw.choice([other for other in others if other != token] or [token[::-1]])


def is_identifier(token: str) -> bool:
    """Whether it names one thing by its letters, not by its meaning.

    >>> [token for token in ("E-1042", "utf-8", "os.path", "getName", "max_size", "3rd", "wing-body", "1958") if is_identifier(token)]
    ['E-1042', 'utf-8', 'os.path', 'getName', 'max_size']
    """
    return bool(IDENTIFIER.fullmatch(token)) and not is_number(token)


def is_number(token: str) -> bool:
    """Whether it is a number of two digits or more, with a sign of its unit or none.

    >>> [token for token in ("1958", "5.8", "10,000", "12mm", "95%", "7", "x15") if is_number(token)]
    ['1958', '5.8', '10,000', '12mm', '95%']
    """
    return bool(NUMBER.fullmatch(token))


KINDS: Mapping[str, Kind] = {"identifiers": is_identifier, "numbers": is_number}


@dataclass(frozen=True)
class _Spot:
    """An identifier or number where a corpus has it."""

    token: str
    question: str
    passage: str
    document: str

    def with_token(self, token: str) -> str:
        """The passage with another token wherever this one stands."""
        whole = re.compile(rf"(?<!\w){re.escape(self.token)}(?!\w)")
        return whole.sub(lambda _: token, self.passage)


def _spots(chunks: Sequence[Chunk], kind: Kind, draw: random.Random) -> Iterator[_Spot]:
    """One spot a chunk, no token twice."""
    met: set[str] = set()
    for chunk in chunks:
        words = chunk.text.split()
        places = [at for at, word in enumerate(words) if kind(_bare(word)) and _bare(word) not in met]
        for at in draw.sample(places, min(3, len(places))):
            spot = _spot(words, at, chunk.document)
            if spot:
                met.add(spot.token)
                yield spot
                break


def _spot(words: Sequence[str], at: int, document: str) -> _Spot | None:
    """The spot with the telling words around it as its question; None when hardly any are there."""
    around = [(near, _bare(words[near])) for near in range(max(0, at - NEAR), min(len(words), at + NEAR + 1))]
    telling = [(near, word) for near, word in around if word.isalpha() and len(word) > 2 and word.lower() not in FUNCTION]
    nearest = sorted(telling, key=lambda one: abs(one[0] - at))[:ASKED]
    if len(nearest) < 2:
        return None
    token = _bare(words[at])
    question = " ".join(word for _, word in sorted([*nearest, (at, token)]))
    start = max(0, min(at - PASSAGE // 2, len(words) - PASSAGE))
    return _Spot(token, question, " ".join(words[start : start + PASSAGE]), document)


def _bare(word: str) -> str:
    return word.strip(".,;:!?()[]{}\"'`*<>=")


def _passage(id: str, text: str, document: str = "") -> Chunk:
    return Chunk(id, document or id, "", (), 0, len(text), text)
