"""A batch in parts has the gradients of the whole, and takes less memory."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ragstone import embedder, encoder, parts
from ragstone.encoder import Encoder
from ragstone.parts import Parts
from tests.bases import base as other
from tests.tiny import tiny

ROOT = Path(__file__).parents[1]
ALL = 2**40
QUESTIONS = [f"what does valve {number} of the pump do" for number in range(7)]
PASSAGES = [f"valve {number} " + "cuts the line off " * (number % 5) for number in range(19)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("base"))


def opened(folder: Path, dropout: bool) -> Encoder:
    found = encoder.open(folder, torch.device("cpu"))
    found.dropout = found.dropout if dropout else 0.0
    for weight in found.weights.values():
        weight.requires_grad_()
    return found


def gradients(documents: Tensor, questions: Tensor, model: Encoder) -> dict[str, Tensor]:
    """What each weight gets from a loss that needs all vectors at once."""
    for weight in model.weights.values():
        weight.grad = None
    torch.nn.functional.cross_entropy(20 * questions @ documents.T, torch.arange(len(questions))).backward()  # type: ignore[no-untyped-call]
    return {name: weight.grad.clone() for name, weight in model.weights.items() if weight.grad is not None}


def in_parts(model: Encoder, room: int) -> dict[str, Tensor]:
    torch.manual_seed(17)
    documents, questions = Parts(model, room).encode((PASSAGES, 24), (QUESTIONS, 16))
    return gradients(documents, questions, model)


@pytest.mark.parametrize("room", [0, ALL])
@pytest.mark.parametrize("rows", [1, 3, 8, 1000])
def test_parts_of_any_size_have_the_gradients_of_the_whole_batch(base: Path, monkeypatch: pytest.MonkeyPatch, rows: int, room: int) -> None:
    """To rounding. The key's bias has no gradient in attention but rounding errors."""
    monkeypatch.setattr(parts, "ROWS", rows)
    model = opened(base, dropout=False)
    whole = gradients(model.encode(PASSAGES, 24), model.encode(QUESTIONS, 16), model)
    found = in_parts(model, room)
    assert len(whole) > 20
    assert found.keys() == whole.keys()
    for name, gradient in whole.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() or name.endswith("key.bias"), name


@pytest.mark.parametrize("kind", ["bert", "relu"])
def test_a_part_that_is_encoded_twice_drops_out_the_same_units_in_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """To the bit, so a bound changes nothing but the time."""
    monkeypatch.setattr(Parts, "_most", lambda self, size: 3)
    monkeypatch.setattr(Parts, "_size", lambda self, width: 1)
    model = opened(_made(tmp_path, kind), dropout=True)
    assert model.dropout
    kept, some, none = (in_parts(model, room) for room in (26, 13, 0))
    assert all(torch.equal(kept[name], some[name]) and torch.equal(kept[name], none[name]) for name in kept)
    still = in_parts(opened(_made(tmp_path / "still", kind), dropout=False), 26)
    assert not all(torch.equal(kept[name], still[name]) for name in kept)


def test_without_gradients_nothing_is_dropped_out(base: Path) -> None:
    divided = Parts(opened(base, dropout=True), 0)
    with torch.no_grad():
        (first,), (second,) = (divided.encode((PASSAGES, 24)) for _ in range(2))
    assert torch.equal(first, second)


def test_no_texts_have_no_vectors(base: Path) -> None:
    model = opened(base, dropout=True)
    found, none = Parts(model, 0).encode((PASSAGES, 24), ([], 24))
    assert found.shape == (len(PASSAGES), model.card.dimensions)
    assert none.shape == (0, model.card.dimensions)


def test_measuring_what_a_text_takes_leaves_the_random_state_as_it_was(base: Path) -> None:
    """Else a resumed run, which measures again, would drop out other units."""
    divided = Parts(opened(base, dropout=True), 0)
    before = torch.get_rng_state()
    short, long = divided._size(16), divided._size(64)
    assert 0 < 4 * short < long
    assert torch.equal(torch.get_rng_state(), before)


def test_measuring_what_a_text_takes_leaves_nothing_behind(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(base, dropout=False)
    weight = next(iter(model.weights.values()))
    made: list[weakref.ref[Tensor]] = []

    def vectors(*_: object) -> Tensor:
        found = weight.exp()
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(model, "vectors", vectors)
    assert Parts(model, 0)._saved(1, 16) == weight.nbytes
    assert [one() for one in made] == [None]


def peak(base: Path, memory: float) -> int:
    """MiB that a process held at most that took one step under a bound."""
    script = f"""
from pathlib import Path
import torch
from ragstone.corpus.pairs import Pair
from ragstone.recipe import Recipe
from ragstone.tune import Run
torch.set_num_threads(1)
pairs = [Pair(f"question {{n}}", str(n), "d", f"passage {{n}} " * 30, (f"other {{n}} " * 30,)) for n in range(1024)]
run = Run(Path({str(base)!r}), pairs, Recipe(epochs=1, batch=1024), Path({str(base.parent)!r}) / "work", memory={memory})
run._take()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    # not ru_maxrss, which a process takes over from the one that started it
    return int(subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout) >> 10


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much a process held at most, in /proc")
def test_a_low_bound_lowers_the_peak_of_a_process_and_is_kept(base: Path) -> None:
    low = peak(base, memory=1.6)
    assert low < 1.6 * 1024
    assert low < peak(base, memory=8) - 200


def _made(folder: Path, kind: str) -> Path:
    """One that is computed here, or by the package transformers."""
    if kind == "bert":
        return tiny(folder)
    embedder.prepare(other(folder / "source", kind), folder / "model", name=kind, base=kind)
    return folder / "model"


def test_what_a_process_has_come_to_hold_since_is_taken_off_the_room_of_a_batch(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []

    def encoded_again(encode: Callable[[Tensor, Tensor], Tensor], ids: Tensor, mask: Tensor, **_: bool) -> Tensor:
        again.append(len(ids))
        return encode(ids, mask)

    monkeypatch.setattr(parts, "checkpoint", encoded_again)
    divided = Parts(opened(base, dropout=False), ALL, memory=4)
    for held, wanted in ((1, 0), (4, len(QUESTIONS))):
        monkeypatch.setattr(parts, "trim", (held * 2**30).__int__)
        divided.encode((QUESTIONS, 16))
        assert sum(again) == wanted


def test_memory_in_use_is_not_asked_for_before_each_part(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    give = parts.trim

    def giving() -> int:
        held.append(give())
        return held[-1]

    monkeypatch.setattr(parts, "trim", giving)
    monkeypatch.setattr(parts, "ROWS", 1)
    Parts(opened(base, dropout=False), ALL, memory=0).encode((QUESTIONS, 16))
    assert len(held) == 1
