"""A training job as files, so that it can run on another machine: base, pairs and recipe in; candidates and `done.json` out.

`python -m ragstone.train --job FOLDER` runs one. This module knows nothing of what trains it, or of how the folder gets there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from safetensors import SafetensorError, safe_open

from ragstone import embedder
from ragstone.corpus.pairs import Pair
from ragstone.errors import TrainError
from ragstone.recipe import Recipe
from ragstone.store import sha256

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)

BASE, PAIRS, RECIPE, DONE = "base", "pairs.jsonl", "recipe.json", "done.json"
AGAIN = "write the job again: ragstone train --to pai does, and so does ragstone.job.write()"


@dataclass(frozen=True)
class Job:
    """What a job folder asks for."""

    base: Path
    pairs: tuple[Pair, ...]
    recipe: Recipe


@dataclass(frozen=True)
class Candidate:
    """One candidate of a finished job: its folder below the job's, and the SHA-256 of each file in it."""

    share: float
    folder: str
    files: Mapping[str, str]


def write(folder: Path, base: Path, pairs: Sequence[Pair], recipe: Recipe) -> str:
    """The digest of the job that `folder` now holds. A base in Sentence-Transformers' layout becomes a complete model folder."""
    if not pairs:
        raise TrainError("there are no pairs to train on", "add documents and run `ragstone up` again")
    shutil.rmtree(folder / BASE, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if (base / "card.json").is_file():
        shutil.copytree(base, folder / BASE)
    else:
        embedder.prepare(base, folder / BASE, name=base.name, base=base.name)
    lines = (json.dumps(asdict(pair), ensure_ascii=False) for pair in pairs)
    (folder / PAIRS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / RECIPE).write_text(json.dumps(asdict(recipe), indent=1), encoding="utf-8")
    return digest(folder)


def read(folder: Path) -> Job:
    """The job in `folder`. Raises `TrainError`, naming the file and the remedy, when one is missing or damaged."""
    _check(folder / BASE)
    recipe = _value(Recipe, _json(folder / RECIPE, _text(folder / RECIPE)), folder / RECIPE)
    lines = _text(folder / PAIRS).split("\n")
    pairs = [_value(Pair, _json(folder / PAIRS, line, at), folder / PAIRS, at) for at, line in enumerate(lines, 1) if line]
    if not pairs:
        raise TrainError(f"{folder / PAIRS} has no pair in it", AGAIN)
    return Job(folder / BASE, tuple(pairs), recipe)


def digest(folder: Path) -> str:
    """SHA-256 over the files that a job asks with, in hex. Not the graph: it is made from the weights."""
    files = [path for path in sorted((folder / BASE).rglob("*")) if path.is_file() and path.name != "model.onnx"]
    parts = {path.relative_to(folder).as_posix(): sha256(path) for path in (*files, folder / PAIRS, folder / RECIPE)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def finish(folder: Path, candidates: Mapping[float, Path]) -> None:
    """Move the candidates into `folder/candidates` and write `done.json`, last: who sees it can rely on the rest."""
    done: list[dict[str, object]] = []
    for share, made in candidates.items():
        target = folder / "candidates" / f"{share:g}"
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        shutil.move(made, target)
        files = {path.relative_to(target).as_posix(): sha256(path) for path in sorted(target.rglob("*")) if path.is_file()}
        done.append(asdict(Candidate(share, target.relative_to(folder).as_posix(), files)))
    fresh = folder / f"{DONE}.new"
    fresh.write_text(json.dumps({"job": digest(folder), "candidates": done}, indent=1), encoding="utf-8")
    fresh.replace(folder / DONE)


def finished(folder: Path) -> dict[float, Path]:
    """The candidates of the job in `folder`, each file checked; none when it is not done. Raises `TrainError` when one has changed."""
    if not (folder / DONE).is_file():
        return {}
    found = candidates((folder / DONE).read_bytes(), digest(folder), str(folder / DONE))
    for candidate in found:
        verify(folder / candidate.folder, candidate)
    return {candidate.share: folder / candidate.folder for candidate in found}


def candidates(done: bytes, job: str, where: str) -> list[Candidate]:
    """What a `done.json` says; nothing when it is of another job. `where` is its name in a message."""
    try:
        told = json.loads(done)
        if told["job"] != job:
            return []
        found = [Candidate(float(one["share"]), str(one["folder"]), dict(one["files"])) for one in told["candidates"]]
    except (ValueError, TypeError, KeyError) as error:
        raise TrainError(f"{where} is damaged: {error!r}", f"delete it and give the same command again: {where}") from error
    for candidate in found:
        for path in (candidate.folder, *candidate.files):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
                raise TrainError(f"{where} names {path!r}, which is outside the job's folder", f"delete it: {where}")
    return found


def verify(folder: Path, candidate: Candidate) -> None:
    """Raises `TrainError`, naming the file, unless each file of the candidate in `folder` is the one that the job made."""
    for name, expected in candidate.files.items():
        found = sha256(folder / name) if (folder / name).is_file() else "missing"
        if found != expected:
            raise TrainError(
                f"{folder / name} is not what the job made: its SHA-256 is {found}, {DONE} says {expected}",
                f"delete {DONE} and {candidate.folder} of the job and give the same command again: it trains from its checkpoint",
            )


def _check(base: Path) -> None:
    """Raises `TrainError` unless the base has its three files and each can be read."""
    for name in embedder.WEIGHTS:
        if not (base / name).is_file():
            raise TrainError(f"{base / name} is missing", AGAIN)
    for name in ("config.json", "tokenizer.json", *(["card.json"] if (base / "card.json").is_file() else [])):
        _json(base / name, _text(base / name))
    try:
        with safe_open(base / "model.safetensors", framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise TrainError(f"{base / 'model.safetensors'} is damaged: {error}", AGAIN) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TrainError(f"{path} is missing", AGAIN) from error
    except UnicodeDecodeError as error:
        raise TrainError(f"{path} is damaged: {error}", AGAIN) from error


def _json(path: Path, text: str, line: int = 0) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise TrainError(f"{_place(path, line)} is damaged: {error}", AGAIN) from error


def _value(kind: type[T], raw: Any, path: Path, line: int = 0) -> T:
    """A frozen value from its JSON object: lists become tuples, and what does not fit a field is an error that names it."""
    where, known = _place(path, line), {field.name for field in fields(kind)}
    if not isinstance(raw, dict):
        raise TrainError(f"{where} is no JSON object but {raw!r:.80}", AGAIN)
    if unknown := sorted(set(raw) - known):
        raise TrainError(f"{where} has {unknown[0]!r}, which this version does not know", "install the Ragstone that wrote the job")
    values = {name: _frozen(value) for name, value in raw.items()}
    for name, hint in get_type_hints(kind).items():
        if name in values and not _fits(values[name], hint):
            raise TrainError(f"{where} is damaged: {name} is {values[name]!r:.80}", AGAIN)
    try:
        return kind(**values)
    except TypeError as error:
        raise TrainError(f"{where} is damaged: {error}", AGAIN) from error


def _place(path: Path, line: int) -> str:
    return f"{path} line {line}" if line else str(path)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value can be a field of this type; a type that is not known here fits."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        return isinstance(value, tuple) and (inner[-1] is not ... or all(_fits(one, inner[0]) for one in value))
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)
