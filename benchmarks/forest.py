"""The committed results of `benchmarks.training` as one table and one drawing: `python -m benchmarks.forest`.

Writes `docs/training.svg`, a line for each collection and seed with the gain and its interval, and prints a table for `docs/train.md`, then
how often the gate was right by what people asked.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.record import RESULTS, ROOT
from ragstone.evaluate import Interval

KINDS = {"training": "from documents alone", "labelled": "with labels"}
WAYS = {"dense": "dense, over the base model", "shipped, over the best untuned": "shipped, over the best untuned retriever"}
LEFT, WIDE, ROW, TOP = 230, 300, 16, 40
LEAST, MOST = -0.04, 0.12
"""Of the drawing, in nDCG@10."""


@dataclass(frozen=True)
class Row:
    """One run: what it was, how the most trained candidate did by each way, and what the gate left in force."""

    kind: str
    collection: str
    seed: str
    gains: Mapping[str, Interval]
    left: Interval
    promoted: bool
    """Whether the gate let any candidate through, and …"""
    over_base: Interval
    """… how that then ranked beside the base model, as shipped; where it refused, how the most trained one would have."""
    peers: Mapping[str, Interval]
    """By peer and way: ours over theirs."""


def main() -> None:
    found = list(rows())
    (ROOT / "docs" / "training.svg").write_text(drawing(found), encoding="utf-8")
    print("\n".join([*table(found), "", *judged(found)]))


def rows() -> Iterator[Row]:
    """The runs whose results are kept, by kind, collection and seed."""
    for kind in KINDS:
        for path in sorted(RESULTS.glob(f"{kind}-*.json")):
            collection, _, seed = path.stem.removeprefix(f"{kind}-").rpartition("-")
            figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
            shares = figures["share of tuned weights"]
            share = max(shares, key=float)
            beside = figures["share, over peers"][share]
            promoted = any(verdict["promoted"] for verdict in figures["gate"])
            yield Row(
                kind,
                collection,
                seed,
                {way: gain(shares[share][way]) for way in WAYS},
                gain(figures["what the gate left in force, over the best untuned"]),
                promoted,
                gain(over_base(figures) if promoted else shares[share]["shipped, over the base model"]),
                {f"{peer}, {way}": gain(told) for peer, by_way in beside.items() for way, told in by_way.items()},
            )


def over_base(figures: Mapping[str, Any]) -> Mapping[str, float]:
    """What the gate left in force beside the base model; runs before the figure was kept had one verdict."""
    kept: Mapping[str, float] | None = figures.get("what the gate left in force, over the base model")
    return kept or figures["share of tuned weights"][str(figures["gate"][0]["share"])]["shipped, over the base model"]


def gain(told: Mapping[str, float]) -> Interval:
    return Interval(told["gain"], told["low"], told["high"])


def table(found: Sequence[Row]) -> Iterator[str]:
    """Markdown: a row for each collection, mean over its seeds."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in found:
        groups[row.kind, row.collection].append(row)
    yield "| | collection | seeds | dense | shipped | what the gate left | over the peers, dense |"
    yield "|---|---|---|---|---|---|---|"
    for (kind, collection), those in groups.items():
        gains = [mean([row.gains[way] for row in those]) for way in WAYS]
        peers = {name for row in those for name in row.peers if name.endswith(", dense")}
        beside = ", ".join(
            f"{name.removesuffix(', dense')} {mean([r.peers[name] for r in those if name in r.peers])}" for name in sorted(peers)
        )
        yield f"| {KINDS[kind]} | {collection} | {len(those)} | {gains[0]} | {gains[1]} | {mean([row.left for row in those])} | {beside} |"


def judged(found: Sequence[Row]) -> Iterator[str]:
    """Whether the gate was right: better or worse by what people asked, and in how many of the runs that is beyond chance."""
    for said, word in ((True, "promoted"), (False, "refused")):
        those = [row.over_base for row in found if row.promoted is said]
        better, worse = sum(one.mean >= 0 for one in those), sum(one.mean < 0 for one in those)
        sure = sum(one.low > 0 for one in those), sum(one.high < 0 for one in those)
        yield f"{word} {len(those)}: better or equal {better} (beyond chance {sure[0]}), worse {worse} (beyond chance {sure[1]})"


def mean(gains: Sequence[Interval]) -> str:
    """The mean gain, and the mean ends of the intervals: seeds share their questions."""
    ends = [sum(values) / len(gains) for values in zip(*((one.mean, one.low, one.high) for one in gains), strict=True)]
    return f"{ends[0]:+.3f} [{ends[1]:.3f}, {ends[2]:.3f}]"


def drawing(found: Sequence[Row]) -> str:
    height = TOP + ROW * (len(found) + 2)
    size = f'width="{LEFT + len(WAYS) * (WIDE + 20)}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for at, row in enumerate(found):
        y = TOP + ROW * (at + 1)
        parts.append(f'<text x="6" y="{y + 4}">{row.collection}, {KINDS[row.kind]}, seed {row.seed}</text>')
    for column, (way, title) in enumerate(WAYS.items()):
        left = LEFT + column * (WIDE + 20)
        parts += scale(left, title, height)
        for at, row in enumerate(found):
            parts += line(left, TOP + ROW * (at + 1), row.gains[way])
    return "\n".join([*parts, "</svg>\n"])


def scale(left: float, title: str, height: float) -> Iterator[str]:
    yield f'<text x="{left}" y="16">{title}</text>'
    for value in (-0.04, 0.0, 0.04, 0.08, 0.12):
        x = place(left, value)
        yield f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{TOP}" y2="{height - ROW}" stroke="{"#888" if value == 0 else "#ddd"}"/>'
        yield f'<text x="{x - 10:.0f}" y="{TOP - 6}">{value:+.2f}</text>'


def line(left: float, y: float, gain: Interval) -> Iterator[str]:
    low, high, middle = (place(left, value) for value in (gain.low, gain.high, gain.mean))
    yield f'<line x1="{low:.0f}" x2="{high:.0f}" y1="{y}" y2="{y}" stroke="#1f5fa8" stroke-width="2"/>'
    yield f'<circle cx="{middle:.0f}" cy="{y}" r="4" fill="#1f5fa8"/>'


def place(left: float, value: float) -> float:
    return left + WIDE * (min(max(value, LEAST), MOST) - LEAST) / (MOST - LEAST)


if __name__ == "__main__":
    main()
