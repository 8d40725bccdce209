"""Reuse of answers for questions in other words: how often it hits, and how often it is wrong, beside a cache that goes by cosine.

    python -m benchmarks.reuse

Each line of `benchmarks/questions/paraphrases.tsv` asks one thing in two ways; each of `pairs.tsv` asks two things that differ in a number,
a negation, a unit, a direction, an opposite. The second question of a line is asked after the first, of a real origin over the documents
in `benchmarks/questions/works`: a hit is right in the one file and wrong in the other. The cosine cache takes the first question's
answer when the vectors of both are at least so near (MiniLM, the vectors of the release itself). Counts, no timings.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import ROOT, record
from ragstone import config, paraphrase, store
from tests.origins import Origin, Site, running
from tests.speaker import speaking

QUESTIONS = ROOT / "benchmarks" / "questions"
THRESHOLDS = (0.80, 0.85, 0.90, 0.95, 0.98)
FIRST = {"paraphrases.tsv": 66, "pairs.tsv": 115}
"""Lines on which the rules were set. Those after them were written later; one of them showed that `is` and `are` were not yet alike."""


@dataclass(frozen=True)
class Pair:
    """Two questions, what tells them apart, and whether the rules were set with them."""

    kind: str
    one: str
    other: str
    first: bool


@dataclass(frozen=True)
class Verdicts:
    """Whether each cache would give the answer to the one question to the other, by the cache's name."""

    pair: Pair
    hits: dict[str, bool]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, origin(Path(folder)) as at:
        right = [judge(at, number, pair) for number, pair in enumerate(pairs("paraphrases.tsv"))]
        wrong = [judge(at, 1000 + number, pair) for number, pair in enumerate(pairs("pairs.tsv"))]
    figures = {name: figure(name, right, wrong) for name in right[0].hits}
    record("reuse", {"paraphrases": len(right), "minimal pairs": len(wrong), **figures})
    table(figures, len(right), len(wrong))
    sys.exit("the goal is missed: no wrong hit" if figures["reuse"]["wrong hits"] else 0)


@contextmanager
def origin(folder: Path) -> Iterator[Origin]:
    """A real origin over the documents; its generator says nothing that can be verified, so that it quotes."""
    shutil.copytree(QUESTIONS / "works", folder / "docs")
    with speaking() as speaker:
        speaker.reset("It depends.")
        settings = config.override(config.load(folder, {}), "serve", url=speaker.url)
        settings = config.override(settings, "api", reuse_mb=64)
        site = Site(settings, store.connect(settings.store_url))
        site.build()
        with running(site) as at:
            yield at


def pairs(name: str) -> list[Pair]:
    rows = [line.split("\t") for line in (QUESTIONS / name).read_text(encoding="utf-8").splitlines()]
    return [Pair(row[0] if len(row) > 2 else "paraphrase", row[-2], row[-1], at < FIRST[name]) for at, row in enumerate(rows)]


def judge(at: Origin, seed: int, pair: Pair) -> Verdicts:
    """Ask both, under a seed of their own: no other line's answer can be the one that is reused."""
    first, second = (at.chat(question, seed=seed).json["ragstone"] for question in (pair.one, pair.other))
    assert "reused" not in first
    near = cosine(at, pair)
    evidence = not first["abstained"] and evidence_of(at, pair.one) == evidence_of(at, pair.other)
    hits = {"reuse": "reused" in second, "its words alone": paraphrase.same(*map(paraphrase.form, (pair.one, pair.other)))}
    hits |= {"the same evidence alone": evidence}
    return Verdicts(pair, hits | {f"cosine ≥ {least:.2f}": near >= least for least in THRESHOLDS})


def evidence_of(at: Origin, question: str) -> set[str]:
    found = at.request("POST", "/v1/retrieve", {"query": question}).json["data"]
    return {hit["chunk"] for hit in found if hit["relevant"]}


def cosine(at: Origin, pair: Pair) -> float:
    asked = {"model": "production", "input": [pair.one, pair.other], "ragstone": {"input_type": "query"}}
    one, other = (np.array(row["embedding"]) for row in at.request("POST", "/v1/embeddings", asked).json["data"])
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def figure(name: str, right: list[Verdicts], wrong: list[Verdicts]) -> dict[str, object]:
    """Hits and wrong hits; of the later lines likewise; and what told the wrongly matched questions apart."""
    taken, mistaken = ([one.pair for one in verdicts if one.hits[name]] for verdicts in (right, wrong))
    later = {f"{what}, later lines": sum(not pair.first for pair in found) for what, found in (("hits", taken), ("wrong hits", mistaken))}
    return {"hits": len(taken), "wrong hits": len(mistaken), **later, "wrong by": dict(Counter(pair.kind for pair in mistaken))}


def table(figures: dict[str, dict[str, object]], right: int, wrong: int) -> None:
    print(f"\n| cache | hits on {right} paraphrases | wrong hits on {wrong} minimal pairs |\n|---|---|---|")
    for name, one in figures.items():
        print(f"| {name} | {one['hits']} | {one['wrong hits']} |")


if __name__ == "__main__":
    main()
