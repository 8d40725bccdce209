"""A training run: its steps, its checkpoints, and the candidates it ends in, in PyTorch. Only safetensors are ever read.

Labelled pairs are learned by multiple-negatives ranking: each question must find its own passage among those of its batch and their hard
negatives. A passage that the base model puts nearer to the question than its own is left out (the GISTEmbed rule, arXiv 2402.16829): it is
likely an answer too. Pairs that carry a teacher's scores are learned by listwise distillation: the shares that the teacher gives.

A few pairs are held out; a run whose recipe is patient ends once their loss has not fallen for long, and its candidates are made of the
weights of its lowest.

The run is cut to fit its minutes, and continues from its last checkpoint after Ctrl-C or a kill.

Workers may share a run. Each encodes its part of every batch; the vectors are gathered, so that the loss is the whole batch's, and the
gradients added up: the weights are those of one process, to rounding and to the units that drop out.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ragstone import embedder, heldout
from ragstone.corpus.pairs import AT_RANDOM, Pair, digest
from ragstone.errors import TrainError
from ragstone.recipe import MEMORY, Progress, Recipe, Report

try:
    import torch
    import torch.nn.functional as nn
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save_file
    from torch import Tensor

    from ragstone import encoder, parts
except ImportError as missing:
    raise TrainError(f"training needs {missing.name}, which is not installed", "pip install 'ragstone[train]'") from missing

Vector = NDArray[np.float32]
OUT = -1e4
"""The logit of a passage that is left out: no share of the probability, and no NaN where it should have none."""
CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_STEPS = 20
CHECKPOINT_SECONDS = 30.0


class Workers(Protocol):
    """The processes that train one model together. Each calls the same methods in the same order."""

    rank: int
    count: int

    def gather(self, own: Tensor, rows: int) -> Tensor:
        """All `rows` rows, of which `own` are this worker's `share`, on the device of `own`; gradients reach only those."""

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes the sum of the workers'."""

    def agree(self, value: float) -> float:
        """The value of the worker of rank 0."""


class Alone:
    """One process, which has it all."""

    rank, count = 0, 1

    def gather(self, own: Tensor, rows: int) -> Tensor:
        return own

    def add(self, tensors: Iterable[Tensor]) -> None:
        pass

    def agree(self, value: float) -> float:
        return value


def share(rows: int, rank: int, count: int) -> slice:
    """The rows of one worker of `count`.

    >>> [share(7, rank, 3) for rank in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(rows * rank // count, rows * (rank + 1) // count)


class Run:
    """A model on its way: weights, optimiser, and how far it is. It goes on from the checkpoint in `work`, if there is one.

    The process takes `memory` GiB. The worker of rank 0 writes the checkpoints; `saved` is told of each. Raises `TrainError` when there
    is nothing to learn from.
    """

    def __init__(
        self,
        base: Path,
        pairs: Sequence[Pair],
        recipe: Recipe,
        work: Path,
        workers: Workers | None = None,
        saved: Callable[[Path], None] = lambda path: None,
        memory: float = MEMORY,
    ) -> None:
        if not pairs:
            raise TrainError("there are no pairs to train on", "add documents and run `ragstone up` again")
        torch.manual_seed(recipe.seed)
        work.mkdir(parents=True, exist_ok=True)
        self.base, self.pairs, self.recipe, self.work = _complete(base, work), pairs, recipe, work
        self.taught, self.held = heldout.split(pairs, recipe.held_out)
        self.workers, self.told = workers or Alone(), saved
        self.identity = f"{embedder.digest(self.base)} {digest(pairs)} {recipe.digest}"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = encoder.open(self.base, self.device, _half(self.device))
        self.card = self.encoder.card
        self.guide = embedder.Embedder(self.base, threads=torch.get_num_threads())
        self.known_questions: dict[str, Vector] = {}
        self.known_passages: dict[str, Vector] = {}
        self.learned = {name: weight.requires_grad_() for name, weight in self.encoder.weights.items()}
        self.optimiser = torch.optim.AdamW(self.learned.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.parts = parts.Parts(self.encoder, parts.room(memory, self.device, list(self.learned.values())), memory)
        self.step = 0
        self.seconds = 0.0
        self.looks = heldout.Looks()
        self.best: dict[str, Tensor] = {}
        self.saved = -1
        self._resume()

    @property
    def steps(self) -> int:
        """How many steps the run will have: the recipe's, or as many as fit in its minutes at the pace seen so far."""
        planned = self.recipe.epochs * max(1, len(self.taught) // self.recipe.batch)
        if self.step < 5:
            return planned
        return min(planned, max(self.step, int(60 * self.recipe.minutes * self.step / self.seconds)))

    @property
    def over(self) -> bool:
        """Whether there is no more to do: all steps are taken, or the held-out pairs have not been better for long."""
        stale = 0 < self.recipe.patience <= self.looks.since
        return (stale or self.step >= self.steps) and not self._due

    @property
    def _due(self) -> bool:
        """Whether the held-out pairs are to be looked at before the next step."""
        since = self.step - self.looks.step
        wait = heldout.interval(len(self.held), self.recipe.batch, self.steps)
        return bool(self.held) and since > 0 and (since >= wait or self.step >= self.steps)

    def optimise(self, progress: Report) -> None:
        """Take the steps that are left, saving now and then, at the end, and when interrupted."""
        try:
            self._continue(progress)
        except KeyboardInterrupt:
            self.save()
            raise
        self.save()

    def _continue(self, progress: Report) -> None:
        began = saved_at = time.monotonic()
        spent = self.seconds
        if self._due:  # it was interrupted before that
            self._look()
        while not self.over:
            loss = self._take()
            self.step += 1
            now = time.monotonic()
            self.seconds = self.workers.agree(spent + now - began)
            if self._due:
                self._look()
            pace = self.optimiser.param_groups[0]["lr"]
            progress(Progress(self.step, self.steps, loss, self._seconds_left(), pace, self.looks.loss))
            if self.step % CHECKPOINT_STEPS == 0 or now - saved_at > CHECKPOINT_SECONDS:
                self.save()
                saved_at = time.monotonic()

    def _seconds_left(self) -> float:
        return 0.0 if self.over else self.seconds / self.step * (self.steps - self.step)

    def _look(self) -> None:
        """Measure the loss over the held-out pairs, in batches like those of a step, and keep the weights if they are the best so far."""
        size = self.recipe.batch
        batches = [self.held[start : start + size] for start in range(0, len(self.held), size)]
        with torch.no_grad():
            loss = sum(float(self._loss(batch)) * len(batch) for batch in batches) / len(self.held)
        self.looks = self.looks.after(self.step, self.workers.agree(loss))
        if self.recipe.patience and self.looks.best_step == self.step:
            self.best = {name: weight.detach().cpu().clone() for name, weight in self.learned.items()}

    def _take(self) -> float:
        """One step. Raises `TrainError` when the loss is no number any more: no later step could mend that."""
        chance = 1_000_003 * self.recipe.seed + 15_485_863 * self.workers.rank + self.step
        torch.manual_seed(chance)  # a resumed run drops out the same units, each worker others
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * self.encoder.pace * rate(self.step, self.steps, self.recipe.warmup)
        loss = self._loss(self._batch())
        if not torch.isfinite(loss):
            raise TrainError(f"the loss is {loss.item()} at step {self.step + 1}", "keep the base model: ragstone up --minutes 0")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.workers.add(weight.grad for weight in self.learned.values() if weight.grad is not None)
        torch.nn.utils.clip_grad_norm_(self.learned.values(), 1.0)
        self.optimiser.step()
        return float(loss.item())

    def _batch(self) -> list[Pair]:
        """The pairs of this step; every epoch has an order of its own."""
        size = min(self.recipe.batch, len(self.taught))
        epoch, place = divmod(self.step, max(1, len(self.taught) // size))
        order = random.Random(f"{self.recipe.seed} {epoch}").sample(range(len(self.taught)), len(self.taught))
        return [self.taught[at] for at in order[place * size : (place + 1) * size]]

    def _loss(self, batch: Sequence[Pair]) -> Tensor:
        """Cross entropy of each question over the batch's passages, those left out that may answer it too."""
        passages = [pair.positive for pair in batch] + [text for pair in batch for text in pair.negatives]
        asked = [self.card.query_prefix + pair.question for pair in batch]
        read = [self.card.document_prefix + text for text in passages]
        documents, questions = self._vectors((read, self.recipe.document_tokens), (asked, self.recipe.query_tokens))
        scores = self.recipe.scale * (questions @ documents.T)
        scores = scores.masked_fill(self._left_out(batch, passages).to(self.device), OUT)
        return nn.cross_entropy(scores, targets(batch, self.recipe.temperature).to(self.device))

    def _left_out(self, batch: Sequence[Pair], passages: Sequence[str]) -> Tensor:
        """Which passages are not held against which question: what may answer it too, unless a teacher's scores say how well."""
        near = self._near([pair.question for pair in batch], passages)
        own = torch.eye(len(batch), len(passages), dtype=torch.bool)
        untaught = torch.tensor([[not pair.scores] for pair in batch])
        return ((near >= near.diagonal().unsqueeze(1)) | answers(batch, passages)) & ~own & untaught

    def _vectors(self, *lists: tuple[Sequence[str], int]) -> list[Tensor]:
        """A vector for each text of each list, from whichever worker encodes it; this one's have gradients."""
        own = self.parts.encode(*((texts[self._share(texts)], tokens) for texts, tokens in lists))
        return [self.workers.gather(vectors, len(texts)) for vectors, (texts, _) in zip(own, lists, strict=True)]

    def _near(self, questions: Sequence[str], passages: Sequence[str]) -> Tensor:
        """The base model's cosines, [questions, passages]; every text is encoded once a run, when it is first met."""
        self._know(questions, self.known_questions, self.guide.queries)
        self._know(passages, self.known_passages, self.guide.documents)
        rows = np.stack([self.known_questions[text] for text in questions])
        return torch.from_numpy(rows @ np.stack([self.known_passages[text] for text in passages]).T)

    def _know(self, texts: Sequence[str], known: dict[str, Vector], encode: Callable[[Sequence[str]], embedder.Vectors]) -> None:
        """Add to `known` the base model's vectors of those texts that it lacks: the same on every worker."""
        fresh = list({text: None for text in texts if text not in known})
        own = torch.from_numpy(encode(fresh[self._share(fresh)])).to(self.device)
        known.update(zip(fresh, self.workers.gather(own, len(fresh)).cpu().numpy(), strict=True))

    def _share(self, texts: Sequence[str]) -> slice:
        return share(len(texts), self.workers.rank, self.workers.count)

    def save(self) -> None:
        """Write the checkpoint: beside the old one, then in its place, so that a kill leaves one of the two whole."""
        if self.workers.rank or self.step in (0, self.saved):
            return
        tensors = {f"weight/{name}": weight.detach() for name, weight in self.learned.items()}
        for name, weight in self.learned.items():
            state = self.optimiser.state[weight]
            tensors |= {f"first/{name}": state["exp_avg"], f"second/{name}": state["exp_avg_sq"]}
        tensors |= {f"best/{name}": weight for name, weight in self.best.items()}
        told = {"identity": self.identity, "step": str(self.step), "seconds": repr(self.seconds), "looks": json.dumps(asdict(self.looks))}
        _write(self.work / CHECKPOINT, tensors, told)
        self.saved = self.step
        self.told(self.work / CHECKPOINT)

    def _resume(self) -> None:
        """Continue the run that `work` has a checkpoint of, if it had the same base, pairs and recipe."""
        kept = _read(self.work / CHECKPOINT, self.identity)
        if kept is None:
            return
        tensors, told = kept
        self.step = self.saved = int(told["step"])
        self.seconds = float(told["seconds"])
        self.looks = heldout.Looks(**json.loads(told["looks"]))
        self.best = {name: tensors[f"best/{name}"] for name in self.learned if f"best/{name}" in tensors}
        with torch.no_grad():
            for name, weight in self.learned.items():
                weight.copy_(tensors[f"weight/{name}"])
                self.optimiser.state[weight] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"first/{name}"].to(self.device),
                    "exp_avg_sq": tensors[f"second/{name}"].to(self.device),
                }

    def candidates(self) -> dict[float, Path]:
        """A complete model folder for each interpolation between the base and the tuned weights."""
        return {share: self._candidate(share) for share in self.recipe.interpolations}

    def _candidate(self, share: float) -> Path:
        folder = self.work / f"candidate-{share:g}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        weights: dict[str, Tensor] = load_file(self.base / "model.safetensors")
        for name, tuned in (self.best or self.learned).items():
            key = self.encoder.stored[name]
            mixed = torch.lerp(weights[key].float(), tuned.detach().float().cpu(), share)
            weights[key] = mixed.to(weights[key].dtype).contiguous()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        embedder.copy(self.base, folder)
        lineage: dict[str, object] = {
            "base": embedder.digest(self.base),
            "pairs": digest(self.pairs),
            "recipe": asdict(self.recipe),
            "steps": self.looks.best_step if self.best else self.step,
            "share": share,
        }
        embedder.finish(folder, replace(self.card, name=f"{self.card.name}-tuned", base=embedder.digest(self.base), lineage=lineage))
        return folder


def targets(batch: Sequence[Pair], temperature: float) -> Tensor:
    """What share of each question's probability its passages should have, [questions, passages]: positives first, then all negatives.

    A pair with a teacher's scores has their softmax, where the passages of the other pairs count as found at random; one without has
    all on its positive.
    """
    count = len(batch) + sum(len(pair.negatives) for pair in batch)
    wanted = torch.eye(len(batch), count)
    start = len(batch)
    for row, pair in enumerate(batch):
        if pair.scores:
            scores = torch.full((count,), AT_RANDOM)
            scores[[row, *range(start, start + len(pair.negatives))]] = torch.tensor(pair.scores)
            wanted[row] = nn.softmax(scores / temperature, dim=0)
        start += len(pair.negatives)
    return wanted


def answers(batch: Sequence[Pair], passages: Sequence[str]) -> Tensor:
    """Which passages are known to answer which question, [questions, passages]."""
    known = [{pair.positive, *pair.answers} for pair in batch]
    return torch.tensor([[passage in its for passage in passages] for its in known])


def rate(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate at a step: it rises over the warm-up and falls along a cosine.

    >>> [round(rate(step, 100, 0.1), 2) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _half(device: torch.device) -> bool:
    """Whether bfloat16 is faster here: emulated on an older CPU it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def _complete(base: Path, work: Path) -> Path:
    """The base as a complete model folder; one in Sentence-Transformers' layout is prepared below `work`."""
    if (base / "card.json").is_file():
        return base
    prepared = work / "base"
    shutil.rmtree(prepared, ignore_errors=True)
    embedder.prepare(base, prepared, name=base.name, base=base.name)
    return prepared


def _write(path: Path, tensors: dict[str, Tensor], told: dict[str, str]) -> None:
    """Tensors and what is told of them, at `path` whole or not at all."""
    fresh = path.with_suffix(".new")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, fresh, metadata=told)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(path)


def _read(path: Path, identity: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """What `_write` left for this identity; None when there is nothing, or of another run, or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            told: dict[str, str] = file.metadata() or {}
            if told.get("identity") != identity:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118  not a dictionary
    except (OSError, SafetensorError):
        return None
