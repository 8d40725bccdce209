"""Real processes that meet over loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COUNT = 3
SCRIPT = """
import json, os, sys, time
from pathlib import Path
import torch
from ragstone import workers
from ragstone.tune import share

rank, count, meeting, stop = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), bool(int(sys.argv[4]))

def meet(address):
    if address:
        fresh = meeting.with_suffix(".new")
        fresh.write_text(json.dumps(address))
        fresh.replace(meeting)
    while not meeting.exists():
        time.sleep(0.01)
    return tuple(json.loads(meeting.read_text()))

torch.set_num_threads(1)
workers.join(rank, count, "127.0.0.1", meet, "gloo")
group = workers.Group(torch.device("cpu"), lambda: stop)
rows = torch.arange(14.0).reshape(7, 2)
own = rows[share(7, rank, count)].clone().requires_grad_()
whole = group.gather(own, 7)
(whole * rows).sum().backward()
sums = [torch.full((2,), float(rank)), torch.ones(1)]
group.add(sums)
try:
    agreed = group.agree(10.5 + rank)
except KeyboardInterrupt:
    agreed = "stopped"
told = {"whole": whole.tolist(), "gradient": own.grad.tolist(), "sums": [one.tolist() for one in sums], "agreed": agreed}
print(json.dumps(told))
workers.leave()
"""


def together(folder: Path, stop: bool) -> list[dict[str, object]]:
    """What each of the processes saw."""
    command = [sys.executable, "-c", SCRIPT]
    arguments = [str(COUNT), str(folder / "meeting"), str(int(stop))]
    started = [subprocess.Popen([*command, str(rank), *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True) for rank in range(COUNT)]
    return [json.loads(process.communicate()[0]) for process in started]


def test_every_worker_sees_all_rows_and_its_own_have_gradients(tmp_path: Path) -> None:
    rows = [[2.0 * row, 2.0 * row + 1] for row in range(7)]
    seen = together(tmp_path, stop=False)
    assert [one["whole"] for one in seen] == [rows] * COUNT
    assert [one["gradient"] for one in seen] == [rows[:2], rows[2:4], rows[4:]]
    assert [one["sums"] for one in seen] == [[[3.0, 3.0], [3.0]]] * COUNT
    assert [one["agreed"] for one in seen] == [10.5] * COUNT


def test_when_the_first_worker_is_to_stop_all_are_interrupted(tmp_path: Path) -> None:
    assert [one["agreed"] for one in together(tmp_path, stop=True)] == ["stopped"] * COUNT
