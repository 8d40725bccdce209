"""Other trainers on our pairs: one base, the same questions with their passages, and a bound of CPU seconds.

    PYTHON -m benchmarks.finetune KIND FOLDER

runs inside a Python that has the peer; `Job` prepares the folder and reads what came of it. Each is used as its documentation shows, with
its own defaults for batch, rate and epochs. A few batches tell its pace first; of the pairs it gets as many as fit, or all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pairs = Sequence[tuple[str, str]]
"""Questions, each with a passage that answers it."""
Tune = Callable[[Path, Path, Pairs, int], None]
"""Tunes the base in a folder into another one, for so many epochs."""
PROBE = 6
"""Batches that tell the pace."""


@dataclass(frozen=True)
class Job:
    """What a peer is given: a folder to work in, a base in Sentence-Transformers' layout, pairs, CPU seconds and a seed."""

    folder: Path
    base: Path
    pairs: Pairs
    cpu: float
    seed: int

    def run(self, python: Path, kind: str, documents: Sequence[str], questions: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The vectors of documents and questions under the model that the peer made, each row of length 1."""
        told = {"base": str(self.base), "pairs": self.pairs, "cpu": self.cpu, "seed": self.seed}
        (self.folder / "job.json").write_text(json.dumps({**told, "documents": documents, "questions": questions}))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run([python, "-m", "benchmarks.finetune", kind, self.folder], env=environment, check=True)
        return np.load(self.folder / "documents.npy"), np.load(self.folder / "questions.npy")


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    job = json.loads((folder / "job.json").read_text())
    batch, epochs, tune = KINDS[kind]
    base, pairs, cpu = Path(job["base"]), job["pairs"], job["cpu"]
    tune(base, folder / "import", pairs[:batch], 1)
    began = time.process_time()
    tune(base, folder / "probe", pairs[: PROBE * batch], 1)
    steps = int(PROBE * cpu / (time.process_time() - began))
    epochs = max(1, min(epochs, steps * batch // len(pairs)))
    kept = pairs[: steps * batch // epochs]
    began = time.process_time()
    tune(base, folder / "tuned", kept, epochs)
    spent = time.process_time() - began
    print(f"{kind}: {len(kept)} of {len(pairs)} pairs, {epochs} epochs, {spent:.0f} of {cpu:.0f} CPU seconds", flush=True)
    encode(folder, job["documents"], job["questions"])


def encode(folder: Path, documents: Sequence[str], questions: Sequence[str]) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder / "tuned"), device="cpu")
    np.save(folder / "documents.npy", model.encode(list(documents), normalize_embeddings=True))
    np.save(folder / "questions.npy", model.encode(list(questions), normalize_embeddings=True))


def sentence_transformers(base: Path, to: Path, pairs: Pairs, epochs: int) -> None:
    """Its trainer with MultipleNegativesRankingLoss, as in its training overview."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(str(base), device="cpu")
    given = Dataset.from_dict({"anchor": [question for question, _ in pairs], "positive": [passage for _, passage in pairs]})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(to / "log"),
        num_train_epochs=epochs,
        per_device_train_batch_size=KINDS["sentence-transformers"][0],
        warmup_ratio=0.1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=given, loss=MultipleNegativesRankingLoss(model)).train()
    model.save(str(to))


def llama_index(base: Path, to: Path, pairs: Pairs, epochs: int) -> None:
    """Its fine-tuning engine for embeddings."""
    from llama_index.finetuning import EmbeddingQAFinetuneDataset, SentenceTransformersFinetuneEngine

    passages = {passage: f"p{at}" for at, (_, passage) in enumerate(pairs)}
    asked = {f"q{at}": question for at, (question, _) in enumerate(pairs)}
    known = {f"q{at}": [passages[passage]] for at, (_, passage) in enumerate(pairs)}
    dataset = EmbeddingQAFinetuneDataset(queries=asked, corpus={id: passage for passage, id in passages.items()}, relevant_docs=known)
    quiet = {"show_progress_bar": False, "device": "cpu", "evaluation_steps": 0}  # there is nothing to evaluate on
    SentenceTransformersFinetuneEngine(dataset, model_id=str(base), model_output_path=str(to), epochs=epochs, **quiet).finetune()


KINDS: dict[str, tuple[int, int, Tune]] = {"sentence-transformers": (32, 3, sentence_transformers), "LlamaIndex": (10, 2, llama_index)}
"""By name: batch and epochs, both the peer's own or its documentation's, and the call."""


if __name__ == "__main__":
    main()
