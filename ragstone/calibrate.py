"""Where does a question belong? The fit of a release's calibration, without labels. It knows no gate and no training.

Every corpus weighs the evidence alike. Three numbers are fitted to it and its model: how wide the cosines lie, how much less long rows of
words find by chance than short ones, and where the threshold lies: above what words of the corpus reach in no order, which is the most that
a question without a meaning can reach, and above what people ask elsewhere.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ragstone import phrasing
from ragstone.analyser import STOP_WORDS
from ragstone.corpus import PUBLIC, Chunk
from ragstone.corpus.pairs import WIDE, words
from ragstone.distribution import Distribution
from ragstone.retrieve import Calibration, Features, Hit, Retriever

Floats = NDArray[np.float64]

FORMAT = 5
"""Counts up with every change of what a calibration rests on or how it is fitted."""
SAMPLE = 20_000
"""Chunks that questions and words are drawn from at most: 150 questions are asked, and 500 rows of words, whatever the corpus holds."""

COSINE, KEYWORD, PHRASING = 6.5, 3.0, 2.0
"""The weights, that of the cosine over the distance of what own and foreign questions reach in it: 12 for MiniLM. Weights that were fitted
to each corpus did no better on four judged collections, and worse where the questions made from a corpus are unlike people's."""
REFUSED = 0.87
"""The share of the corpus's own words in no order that must lie below the threshold. 0.96 refuses 2 to 12 % more of new ones and answers
1 to 9 % less of what people ask (five judged collections); what is asked of others is refused either way, 96 % and more."""
TAIL = 2.44
"""Where 95 % of a normal distribution lie, in distances of its median and third quartile above the median."""
FEW = 20
"""Of fewer own questions a corpus is a few passages: its words in no order are hardly less than a search of it, and place nothing."""
BEST, FEATURES = 5, 4
SPOKEN = re.compile(rf"[{WIDE}]|[^\s{WIDE}]+")
"""A word with its hyphens and marks, as one would copy it; a Chinese, Japanese or Korean character."""


@dataclass(frozen=True)
class Fit:
    """A calibration and what it does at the threshold that it was fitted for."""

    calibration: Calibration
    answered: float
    """The share of the corpus's own questions that reach the threshold."""
    refused: float
    """The share of foreign and meaningless questions that do not."""
    questions: int
    foreign: int
    distribution: Distribution = field(repr=False)
    """What own passages and what the best ones of foreign questions got."""


@dataclass(frozen=True)
class Asked:
    """What was found for some questions: the features of the best hits of each, [questions, hits, features], and the hits."""

    found: Floats
    hits: Sequence[Sequence[Hit]] = ()

    @property
    def cosine(self) -> float:
        """The median of the best cosines."""
        return float(np.median(self.found[:, :, 0].max(axis=1)))

    @property
    def length(self) -> Floats:
        return self.found[:, 0, -1]

    def reach(self, weights: Floats) -> Floats:
        """What the best hit of each question gets: a score, as the logistic takes it."""
        best: Floats = (self.found[:, :, : len(weights)] @ weights).max(axis=1)
        return best


def fit(
    retriever: Retriever,
    own: Sequence[str],
    chunks: Sequence[Chunk],
    *,
    sources: Mapping[str, Collection[str]] = MappingProxyType({}),
    groups: tuple[str, ...] = (PUBLIC,),
    threshold: float = 0.75,
    limit: int = 150,
    seed: int = 17,
) -> Fit:
    """The calibration of a corpus: its questions reach `threshold`, other people's questions and meaningless ones do not.

    `own` are questions that were made from the corpus, of which at most `limit` are drawn: they say how wide the cosines lie, and are
    counted; `sources` names the chunks that each was made from. `chunks` give the words for meaningless ones.
    """
    draw = random.Random(f"calibration {seed}")
    source = [chunk.context for chunk in chunks] if len(own) >= FEW else phrasing.questions()
    asked = draw.sample(list(own), min(limit, len(own)))
    ours = _ask(retriever, asked, groups)
    foreign = _ask(retriever, draw.sample(phrasing.questions(), 250), groups)
    salad = _ask(retriever, jumble(source, 500, seed), groups)
    weights = np.array([_cosine_weight(ours, foreign), KEYWORD, PHRASING])
    weights = np.append(weights, _length_weight(salad.reach(weights), salad.length))
    high, low, lowest = (asked.reach(weights) for asked in (ours, foreign, salad))
    cut = max(_usual_most(low), float(np.quantile(lowest, REFUSED)))
    calibration = Calibration((math.log(threshold / (1 - threshold)) - cut, *map(float, weights)))
    refused = np.concatenate([low, lowest]) <= cut
    found = _distribution(retriever.calibration, calibration, [sources.get(one, ()) for one in asked], ours, foreign)
    return Fit(calibration, _share(high > cut), _share(refused), len(high), len(refused), found)


def jumble(texts: Sequence[str], count: int, seed: int = 17) -> list[str]:
    """Rows of 4 to 50 words of the texts in no order, short rows as often as long ones.

    In every other row two of five words are those that questions are put in, and none of the others is.

    >>> [len(row.split()) for row in jumble(["Torque of the bonnet bolts in Nm"], 4)]
    [15, 34, 21, 4]
    """
    draw = random.Random(f"jumble {seed}")
    frame = [word for question in phrasing.questions() for word in words(question) if word in STOP_WORDS]
    lengths = [round(math.exp(draw.uniform(math.log(4), math.log(50)))) for _ in range(count)]
    return [" ".join(_word(texts, frame if row % 2 else [], draw) for _ in range(length)) for row, length in enumerate(lengths)]


def _word(texts: Sequence[str], frame: Sequence[str], draw: random.Random) -> str:
    if frame and draw.random() < 0.4:
        return draw.choice(frame)
    for _ in range(20):
        said = SPOKEN.findall(draw.choice(texts))
        word = draw.choice(said) if said else ""
        if word and not (frame and word.lower() in STOP_WORDS):
            return word
    return "the"


def _distribution(before: Calibration, after: Calibration, own: Sequence[Collection[str]], ours: Asked, foreign: Asked) -> Distribution:
    """The scores of own passages, and of the best ones of foreign questions, as a search with the fitted calibration gives them."""

    def score(hit: Hit) -> float:
        return round(hit.score / before.probability(hit.features) * after.probability(hit.features), 4)

    known = [(ids, hits) for ids, hits in zip(own, ours.hits, strict=True) if ids]
    relevant = [max(map(score, mine)) for ids, hits in known if (mine := [hit for hit in hits if hit.chunk.id in ids])]
    return Distribution(tuple(relevant), tuple(max(map(score, hits), default=0.0) for hits in foreign.hits), len(known))


def _ask(retriever: Retriever, questions: Sequence[str], groups: tuple[str, ...]) -> Asked:
    hits = [retriever.search(question, groups, BEST) for question in questions]
    features = [_features(question, found) for question, found in zip(questions, hits, strict=True)]
    return Asked(np.array(features).reshape(len(questions), BEST, FEATURES), hits)


def _features(question: str, hits: Sequence[Hit]) -> list[Features]:
    """Those of the best hits, the last one again where there are fewer."""
    found = [hit.features for hit in hits] or [(0.0, 0.0, *phrasing.features(question, []))]
    return found + [found[-1]] * (BEST - len(found))


def _cosine_weight(ours: Asked, foreign: Asked) -> float:
    """The weight of the cosine under this model; the default where nothing shows how wide it lies."""
    if len(ours.found) < FEW:
        return Calibration.default().coefficients[1]
    return COSINE / max(0.1, ours.cosine - foreign.cosine)


def _length_weight(reached: Floats, length: Floats) -> float:
    """How much the most that is reached without meaning falls from short rows of words to long ones; 0 where it does not fall."""
    order = np.argsort(length, kind="stable")
    short, long = np.array_split(order, 2)
    fall = _high(reached[short]) - _high(reached[long])
    return max(0.0, float(fall / max(0.1, length[long].mean() - length[short].mean())))


def _high(values: Floats) -> float:
    """The mean and 2.2 deviations: steadier than a quantile of so few."""
    return float(values.mean() + 2.2 * values.std())


def _usual_most(values: Floats) -> float:
    """Where 95 % would lie if the upper half were like the third quarter: some foreign questions may be of the corpus's own field."""
    middle, upper = np.quantile(values, [0.5, 0.75])
    return float(middle + TAIL * (upper - middle))


def _share(which: NDArray[np.bool_]) -> float:
    return float(which.mean()) if len(which) else 0.0
