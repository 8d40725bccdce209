"""Does 0.75 mean what it says? Who is answered and who refused at the default threshold, calibrated without labels.

    python -m benchmarks.calibration FOLDER [--collections A,B] [--questions N] [--minutes M]

FOLDER holds collections in BEIR's layout; a document is one chunk. Each is asked what people asked of it, what they asked of the others,
and words in no order; by the base model, and by the same joined to the term space of the corpus; writes `docs/calibration.svg` besides.
With `--minutes` instead by the model that is half of so many minutes of training: on the collection's labels (its `train` and `dev`
splits), or on its documents where there are none.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import ROOT, record
from benchmarks.training import SHIPPED, Bench, Collection, build, encode, read
from ragstone import calibrate, embedder, terms, weights
from ragstone.corpus import PUBLIC, labels
from ragstone.corpus.pairs import mine
from ragstone.corpus.views import views
from ragstone.embedder import Embedder
from ragstone.evaluate import Floats
from ragstone.index import Index, Vectors
from ragstone.recipe import Recipe
from ragstone.retrieve import Calibration, Retriever, weighed

COLLECTIONS = ("cranfield", "cisi", "medquad_liveqa", "tatqa_passages", "scifact")
ONE_FIELD = {"medquad_liveqa", "scifact"}
"""Collections of one field, medicine: what is asked of one is a near miss for the other."""
OWN = "asked of it by people"
OTHER = "asked of other collections"
WORDS = ("words of the corpus", "words of its questions", "words of other questions", "3 to 6 words of the corpus")
BINS = 10
Questions = Mapping[str, Sequence[str]]
Curve = Sequence[tuple[float, float]]
"""Points of a reliability diagram: a score, and the share of questions of that score that are the corpus's own."""


@dataclass(frozen=True)
class Subject:
    """A collection under a model, and the calibration that was fitted to them."""

    collection: Collection
    vectors: Vectors
    model: Embedder
    fit: calibrate.Fit

    def scores(self, questions: Sequence[str], without: frozenset[str] = frozenset()) -> Floats:
        """Each question's best score, in a corpus without those documents."""
        kept = [row for row, chunk in enumerate(self.collection.chunks) if chunk.id not in without]
        with closing(build([self.collection.chunks[row] for row in kept], self.vectors[kept])) as index:
            retriever = shipped(index, self.model, self.fit.calibration)
            found = [retriever.search(question, (PUBLIC,), SHIPPED.top_k) for question in questions]
        return np.array([max((hit.score for hit in hits), default=0.0) for hits in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--collections", default=",".join(COLLECTIONS))
    parser.add_argument("--questions", type=int, default=150, help="at most so many of each kind")
    parser.add_argument("--minutes", type=float, default=0.0, help="train for so long, and measure that model")
    arguments = parser.parse_args()
    collections = {name: read(arguments.folder / name, "test") for name in COLLECTIONS}
    figures: dict[str, object] = {}
    curves: dict[str, Curve] = {}
    with tempfile.TemporaryDirectory() as work:
        for name in arguments.collections.split(","):
            folder = Path(work, name)
            models = (
                trained(arguments.folder / name, collections[name], folder, arguments.minutes)
                if arguments.minutes
                else untrained(collections[name], folder)
            )
            for model, subject in models.items():
                scores = measure(name, subject, collections, arguments.questions)
                curves[f"{name}, {model}"] = reliability(scores)
                figures[f"{name}, {model}"] = {"fit": asdict(subject.fit), **shares(scores), "reliability": curves[f"{name}, {model}"]}
                print(name, model, shares(scores), flush=True)
    record("calibration-trained" if arguments.minutes else "calibration", figures)
    if not arguments.minutes:
        (ROOT / "docs" / "calibration.svg").write_text(diagram(curves))


def untrained(collection: Collection, work: Path) -> dict[str, Subject]:
    """The collection under the base model, and under the same with the collection's term space."""
    for name in ("base", "joined"):
        embedder.prepare(weights.pull("minilm"), work / name, name="minilm", base="minilm")
    base = Embedder(work / "base")
    plain = base.plain([views(chunk) for chunk in collection.chunks])
    texts = [chunk.context for chunk in collection.chunks]
    drawn = random.Random(17).sample(texts, len(texts))
    learned = terms.learn(drawn, base.documents(drawn[:1_000]), 17)
    assert learned
    learned.save(work / "joined")
    joined = Embedder(work / "joined")
    return {"base": calibrated(collection, plain, base), "term space": calibrated(collection, joined.joined(plain, texts), joined)}


def trained(folder: Path, collection: Collection, work: Path, minutes: float) -> dict[str, Subject]:
    """The collection under the model that `ragstone train` makes of half of the trained weights, whatever the gate would say of it."""
    work.mkdir()
    bench = Bench(work, minutes, Recipe.seed, None)
    known = labels.read([folder] if (folder / "qrels" / "train.tsv").exists() else [])
    recipe, material = bench.prepare(collection, known)
    model = bench.candidates(bench.corpus(collection, material), recipe)[recipe.interpolations[0]]
    return {"trained": calibrated(collection, encode(model, collection.chunks, {}), model)}


def calibrated(collection: Collection, vectors: Vectors, model: Embedder) -> Subject:
    own = [question.text for question in mine(collection.chunks).questions]
    with closing(build(collection.chunks, vectors)) as index:
        fit = calibrate.fit(shipped(index, model, Calibration.default()), own, collection.chunks)
    return Subject(collection, vectors, model, fit)


def shipped(index: Index, model: Embedder, calibration: Calibration) -> Retriever:
    """The search with the weights that the model learned from labels, or the settings' own."""
    return Retriever.of(index, model, calibration, weighed(SHIPPED, model))


def measure(name: str, subject: Subject, collections: Mapping[str, Collection], count: int) -> dict[str, Floats]:
    """The best scores of every kind of question, near misses among them."""
    draw = random.Random(f"calibration of {name}")
    asked = {other: some(draw, [*one.questions.values()], count) for other, one in collections.items()}
    near = {other for other in asked if {name, other} <= ONE_FIELD} - {name}
    far = [question for other in asked.keys() - near - {name} for question in asked[other]]
    kinds = {OWN: asked[name], OTHER: sorted(far), **jumbled(subject.collection, asked[name], sorted(far), draw, count)}
    kinds["asked of the same field"] = [question for other in near for question in asked[other]]
    scores = {kind: subject.scores(questions) for kind, questions in kinds.items() if questions}
    ids = some(draw, sorted(subject.collection.questions), min(count, len(subject.collection.questions) // 3))
    answers = frozenset(document for id in ids for document in subject.collection.relevant[id])
    return scores | {"whose answers were removed": subject.scores([subject.collection.questions[id] for id in ids], answers)}


def jumbled(collection: Collection, own: Sequence[str], far: Sequence[str], draw: random.Random, count: int) -> dict[str, Sequence[str]]:
    """Words in no order, in rows as long as the questions of people; and those of one passage only, which may well be searched for."""
    texts = [chunk.context for chunk in collection.chunks]
    lengths = [len(question.split()) for question in draw.choices(own, k=count)]
    short = [draw.randint(3, 6) for _ in range(count)]
    rows = [shuffled(source, size, draw) for source, size in ((texts, lengths), (own, lengths), (far, lengths), (texts, short))]
    one = [shuffled([text], [length], draw)[0] for text, length in zip(draw.choices(texts, k=count), lengths, strict=True)]
    rare = [pair.question for pair in mine(collection.chunks).pairs if pair.kind == "keyword"]
    return dict(zip(WORDS, rows, strict=True)) | {"words of one passage": one, "rare words of one passage": some(draw, rare, count)}


def shuffled(texts: Sequence[str], lengths: Sequence[int], draw: random.Random) -> list[str]:
    """Rows of so many words, each word from any of the texts."""
    return [" ".join(draw.choice(draw.choice(texts).split()) for _ in range(length)) for length in lengths]


def some(draw: random.Random, questions: Sequence[str], count: int) -> list[str]:
    return draw.sample(questions, min(count, len(questions)))


def shares(scores: Mapping[str, Floats]) -> dict[str, float]:
    """What share of each kind reaches the shipped threshold, and of how many."""
    reached = {kind: float(np.mean(values >= SHIPPED.similarity_threshold)) for kind, values in scores.items()}
    return {f"{kind} ({len(scores[kind])}), answered": round(share, 3) for kind, share in reached.items()}


def reliability(scores: Mapping[str, Floats]) -> Curve:
    """Of questions that score about so much, how many are the corpus's own, if these and all that must be refused are equally many."""
    own, other = scores[OWN], np.concatenate([scores[kind] for kind in (OTHER, *WORDS)])
    points = []
    for low, high in itertools.pairwise(np.linspace(0, 1.000001, BINS + 1)):
        ours, theirs = (float(np.mean((values >= low) & (values < high))) for values in (own, other))
        if ours + theirs > 0.005:
            points.append((round(float(low + high) / 2, 2), round(ours / (ours + theirs), 3)))
    return points


SIDE, GAP, COLUMNS = 180, 50, 2


def diagram(curves: Mapping[str, Curve]) -> str:
    """A square for each curve: the score from left to right, the share of own questions upwards, and the line of perfect reliability."""
    step = SIDE + GAP
    corners = [(GAP + at % COLUMNS * step, GAP + at // COLUMNS * step) for at in range(len(curves))]
    squares = [square(title, points, *corner) for (title, points), corner in zip(curves.items(), corners, strict=True)]
    size = f'width="{GAP + COLUMNS * step}" height="{GAP + -(-len(curves) // COLUMNS) * step}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *squares, "</svg>\n"])


def square(title: str, points: Curve, left: int, top: int) -> str:
    places = [(left + x * SIDE, top + (1 - y) * SIDE) for x, y in points]
    threshold = left + SHIPPED.similarity_threshold * SIDE
    parts = [
        f'<text x="{left}" y="{top - 8}">{title}</text>',
        f'<rect x="{left}" y="{top}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>',
        path([(left, top + SIDE), (left + SIDE, top)], "#ccc"),
        path([(threshold, top), (threshold, top + SIDE)], "#ccc"),
        path(places, "#1f5fa8"),
        *(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="#1f5fa8"/>' for x, y in places),
        f'<text x="{left}" y="{top + SIDE + 14}">0</text><text x="{left + SIDE - 8}" y="{top + SIDE + 14}">1</text>',
    ]
    return "\n".join(parts)


def path(points: Sequence[tuple[float, float]], colour: str) -> str:
    return f'<polyline points="{" ".join(f"{x:.0f},{y:.0f}" for x, y in points)}" stroke="{colour}" fill="none"/>'


if __name__ == "__main__":
    main()
