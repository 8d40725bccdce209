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

from benchmarks import untuned
from benchmarks.record import record
from ragstone import embedder, weights
from ragstone.candidates import Base, Corpus, make
from ragstone.config import Retrieve
from ragstone.corpus import PUBLIC, Chunk, labelled, labels
from ragstone.corpus.labels import Labels
from ragstone.corpus.pairs import Search, mine
from ragstone.corpus.views import views
from ragstone.embedder import Embedder
from ragstone.evaluate import Floats, gate, ndcg, paired_bootstrap
from ragstone.index import Index, Vectors, local
from ragstone.recipe import Recipe, chosen
from ragstone.retrieve import Calibration, Retriever
from ragstone.show import Terminal

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
    known = labels.read(arguments.labels)
    with tempfile.TemporaryDirectory() as name:
        figures = measure(collection, known, chosen(known.digest if known.labels else "", arguments.minutes, arguments.seed), Path(name))
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
    """The loop as `ragstone train` runs it, then every candidate beside the untuned retrievers on the human questions."""
    embedder.prepare(weights.pull("minilm"), work / "base", name="minilm", base="minilm")
    base, plain = Embedder(work / "base"), dict[str, Vectors]()
    material = labelled.prepare(known, mine(collection.chunks, seed=recipe.seed), collection.chunks)
    retriever = open_retriever(base, collection, plain)
    rank = lambda folder: ranks(open_retriever(Embedder(folder), collection, plain))  # noqa: E731
    corpus = Corpus(collection.chunks, material, search(retriever), rank)
    began = time.perf_counter()
    folders = make(Base("minilm", work / "base"), corpus, recipe, work, "local", Terminal())
    seconds = time.perf_counter() - began
    candidates = {share: Embedder(folder) for share, folder in folders.items()}
    verdict = gate(base, candidates, material.mined, build, SHIPPED, 0.0 if material.judged_by_people else MARGIN)
    peers = untuned_scores(base, collection)
    best = max(peers, key=lambda name: float(peers[name].mean()))
    before = judge(base, collection, plain)
    human = {}
    for share, candidate in candidates.items():
        after = judge(candidate, collection, plain)
        human[share] = {
            "dense": difference(peers["dense"], after["dense"]),
            "shipped, over the best untuned": difference(peers[best], after["shipped"]),
            "shipped, over convex 0.4": difference(peers["convex 0.4"], after["shipped"]),
            "shipped, over the base model": difference(before["shipped"], after["shipped"]),
        }
    return {
        "documents": len(collection.chunks),
        "seconds of training": round(seconds),
        "verdict": str(verdict),
        "gate": asdict(verdict),
        "human questions": len(collection.questions),
        "untuned": {name: round(float(scores.mean()), 4) for name, scores in peers.items()},
        "base model, shipped, over the best untuned": difference(peers[best], before["shipped"]),
        "share of tuned weights": human,
    }


def open_retriever(model: Embedder, collection: Collection, plain: dict[str, Vectors]) -> Retriever:
    return Retriever(build(collection.chunks, encode(model, collection.chunks, plain)), model, Calibration.default())


def encode(model: Embedder, chunks: Sequence[Chunk], plain: dict[str, Vectors]) -> Vectors:
    """The chunks' vectors; `plain` keeps what models of one encoder share."""
    if model.encoder not in plain:
        plain[model.encoder] = model.plain([views(chunk) for chunk in chunks])
    return model.joined(plain[model.encoder], [chunk.context for chunk in chunks])


def build(chunks: Sequence[Chunk], vectors: Vectors) -> Index:
    folder = Path(tempfile.mkdtemp(prefix="ragstone-training-"))
    local.build(folder, chunks, vectors)
    return local.open(folder, "benchmark")


def search(retriever: Retriever) -> Search:
    return lambda question, limit: [(hit.chunk.id, hit.dense) for hit in retriever.search(question, (PUBLIC,), limit)]


def ranks(retriever: Retriever) -> Search:
    return lambda question, limit: [(hit.chunk.id, hit.fused) for hit in retriever.search(question, (PUBLIC,), limit)]


def untuned_scores(model: Embedder, collection: Collection) -> Mapping[str, Floats]:
    """Each human question's nDCG@10 under the retrievers that need no training."""
    texts, asked = [chunk.context for chunk in collection.chunks], list(collection.questions.values())
    cosines = model.queries(asked).astype(np.float64) @ model.documents(texts).T
    return {name: ranked(scores, collection) for name, scores in untuned.ways(texts, asked, cosines).items()}


def ranked(scores: untuned.Scores, collection: Collection) -> Floats:
    ids = [chunk.id for chunk in collection.chunks]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return np.array([ndcg([ids[at] for at in row], collection.relevant[id]) for row, id in zip(best, collection.questions, strict=True)])


def judge(model: Embedder, collection: Collection, plain: dict[str, Vectors]) -> Mapping[str, Floats]:
    """Each human question's nDCG@10, by exact cosine alone and as shipped."""
    asked = list(collection.questions.values())
    dense = ranked(model.queries(asked).astype(np.float64) @ encode(model, collection.chunks, plain).T, collection)
    retriever = open_retriever(model, collection, plain)
    shipped = [[hit.chunk.id for hit in retriever.search(text, (PUBLIC,), 10)] for text in asked]
    grades = [collection.relevant[id] for id in collection.questions]
    return {"dense": dense, "shipped": np.array([ndcg(found, relevant) for found, relevant in zip(shipped, grades, strict=True)])}


def difference(before: Floats, after: Floats) -> dict[str, float]:
    interval = paired_bootstrap(before, after)
    figures = {"base": before.mean(), "tuned": after.mean(), "gain": interval.mean, "low": interval.low, "high": interval.high}
    return {name: round(float(value), 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()
