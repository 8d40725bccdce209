"""How much the cosine, words and bigrams should count, by what people asked of this corpus. It knows no training and no gate.

Collections differ in it more than any fixed weights can serve: questions in a corpus' own phrases want bigrams, long ones in other
words the cosine. Questions mined from documents can't tell (`docs/train.md`); labelled ones can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ragstone.config import Retrieve
from ragstone.corpus.pairs import Question
from ragstone.embedder import Embedder
from ragstone.evaluate import Floats, answered, paired_bootstrap
from ragstone.index import Candidate, Index, Query
from ragstone.retrieve import fuse

Weights = tuple[float, ...]

DENSE = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
BIGRAM = (0.0, 0.2, 0.5, 1.0)
QUESTIONS = 60
"""Fewer labelled questions choose nothing."""
DEPTH = 30
"""Hits that are looked at: of a target with several chunks the first counts, and the others are passed over."""


def learn(index: Index, model: Embedder, questions: Sequence[Question], groups: tuple[str, ...], settings: Retrieve) -> Weights:
    """`dense_weight` and `bigram_weight` under which the questions find most, nDCG@10; none when the settings' own do as well.

    The best of the grid is taken when it is better at the lower end of a 95 % interval over questions.
    """
    if len(questions) < QUESTIONS:
        return ()
    found = scores(index, model, questions, groups, settings)
    best = max(found, key=lambda weights: float(found[weights].mean()))
    own = found[settings.dense_weight, settings.bigram_weight]
    return best if paired_bootstrap(own, found[best]).low > 0 else ()


def scores(
    index: Index, model: Embedder, questions: Sequence[Question], groups: tuple[str, ...], settings: Retrieve
) -> Mapping[Weights, Floats]:
    """Each question's nDCG@10, by the weights of the grid and the settings' own."""
    vectors = model.queries([question.text for question in questions])
    found: dict[Weights, Floats] = {}
    for bigram in sorted({*BIGRAM, settings.bigram_weight}):
        lists = [
            index.search(Query(question.text, vector, groups, settings.candidates, bigram_weight=bigram))
            for question, vector in zip(questions, vectors, strict=True)
        ]
        for dense in sorted({*DENSE, settings.dense_weight}):
            found[dense, bigram] = np.array([_score(*each, dense) for each in zip(questions, lists, strict=True)])
    return found


def _score(question: Question, candidates: Sequence[Candidate], dense_weight: float) -> float:
    return answered([candidate.chunk for candidate, _ in fuse(candidates, dense_weight)[:DEPTH]], question)
