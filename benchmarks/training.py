"""The whole loop on a judged collection: does training, on the documents alone or with labels, help the questions that people asked?

    python -m benchmarks.training FOLDER [--labels PATH | --folds FILE] [--peers PYTHON] [--split test] [--minutes M] [--seed N]
                                         [--questions N] [--documents N]

FOLDER is in BEIR's layout (`corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`); a document is one chunk. `--labels` adds a file or
folder of labels; FOLDER itself adds its `train` and `dev` splits. `--folds` names a JSON file of question ids by fold: each fold is
asked of what the judgements of the others taught. The human questions of the split are read only after the gate has spoken. Every candidate
is then measured, dense alone and as shipped, whatever the gate said of it. `--peers` is a Python that has the peers of
`benchmarks.finetune`: they tune the same base on the same pairs for as many CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import finetune, untuned
from benchmarks.record import record
from ragstone import embedder, weigh, weights
from ragstone.candidates import Base, Corpus, make
from ragstone.config import Retrieve, Train
from ragstone.corpus import PUBLIC, Chunk, labelled, labels
from ragstone.corpus.labelled import Material
from ragstone.corpus.labels import Labels
from ragstone.corpus.pairs import Question, Search, mine
from ragstone.corpus.views import views
from ragstone.embedder import Embedder
from ragstone.evaluate import Floats, Verdict, gate, ndcg, paired_bootstrap
from ragstone.guard import guards
from ragstone.index import Index, Vectors, local
from ragstone.recipe import Recipe, chosen
from ragstone.retrieve import Calibration, Retriever, weighed
from ragstone.show import Terminal

SHIPPED = Retrieve()
MARGIN, FALL = Train().margin, Train().guard
Scores = Mapping[str, Floats]
"""Each human question's nDCG@10, by the way of searching."""


@dataclass(frozen=True)
class Collection:
    """Documents as chunks, questions by id, and each question's relevant documents with their grades."""

    chunks: list[Chunk]
    questions: dict[str, str]
    relevant: dict[str, dict[str, float]]

    def of(self, ids: Sequence[str]) -> Collection:
        """The same documents, asked these questions only."""
        return Collection(self.chunks, {id: self.questions[id] for id in ids}, {id: self.relevant[id] for id in ids})


@dataclass(frozen=True)
class Trial:
    """One run of the loop, and what the human questions say of it."""

    verdict: Verdict
    seconds: float
    cpu: float
    untuned: Scores
    base: Scores
    shares: Mapping[float, Scores]
    fusion: Mapping[float, tuple[float, ...]]
    """The weights that labels chose, by share."""
    peers: Mapping[str, Scores] = field(default_factory=dict)

    @property
    def chosen(self) -> Scores:
        """The model that the gate leaves in force."""
        return self.shares[self.verdict.share] if self.verdict.promoted else self.base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=Path, action="append", default=[], help="what `ragstone train --pairs` takes; may be repeated")
    parser.add_argument("--folds", type=Path, help="question ids by fold, JSON")
    parser.add_argument("--peers", type=Path, help="a Python with sentence-transformers, llama-index-finetuning, datasets and accelerate")
    parser.add_argument("--split", default="test")
    parser.add_argument("--minutes", type=float, default=Recipe.minutes)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--questions", type=int, default=0, help="a sample of the human questions; 0 takes all")
    parser.add_argument("--documents", type=int, default=0, help="the relevant documents and a sample of the others; 0 takes all")
    arguments = parser.parse_args()
    collection = sample(read(arguments.folder, arguments.split), arguments.questions, arguments.documents)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), arguments.minutes, arguments.seed, arguments.peers)
        if arguments.folds:
            parts = folds(collection, json.loads(arguments.folds.read_text()), Path(name))
            trials = [bench.trial(part, known) for part, known in parts]
        else:
            trials = [bench.trial(collection, labels.read(arguments.labels))]
    kind = "labelled" if arguments.labels or arguments.folds else "training"
    told = {"collection": arguments.folder.name, "documents": len(collection.chunks), "split": arguments.split, **figures(trials)}
    split = "" if arguments.split == "test" else f"-{Path(arguments.split).parent.name.removeprefix('qrels_').strip('.')}"
    record(f"{kind}-{arguments.folder.name}{split}-{arguments.seed}", told)


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
    return Collection([chunk for chunk in collection.chunks if chunk.id in wanted], collection.questions, collection.relevant).of(kept)


def folds(collection: Collection, parts: Mapping[str, Sequence[str]], work: Path) -> Iterator[tuple[Collection, Labels]]:
    """Each fold's questions, and the judgements of the other folds as labels."""
    for name, ids in parts.items():
        asked = [id for id in ids if id in collection.questions]
        others = [id for id in collection.questions if id not in asked]
        folder = work / f"labels-{name}"
        (folder / "qrels").mkdir(parents=True)
        queries = [json.dumps({"_id": id, "text": collection.questions[id]}) for id in others]
        (folder / "queries.jsonl").write_text("\n".join(queries), encoding="utf-8")
        judged = [f"{id}\t{document}\t{grade:g}" for id in others for document, grade in collection.relevant[id].items()]
        (folder / "qrels" / "train.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]), encoding="utf-8")
        yield collection.of(asked), labels.read([folder])


class Bench:
    """The base model of every trial, and the vectors that its models share."""

    def __init__(self, work: Path, minutes: float, seed: int, peers: Path | None) -> None:
        self.work, self.minutes, self.seed, self.peers = work, minutes, seed, peers
        self.given = weights.pull("minilm")
        embedder.prepare(self.given, work / "base", name="minilm", base="minilm")
        self.base, self.plain = Embedder(work / "base"), dict[str, Vectors]()

    def trial(self, collection: Collection, known: Labels) -> Trial:
        """The loop as `ragstone train` runs it, then every candidate beside the untuned retrievers on the human questions."""
        recipe, material = self.prepare(collection, known)
        corpus = self.corpus(collection, material)
        began, spent = time.perf_counter(), sum(os.times()[:4])
        candidates = self.candidates(corpus, recipe)
        seconds, cpu = time.perf_counter() - began, sum(os.times()[:4]) - spent
        margin = 0.0 if material.judged_by_people else MARGIN
        held_to = guards(material.mined, recipe.seed)
        verdict = gate(self.base, candidates, material.mined, build, SHIPPED, margin, guards=held_to, fall=FALL)
        before = judge(self.base, collection, self.plain)
        after = {share: judge(candidate, collection, dict(self.plain)) for share, candidate in candidates.items()}
        peers = self.tuned_by_peers(self.peers, collection, material, cpu) if self.peers else {}
        fusion = {share: candidate.card.fusion for share, candidate in candidates.items()}
        return Trial(verdict, seconds, cpu, untuned_scores(self.base, collection), before, after, fusion, peers)

    def prepare(self, collection: Collection, known: Labels) -> tuple[Recipe, Material]:
        recipe = chosen(known.digest if known.labels else "", self.minutes, self.seed)
        return recipe, labelled.prepare(known, mine(collection.chunks, seed=recipe.seed), collection.chunks)

    def corpus(self, collection: Collection, material: Material) -> Corpus:
        retriever = open_retriever(self.base, collection, self.plain)
        rank = lambda folder: ranks(open_retriever(Embedder(folder), collection, self.plain))  # noqa: E731
        learned = partial(self.weights, collection, labelled.questions(material.train, collection.chunks)[: labelled.MOST_QUESTIONS])
        return Corpus(collection.chunks, material, search(retriever), rank, learned)

    def candidates(self, corpus: Corpus, recipe: Recipe) -> dict[float, Embedder]:
        """What training makes, by share of trained weights."""
        work = Path(tempfile.mkdtemp(dir=self.work))
        folders = make(Base("minilm", self.work / "base"), corpus, recipe, work, "local", Terminal())
        return {share: Embedder(folder) for share, folder in folders.items()}

    def weights(self, collection: Collection, asked: Sequence[Question], folder: Path) -> tuple[float, ...]:
        """The fusion that the labelled questions choose."""
        model = Embedder(folder)
        with closing(open_retriever(model, collection, self.plain).index) as index:
            return weigh.learn(index, model, asked, (PUBLIC,), SHIPPED)

    def tuned_by_peers(self, python: Path, collection: Collection, material: Material, cpu: float) -> dict[str, Scores]:
        """What other trainers make of the same base and pairs in so many CPU seconds; fused as the best untuned hybrid is."""
        pairs = [(pair.question, pair.positive) for pair in material.mined.pairs]
        by_id = {chunk.id: chunk.context for chunk in collection.chunks}
        pairs = [(one.text, by_id[id]) for one in material.train for answer in one.answers for id in answer.chunks[:1]] or pairs
        texts, asked = [chunk.context for chunk in collection.chunks], list(collection.questions.values())
        found: dict[str, Scores] = {}
        for kind in finetune.KINDS:
            job = finetune.Job(Path(tempfile.mkdtemp(dir=self.work)), self.given, pairs, cpu, self.seed)
            documents, questions = job.run(python, kind, texts, asked)
            cosines = questions.astype(np.float64) @ documents.T
            fused = untuned.ways(texts, asked, cosines)["convex 0.4"]
            found[kind] = {"dense": ranked(cosines, collection), "shipped": ranked(fused, collection)}
        return found


def figures(trials: Sequence[Trial]) -> dict[str, object]:
    """The questions of all trials together."""
    bar = {name: pooled([trial.untuned[name] for trial in trials]) for name in trials[0].untuned}
    best = max(bar, key=lambda name: float(bar[name].mean()))
    base = both([trial.base for trial in trials])
    shares = {share: both([trial.shares[share] for trial in trials]) for share in trials[0].shares}
    chosen = both([trial.chosen for trial in trials])
    own = shares[max(shares)]
    peers = {kind: both([trial.peers[kind] for trial in trials]) for kind in trials[0].peers}
    return {
        "seconds of training": [round(trial.seconds) for trial in trials],
        "CPU seconds of training": [round(trial.cpu) for trial in trials],
        "verdict": [str(trial.verdict) for trial in trials],
        "gate": [asdict(trial.verdict) | {"changes": []} for trial in trials],  # without what was asked
        "human questions": len(own["dense"]),
        "untuned": {name: round(float(scores.mean()), 4) for name, scores in bar.items()},
        "base model, shipped, over the best untuned": difference(bar[best], base["shipped"]),
        "what the gate left in force, over the best untuned": difference(bar[best], chosen["shipped"]),
        "what the gate left in force, over the base model": difference(base["shipped"], chosen["shipped"]),
        "share of tuned weights": {
            share: {
                "dense": difference(bar["dense"], after["dense"]),
                "shipped, over the best untuned": difference(bar[best], after["shipped"]),
                "shipped, over convex 0.4": difference(bar["convex 0.4"], after["shipped"]),
                "shipped, over the base model": difference(base["shipped"], after["shipped"]),
                "fusion": [trial.fusion.get(share, ()) for trial in trials],
            }
            for share, after in shares.items()
        },
        "share, over peers": {
            share: {kind: {way: difference(peers[kind][way], after[way]) for way in after} for kind in peers}
            for share, after in shares.items()
        },
    }


def pooled(scores: Sequence[Floats]) -> Floats:
    return np.concatenate(list(scores))


def both(scores: Sequence[Scores]) -> dict[str, Floats]:
    return {way: pooled([one[way] for one in scores]) for way in ("dense", "shipped")}


def open_retriever(model: Embedder, collection: Collection, plain: dict[str, Vectors]) -> Retriever:
    index = build(collection.chunks, encode(model, collection.chunks, plain))
    return Retriever.of(index, model, Calibration.default(), weighed(SHIPPED, model))


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


def untuned_scores(model: Embedder, collection: Collection) -> Scores:
    """Each human question's nDCG@10 under the retrievers that need no training."""
    texts, asked = [chunk.context for chunk in collection.chunks], list(collection.questions.values())
    cosines = model.queries(asked).astype(np.float64) @ model.documents(texts).T
    return {name: ranked(scores, collection) for name, scores in untuned.ways(texts, asked, cosines).items()}


def ranked(scores: untuned.Scores, collection: Collection) -> Floats:
    ids = [chunk.id for chunk in collection.chunks]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return np.array([ndcg([ids[at] for at in row], collection.relevant[id]) for row, id in zip(best, collection.questions, strict=True)])


def judge(model: Embedder, collection: Collection, plain: dict[str, Vectors]) -> Scores:
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
