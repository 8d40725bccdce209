"""The whole loop on a judged collection: does training, on the documents alone or with labels, help the questions that people asked?

    python -m benchmarks.training FOLDER [--labels PATH] [--split test] [--minutes M] [--seed N] [--questions N] [--documents N]

`--labels` adds a file or folder of labels; FOLDER itself adds its `train` and `dev` splits. FOLDER is in BEIR's layout (`corpus.jsonl`,
`queries.jsonl`, `qrels/<split>.tsv`); a document is one chunk. The human questions of the split are read only after the gate has spoken.
Every candidate is then measured, dense alone and as shipped, whatever the gate said of it.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import record
from ragstone import embedder, train, weights
from ragstone.config import Retrieve
from ragstone.corpus import PUBLIC, Chunk, labelled, labels
from ragstone.corpus.labels import Labels
from ragstone.corpus.pairs import Search, mine
from ragstone.corpus.views import views
from ragstone.embedder import Embedder
from ragstone.evaluate import Floats, fit_calibration, foreign_questions, gate, ndcg, paired_bootstrap
from ragstone.index import Index, Vectors, local
from ragstone.retrieve import Calibration, Retriever
from ragstone.train import Progress, Recipe

SHIPPED = Retrieve()
MARGIN = 0.02


@dataclass(frozen=True)
class Collection:
    """Documents as chunks, questions by id, and each question's relevant documents with their grades."""

    chunks: list[Chunk]
    questions: dict[str, str]
    relevant: dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=Path, action="append", default=[], help="what `ragstone train --pairs` takes; may be repeated")
    parser.add_argument("--split", default="test")
    parser.add_argument("--minutes", type=float, default=Recipe.minutes)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--questions", type=int, default=0, help="a sample of the human questions; 0 takes all")
    parser.add_argument("--documents", type=int, default=0, help="the relevant documents and a sample of the others; 0 takes all")
    arguments = parser.parse_args()
    collection = sample(read(arguments.folder, arguments.split), arguments.questions, arguments.documents)
    with tempfile.TemporaryDirectory() as name:
        figures = measure(collection, labels.read(arguments.labels), Recipe(minutes=arguments.minutes, seed=arguments.seed), Path(name))
    kind = "labelled" if arguments.labels else "training"
    record(f"{kind}-{arguments.folder.name}-{arguments.seed}", {"collection": arguments.folder.name, **figures})


def read(folder: Path, split: str) -> Collection:
    documents, asked = (lines(folder / f"{name}.jsonl") for name in ("corpus", "queries"))
    chunks = [whole(row) for row in documents if row["text"].strip()]
    relevant: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        question, document, grade = line.split("\t")
        if float(grade) > 0:
            relevant.setdefault(question, {})[document] = float(grade)
    return Collection(chunks, {row["_id"]: row["text"] for row in asked if row["_id"] in relevant}, relevant)


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def whole(row: Mapping[str, str]) -> Chunk:
    """A document as its only chunk."""
    return Chunk(row["_id"], row["_id"], row.get("title", ""), (), 0, len(row["text"]), row["text"])


def sample(collection: Collection, questions: int, documents: int) -> Collection:
    """At most so many questions, and of the documents those that answer one of them and others up to the number; 0 is all."""
    draw = random.Random("sample")
    ids = sorted(collection.questions)
    kept = draw.sample(ids, min(questions or len(ids), len(ids)))
    wanted = {document for id in kept for document in collection.relevant[id]}
    others = [chunk.id for chunk in collection.chunks if chunk.id not in wanted]
    room = max(0, (documents or len(collection.chunks)) - len(wanted))
    wanted |= set(draw.sample(others, min(room, len(others))))
    chunks = [chunk for chunk in collection.chunks if chunk.id in wanted]
    return Collection(chunks, {id: collection.questions[id] for id in kept}, {id: collection.relevant[id] for id in kept})


def measure(collection: Collection, known: Labels, recipe: Recipe, work: Path) -> dict[str, object]:
    weights_folder = work / "base"
    embedder.prepare(weights.pull("minilm"), weights_folder, name="minilm", base="minilm")
    base = Embedder(weights_folder)
    material = labelled.prepare(known, mine(collection.chunks, seed=recipe.seed), collection.chunks)
    mined = material.mined
    retriever = Retriever(build(collection.chunks, encode(base, collection.chunks)), base, Calibration.default())
    pairs = material.pairs(collection.chunks, search(retriever), seed=recipe.seed)
    began = time.perf_counter()
    steps: list[Progress] = []
    folders = train.connect("local").train(weights_folder, pairs, recipe, work / "train", steps.append)
    seconds = time.perf_counter() - began
    candidates = {share: Embedder(folder) for share, folder in folders.items()}
    verdict = gate(base, candidates, mined, build, SHIPPED, 0.0 if material.judged_by_people else MARGIN)
    human = {share: compare(base, candidate, collection) for share, candidate in candidates.items()}
    return {
        "documents": len(collection.chunks),
        "pairs": len(pairs),
        "steps": len(steps),
        "seconds of training": round(seconds),
        "verdict": str(verdict),
        "gate": asdict(verdict),
        "human questions": len(collection.questions),
        "share of tuned weights": human,
        "calibration of the base": calibration(retriever, [one.text for one in mined.questions], collection),
    }


def encode(model: Embedder, chunks: Sequence[Chunk]) -> Vectors:
    return model.passages([views(chunk) for chunk in chunks])


def build(chunks: Sequence[Chunk], vectors: Vectors) -> Index:
    folder = Path(tempfile.mkdtemp(prefix="ragstone-training-"))
    local.build(folder, chunks, vectors)
    return local.open(folder, "benchmark")


def search(retriever: Retriever) -> Search:
    return lambda question, limit: [(hit.chunk.id, hit.dense) for hit in retriever.search(question, (PUBLIC,), limit)]


def compare(base: Embedder, tuned: Embedder, collection: Collection) -> dict[str, object]:
    """Base and tuned on the human questions: dense alone and the shipped retriever."""
    before, after = (judge(model, collection) for model in (base, tuned))
    return {way: difference(before[way], after[way]) for way in before}


def judge(model: Embedder, collection: Collection) -> Mapping[str, Floats]:
    """Each human question's nDCG@10, by exact cosine alone and as shipped."""
    vectors = encode(model, collection.chunks)
    retriever = Retriever(build(collection.chunks, vectors), model, Calibration.default())
    ids = [chunk.id for chunk in collection.chunks]
    asked = model.queries(list(collection.questions.values()))
    near = [[ids[at] for at in np.argsort(-(vectors @ vector), kind="stable")[:10]] for vector in asked]
    shipped = [[hit.chunk.id for hit in retriever.search(text, (PUBLIC,), 10)] for text in collection.questions.values()]
    relevant = [collection.relevant[id] for id in collection.questions]
    ways = {"dense": near, "shipped": shipped}
    return {way: np.array([ndcg(ranked, grades) for ranked, grades in zip(found, relevant, strict=True)]) for way, found in ways.items()}


def difference(before: Floats, after: Floats) -> dict[str, float]:
    interval = paired_bootstrap(before, after)
    figures = {"base": before.mean(), "tuned": after.mean(), "gain": interval.mean, "low": interval.low, "high": interval.high}
    return {name: round(float(value), 4) for name, value in figures.items()}


def calibration(retriever: Retriever, own: Sequence[str], collection: Collection) -> dict[str, float]:
    """Fitted on mined questions and half of the foreign ones: what it does to human questions and to the other half at 0.75."""
    fit = fit_calibration(retriever, own, foreign_questions()[::2])
    fitted = Retriever(retriever.index, retriever.embedder, fit.calibration)
    unseen = foreign_questions()[1::2]
    return {
        "mined questions answered": fit.answered,
        "human questions answered": answered(fitted, list(collection.questions.values())),
        "unseen foreign questions refused": 1 - answered(fitted, unseen),
    }


def answered(retriever: Retriever, questions: Sequence[str]) -> float:
    best = [max((hit.score for hit in retriever.search(question, (PUBLIC,), 5)), default=0.0) for question in questions]
    return round(float(np.mean([score >= SHIPPED.similarity_threshold for score in best])), 3)


if __name__ == "__main__":
    main()
