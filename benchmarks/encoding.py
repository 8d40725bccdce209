"""How fast passages and questions become vectors, engine against engine over the same weights, each run in a process of its own.

    python -m benchmarks.encoding [--collection FOLDER] [--repetitions N] [--engines NAME ...]

The engines take turns, in another order each round, so that what else the machine does meets all of them. A ratio is formed within a
round. Passages are the topics of Python's own help, about 180 words each. On two threads wall and CPU time are both told: where cores are
busy, wall time says little, and PyTorch's threads burn CPU while they wait for each other. On one core, where no thread waits, CPU time
is the fair measure, and questions are timed one by one. FOLDER is a judged collection in BEIR's layout: nDCG@10 of the dense list.

fastembed and OpenVINO are no dependencies of ours: `pip install openvino` and `pip install --no-deps fastembed loguru mmh3
py-rust-stemmers pillow` (fastembed wants an older huggingface_hub, for downloads only). An engine that is not installed is left out, and
said so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.graph import Graph
from benchmarks.record import record
from ragstone import embedder, weights
from ragstone.embedder import Embedder, Vectors
from ragstone.evaluate import ndcg

THREADS = 2
PASSAGES, QUESTIONS = 64, 100
QUESTION = "How are keyword arguments of a function passed on"
BATCH = 16
TOKENS = 256

Encode = Callable[[list[str]], Vectors]


def passages() -> list[str]:
    from pydoc_data.topics import topics

    words = " ".join(text for _, text in sorted(topics.items())).split()
    return [" ".join(words[start : start + 180]) for start in range(0, 180 * PASSAGES, 180)]


def ours(folder: Path, threads: int) -> Encode:
    """int8, a text a call on each thread."""
    embedder.prepare(weights.pull("minilm"), folder, name="minilm", base="minilm")
    return Embedder(folder, threads=threads).documents


def sentence_transformers(folder: Path, threads: int) -> Encode:
    """fp32, in its default batches of 32, the longest first."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(weights.pull("minilm")), device="cpu")
    return lambda texts: np.asarray(model.encode(texts, normalize_embeddings=True), np.float32)


def fastembed(folder: Path, threads: int) -> Encode:
    """fp32 by ONNX Runtime, in its default batches of 256, as they come."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    export(folder)
    source = ModelSource(hf="local/minilm")
    TextEmbedding.add_custom_model(
        model="local/minilm", pooling=PoolingType.MEAN, normalization=True, sources=source, dim=384, model_file="model.onnx"
    )
    model = TextEmbedding("local/minilm", specific_model_path=str(folder), threads=threads)
    return lambda texts: np.stack(list(model.embed(texts)))


def openvino(folder: Path, threads: int) -> Encode:
    """bf16 where the processor has it, in batches of like length."""
    infer, tokenizer = compiled(folder, {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}), tokenized()
    request = infer.create_infer_request()

    def encode(texts: list[str]) -> Vectors:
        vectors = np.empty((len(texts), 384), np.float32)
        read = [tokenizer.encode(text).ids for text in texts]
        order = sorted(range(len(texts)), key=lambda at: len(read[at]))
        for start in range(0, len(texts), BATCH):
            rows = order[start : start + BATCH]
            ids = np.zeros((len(rows), max(len(read[at]) for at in rows)), np.int64)
            for row, at in enumerate(rows):
                ids[row, : len(read[at])] = read[at]
            mask = (np.arange(ids.shape[1]) < np.array([len(read[at]) for at in rows])[:, None]).astype(np.int64)
            vectors[rows] = pooled(request.infer([ids, mask])[0], mask)
        return vectors

    return encode


def openvino_alone(folder: Path, threads: int) -> Encode:
    """The same, a text a call on each thread: a vector does not depend on its neighbours."""
    from openvino import AsyncInferQueue

    infer, tokenizer = compiled(folder, {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}), tokenized()
    queue = AsyncInferQueue(infer, threads)

    def encode(texts: list[str]) -> Vectors:
        vectors = np.empty((len(texts), 384), np.float32)

        def take(request: object, row: int) -> None:
            states = request.get_output_tensor(0).data  # type: ignore[attr-defined]
            vectors[row] = pooled(states, np.ones(states.shape[:2], np.int64))[0]

        queue.set_callback(take)
        for row, text in enumerate(texts):
            ids = np.array([tokenizer.encode(text).ids], np.int64)
            queue.start_async([ids, np.ones_like(ids)], row)
        queue.wait_all()
        return vectors

    return encode


ENGINES = {
    "ours": ours,
    "sentence-transformers": sentence_transformers,
    "fastembed": fastembed,
    "openvino": openvino,
    "openvino, one text a call": openvino_alone,
}
NEEDS = {"fastembed": "fastembed", "openvino": "openvino", "openvino, one text a call": "openvino"}


def export(folder: Path) -> None:
    """The weights as an fp32 graph, as other engines publish them, beside the tokenizer's files."""
    Graph(weights.pull("minilm")).write(folder / "model.onnx")
    embedder.copy(weights.pull("minilm"), folder)
    told = json.loads((folder / "tokenizer_config.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, "model_max_length": TOKENS}))  # else fastembed reads 512


def compiled(folder: Path, options: Mapping[str, object]) -> object:
    import openvino

    export(folder)
    core = openvino.Core()
    return core.compile_model(core.read_model(folder / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "bf16", **options})


def tokenized() -> object:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(weights.pull("minilm") / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    return tokenizer


def pooled(states: Vectors, mask: np.ndarray) -> Vectors:
    sums = (states * mask[:, :, None]).sum(axis=1)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def measure(engine: str, threads: int, out: Path) -> dict[str, float]:
    """One run of one engine, in this process: its figures; its vectors are left in `out`."""
    if threads == 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        encode, texts = ENGINES[engine](Path(folder), threads), passages()
        encode(texts)
        began, cpu = time.perf_counter(), time.process_time()
        vectors = encode(texts)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        np.save(out, vectors)
        figures = {"passage": wall / PASSAGES, "passage, CPU": cpu / PASSAGES}
        return {**figures, **questions(encode)} if threads == 1 else figures


def questions(encode: Encode) -> dict[str, float]:
    """The median of questions asked one by one."""
    wall, cpu = [], []
    for number in range(QUESTIONS):
        began, spent = time.perf_counter(), time.process_time()
        encode([f"{QUESTION} {number}?"])
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    return {"question": float(np.median(wall)), "question, CPU": float(np.median(cpu))}


@dataclass(frozen=True)
class Judged:
    """A judged collection: texts by id, and for each question how much each document that answers it counts."""

    documents: Mapping[str, str]
    questions: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, float]]

    def ndcg(self, documents: Vectors, questions: Vectors) -> float:
        """nDCG@10 of the ranking by these vectors, in the order of the texts."""
        ids, best = list(self.documents), np.argsort(-(questions @ documents.T), axis=1, kind="stable")[:, :10]
        scores = [ndcg([ids[at] for at in row], self.relevant[one]) for row, one in zip(best, self.questions, strict=True)]
        return float(np.mean(scores))


def judged(collection: Path, split: str) -> Judged:
    """A folder of BEIR's layout."""
    relevant: dict[str, dict[str, float]] = {}
    for line in (collection / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        question, document, grade = line.split("\t")
        if float(grade) > 0:
            relevant.setdefault(question, {})[document] = float(grade)
    documents = {
        row["_id"]: f"{row.get('title', '')}\n{row['text']}".strip() for row in lines(collection / "corpus.jsonl") if row["text"].strip()
    }
    asked = {row["_id"]: row["text"] for row in lines(collection / "queries.jsonl") if row["_id"] in relevant}
    return Judged(documents, asked, relevant)


def judge(engine: str, collection: Path, split: str) -> dict[str, float]:
    """nDCG@10 of the dense list of one engine over a judged collection, in this process, on every core."""
    found = judged(collection, split)
    with tempfile.TemporaryDirectory() as folder:
        encode = ENGINES[engine](Path(folder), THREADS)
        return {"nDCG@10": found.ndcg(encode(list(found.documents.values())), encode(list(found.questions.values())))}


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def apart(*arguments: str) -> dict[str, float]:
    """The figures of one run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.encoding", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def rounds(engines: list[str], repetitions: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """The figures of each engine and number of threads, by round; the vectors of the last are left in `folder`."""
    found: dict[str, list[dict[str, float]]] = {f"{engine} x{threads}": [] for engine in engines for threads in (THREADS, 1)}
    for number in range(repetitions):
        turn = engines[number % len(engines) :] + engines[: number % len(engines)]
        for threads in (THREADS, 1):
            for engine in turn:
                out = folder / f"{engine}.npy"
                found[f"{engine} x{threads}"].append(apart("--measure", engine, "--threads", str(threads), "--out", str(out)))
    return found


def ratios(found: Mapping[str, list[dict[str, float]]], engines: list[str]) -> dict[str, dict[str, list[float]]]:
    """For each other engine, how many times ours its figures are: the least, the median and the largest over the rounds."""
    told: dict[str, dict[str, list[float]]] = {}
    for engine in engines[1:]:
        for threads in (THREADS, 1):
            both = list(zip(found[f"{engine} x{threads}"], found[f"{engines[0]} x{threads}"], strict=True))
            each = {key: sorted(their[key] / our[key] for their, our in both) for key in both[0][0]}
            spread = {key: [values[0], float(np.median(values)), values[-1]] for key, values in each.items()}
            told[f"{engine} / {engines[0]}, {threads} threads"] = {key: [round(one, 2) for one in three] for key, three in spread.items()}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, action="append", default=[])
    parser.add_argument("--split", default="test")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--measure", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--judge", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure, asked.threads, asked.out)))
    elif asked.judge:
        print(json.dumps(judge(asked.judge, asked.collection[0], asked.split)))
    else:
        report(asked)


def report(asked: argparse.Namespace) -> None:
    missing = [engine for engine in asked.engines if engine in NEEDS and find_spec(NEEDS[engine]) is None]
    if missing:
        print(f"not installed, so left out: {', '.join(missing)}", file=sys.stderr)
    engines = [engine for engine in asked.engines if engine not in missing]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = rounds(engines, asked.repetitions, folder)
        fp32 = np.load(folder / "sentence-transformers.npy") if "sentence-transformers" in engines else None
        near = {} if fp32 is None else {engine: (np.load(folder / f"{engine}.npy") * fp32).sum(axis=1) for engine in engines}
    judged = {
        collection.name: {
            engine: round(apart("--judge", engine, "--collection", str(collection), "--split", asked.split)["nDCG@10"], 4)
            for engine in engines
        }
        for collection in asked.collection
    }
    record(
        "encoding",
        {
            "ratios, least, median and largest of the rounds": ratios(found, engines),
            "cosine to fp32, mean and least": {
                engine: [round(float(values.mean()), 4), round(float(values.min()), 4)] for engine, values in near.items()
            },
            "nDCG@10 of the dense list": judged,
            "rounds, ms": {engine: [milliseconds(one) for one in several] for engine, several in found.items()},
        },
    )


def milliseconds(figures: dict[str, float]) -> dict[str, float]:
    return {key: round(value * 1000, 1) for key, value in figures.items()}


if __name__ == "__main__":
    main()
