"""Questions that a generator wrote for passages: how it is asked, and which of them are kept. It knows no generator and no index."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ragstone.corpus import Chunk
from ragstone.corpus.pairs import Pair, Search, words
from ragstone.words import content

PROMPT = """Passage:
{passage}

Write one short question that a reader could ask and that this passage answers. Use your own words. Write only the question."""
"""Of four forms, two with a system message, this was the one that SmolLM2-135M answered with a question to six of six passages."""

FOUND = 5
"""Among so many first hits the passage must be: else the question asks for something else, or for any passage."""
COPIED = 0.8
"""The share of a question's words that the passage may have. Past that it is no more than the mined kinds, which copy the passage too."""
SHORTEST, LONGEST = 3, 40
"""Words of a question."""

QUESTION = re.compile(r"\W*(?:\d+[.)]\s)?\W*(?:question\W*:\W*)?([^?？\n]+[?？])", re.IGNORECASE)
"""A question without the list mark, the label and the quotes before it."""


@dataclass(frozen=True)
class Written:
    """The pairs that were kept, of how many passages, and why the others gave none."""

    pairs: tuple[Pair, ...]
    passages: int
    unanswered: int
    malformed: int
    copied: int
    lost: int

    def __str__(self) -> str:
        return (
            f"{len(self.pairs)} of {self.passages} passages gave one; left out: {self.unanswered} without an answer, "
            f"{self.malformed} without a question, {self.copied} that copy the passage or each other, {self.lost} that do not find it"
        )


def passages(pairs: Sequence[Pair], chunks: Sequence[Chunk], most: int) -> list[Chunk]:
    """The first passages that the pairs were mined from, which are in a drawn order already and never held out."""
    by_id = {chunk.id: chunk for chunk in chunks}
    return [by_id[id] for id in dict.fromkeys(pair.chunk for pair in pairs)][: max(0, most)]


def sift(passages: Sequence[Chunk], said: Mapping[str, str], find: Callable[[list[str]], Search]) -> Written:
    """What is kept of what was `said` to each passage, by its id: questions that find their passage again and do not copy it.

    `find(questions)` is the search for these questions.
    """
    asked = [(question(said[chunk.id]), chunk) for chunk in passages if chunk.id in said]
    times = Counter(text for text, _ in asked)
    own = [(text, chunk) for text, chunk in asked if text and times[text] == 1 and not is_copied(text, chunk.context)]
    search = find([text for text, _ in own])
    found = [(text, chunk) for text, chunk in own if chunk.id in {id for id, _ in search(text, FOUND)}]
    return Written(
        pairs=tuple(Pair(text, chunk.id, chunk.document, chunk.context, kind="written") for text, chunk in found),
        passages=len(passages),
        unanswered=len(passages) - len(asked),
        malformed=times[""],
        copied=len(asked) - times[""] - len(own),
        lost=len(own) - len(found),
    )


def question(said: str) -> str:
    r"""The first question in what a generator said, or nothing.

    >>> question('Sure!\n1. **Question:** "How long is the pump primed?" It tests understanding.')
    'How long is the pump primed?'
    >>> question("The pump is primed for ninety seconds."), question("Why?")
    ('', '')
    """
    for line in said.splitlines():
        match = QUESTION.match(line)
        if match and SHORTEST <= len(words(match[1])) <= LONGEST:
            return match[1].strip()
    return ""


def is_copied(question: str, passage: str) -> bool:
    """Whether hardly a word of the question, by its stem, is not in the passage.

    >>> passage = "Prime the feed pump for ninety seconds before it is started."
    >>> is_copied("How many seconds is the feed pump primed?", passage), is_copied("How long must the feed pump be vented?", passage)
    (True, False)
    """
    asked = {word.stem for word in content(question)}
    return len(asked & {word.stem for word in content(passage)}) >= COPIED * len(asked)
