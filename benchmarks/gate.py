"""Is the gate right? Models that were spoilt on purpose, which it must refuse, and honest ones, which must be no worse where it promotes.

    python -m benchmarks.gate FOLDER [--kinds A,B] [--seeds N] [--minutes M] [--epochs N] [--pairs N] [--questions N] [--documents N]

FOLDER is in BEIR's layout. An honest run is what `ragstone train` does; a spoilt one learns by contrast, at the pace of labels, which bends
a model most. What people asked and judged is read only after the gate has spoken of a model. The guards are asked of every model, also of
one that the gate refused without them, so that the allowed fall can be seen beside what models do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.record import record
from benchmarks.training import FALL, MARGIN, SHIPPED, Collection, build, difference, judge, open_retriever, ranks, read, sample, search
from ragstone import embedder, train, weights
from ragstone.candidates import Base, Corpus, make
from ragstone.corpus.labelled import Material
from ragstone.corpus.pairs import Mined, Search, harden, mine
from ragstone.embedder import Embedder
from ragstone.evaluate import Guarded, Verdict, gate, guarded
from ragstone.guard import guards
from ragstone.index import Vectors
from ragstone.recipe import Recipe, chosen
from ragstone.show import Silence
from tests.spoilt import RUNS, noisy

HONEST, NOISE = "honest", "noise on the weights"
KINDS = (HONEST, *RUNS, NOISE)


@dataclass(frozen=True)
class Run:
    """What the gate, the guards and people say of one model."""

    kind: str
    seed: int
    promoted: bool
    verdict: str
    share: float
    guards: dict[str, list[float]]
    """By guard: the base's nDCG@10, the gain, and its interval."""
    fell: list[str]
    human: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Bench:
    """What every run of a seed shares."""

    collection: Collection
    base: Path
    mined: Mined
    seed: int
    minutes: float
    epochs: int
    plain: dict[str, Vectors]
    """The chunks' vectors under the base."""

    def made(self, kind: str, work: Path) -> dict[float, Path]:
        """The candidates of a run by their share of trained weights."""
        spoilt = Recipe(minutes=self.minutes, epochs=self.epochs, seed=self.seed)
        work.mkdir()
        if kind == NOISE:  # a fifth of each tensor's own spread, times the share
            return {share: noisy(self.base, work / f"{share:g}", 0.2 * share, self.seed) for share in spoilt.interpolations}
        retriever = open_retriever(Embedder(self.base), self.collection, self.plain)
        if kind == HONEST:
            corpus = Corpus(self.collection.chunks, Material(self.mined), search(retriever), self.teacher)
            recipe = chosen("", self.minutes, self.seed)
            return make(Base("minilm", self.base), corpus, recipe, work, "local", Silence())
        pairs = harden(self.mined.pairs, self.collection.chunks, search(retriever), seed=self.seed)
        return train.connect("local").train(self.base, *RUNS[kind](pairs, spoilt), work, lambda now: None)

    def teacher(self, folder: Path) -> Search:
        return ranks(open_retriever(Embedder(folder), self.collection, self.plain))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=Recipe.minutes)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help="of a spoilt run")
    parser.add_argument("--pairs", type=int, default=2_400, help="training pairs at most")
    parser.add_argument("--questions", type=int, default=0, help="a sample of the human questions; 0 takes all")
    parser.add_argument("--documents", type=int, default=0, help="the relevant documents and a sample of the others; 0 takes all")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    collection = sample(read(arguments.folder, arguments.split), arguments.questions, arguments.documents)
    kinds = arguments.kinds.split(",")
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as name:
        base, plain = Path(name) / "base", dict[str, Vectors]()
        embedder.prepare(weights.pull("minilm"), base, name="minilm", base="minilm")
        for seed in range(1, arguments.seeds + 1):
            mined = mine(collection.chunks, limit=arguments.pairs, seed=seed)
            bench = Bench(collection, base, mined, seed, arguments.minutes, arguments.epochs, plain)
            runs += [measure(bench, kind, Path(name) / f"{seed}-{at}") for at, kind in enumerate(kinds)]
    record(
        f"gate-{arguments.folder.name}",
        {
            "collection": arguments.folder.name,
            "documents": len(collection.chunks),
            "human questions": len(collection.questions),
            "pairs, minutes, epochs of a spoilt run": [arguments.pairs, arguments.minutes, arguments.epochs],
            "margin, allowed fall": [MARGIN, FALL],
            "by kind": {kind: summary([run for run in runs if run.kind == kind]) for kind in kinds},
            "runs": [asdict(run) for run in runs],
        },
    )


def measure(bench: Bench, kind: str, work: Path) -> Run:
    candidates = {share: Embedder(folder) for share, folder in bench.made(kind, work).items()}
    base, held_to = Embedder(bench.base), guards(bench.mined, bench.seed)
    verdict = gate(base, candidates, bench.mined, build, SHIPPED, MARGIN, guards=held_to, fall=FALL)
    tuned = candidates[verdict.share]
    asked = verdict.guards or guarded(base, tuned, held_to, build, SHIPPED, FALL)
    before, after = judge(base, bench.collection, bench.plain), judge(tuned, bench.collection, dict(bench.plain))
    run = told(kind, bench.seed, verdict, asked, {way: difference(before[way], after[way]) for way in after})
    print(run, flush=True)
    return run


def told(kind: str, seed: int, verdict: Verdict, asked: Sequence[Guarded], human: dict[str, dict[str, float]]) -> Run:
    fell = [f"{one.guard}, {one.way}" for one in asked if not one.held]
    said = {f"{one.guard}, {one.way}": [round(value, 4) for value in (one.base, one.gain, one.low, one.high)] for one in asked}
    return Run(kind, seed, verdict.promoted, str(verdict), verdict.share, said, fell, human)


def summary(runs: Sequence[Run]) -> dict[str, int]:
    """How many were promoted, and how many of those are no worse for people: at the mean, and as far as can be told from chance."""
    promoted = [run.human["shipped"] for run in runs if run.promoted]
    return {
        "runs": len(runs),
        "promoted": len(promoted),
        "of those, human gain >= 0": sum(gain["gain"] >= 0 for gain in promoted),
        "of those, not surely worse": sum(gain["high"] >= 0 for gain in promoted),
        "with a guard that fell": sum(bool(run.fell) for run in runs),
    }


if __name__ == "__main__":
    main()
