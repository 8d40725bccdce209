"""Base models of a model hub, by their id. What huggingface_hub reads counts: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, the proxy.

A model is kept in the cache folder, whole or not at all: weights in safetensors and what says how to use them; no pickle, no code.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ragstone.config import cache_folder
from ragstone.errors import WeightsError

SCHEME = "hub://"
ID = re.compile(r"(hub://)?(?P<owner>[\w][\w.-]*)/(?P<name>[\w][\w.-]*)(@(?P<revision>[\w./-]+))?")

SAYS = r"config|generation_config|modules|tokenizer|tokenizer_config|special_tokens_map|sentence_bert_config|config_sentence_transformers"
WANTED = re.compile(
    rf"({SAYS}|model\.safetensors\.index)\.json|vocab\.txt|chat_template\.jinja|model(-\d+-of-\d+)?\.safetensors|\d+_\w+/(config\.json|model\.safetensors)"
)
"""The files of a model in Sentence-Transformers' layout, or of a generator; anything else stays on the hub."""


@dataclass(frozen=True)
class _File:
    """A file of a repository: its size, and its SHA-256 where the hub says one (for large files)."""

    size: int
    sha256: str


def is_id(name: str) -> bool:
    """Whether a name is a model's id on the hub: `org/name`, `hub://org/name`, either with `@revision`.

    >>> is_id("hub://BAAI/bge-small-en-v1.5"), is_id("intfloat/e5-small@main"), is_id("minilm"), is_id("/models/e5"), is_id("../e5")
    (True, True, False, False, False)
    """
    return ID.fullmatch(name) is not None


def pull(name: str, progress: Callable[[str], None]) -> Path:
    """The folder of a model by its id: downloaded once, then from the cache, without asking the hub again.

    `progress` is told in words what is downloaded. Raises `WeightsError` when it can't be had or has no safe weights.
    """
    found = ID.fullmatch(name)
    assert found, name
    id, revision = f"{found['owner']}/{found['name']}", found["revision"]
    place = cache_folder() / "hub" / f"{found['owner']}--{found['name']}{f'@{revision}' if revision else ''}".replace("/", "--")
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=place.parent) as work:
            _download(id, revision, Path(work), progress)
            with suppress(OSError):  # another process placed it meanwhile
                (Path(work) / "model").rename(place)
    return place


def _download(id: str, revision: str | None, work: Path, progress: Callable[[str], None]) -> None:
    """Put the model into `work/model`, each file checked."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(id, revision=revision, files_metadata=True)
        listed = {one.rfilename: _File(one.size or 0, one.lfs.sha256 if one.lfs else "") for one in info.siblings or ()}
        files = _wanted(id, listed)
        progress(f"{id}: downloading {info.sha}, {sum(file.size for file in files.values()) / 1e6:.0f} MB")
        snapshot_download(id, revision=info.sha, local_dir=work / "hub", allow_patterns=sorted(files))
    except WeightsError:
        raise
    except Exception as error:  # the package raises its own, its transport's and the system's
        raise _explained(id, error) from error
    for name, file in files.items():
        (work / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "hub" / name).rename(work / "model" / name)
        _check(work / "model" / name, file, id)


def _wanted(id: str, listed: Mapping[str, _File]) -> dict[str, _File]:
    files = {name: file for name, file in listed.items() if WANTED.fullmatch(name)}
    for needed, missing in (("safetensors", "weights in safetensors"), ("tokenizer.json", "tokenizer.json")):
        if not any(name.endswith(needed) and "/" not in name for name in files):
            raise WeightsError(f"{id} has no {missing}; other files may run code when they are loaded, or need a package of their own")
    return files


def _check(path: Path, file: _File, id: str) -> None:
    if path.stat().st_size != file.size:
        raise WeightsError(f"{id}: {path.name} has {path.stat().st_size} bytes, not {file.size}; it was not kept")
    if file.sha256:
        with path.open("rb") as opened:
            seen = hashlib.file_digest(opened, "sha256").hexdigest()
        if seen != file.sha256:
            raise WeightsError(f"{id}: {path.name} has SHA-256 {seen}, not {file.sha256}; it was not kept")


def _explained(id: str, error: Exception) -> WeightsError:
    """What the hub said, or that it can't be reached, with what to do about it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    if isinstance(error, GatedRepoError):
        return WeightsError(f"{id} asks for a licence to be accepted: {reason}", "accept it on the hub, then set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return WeightsError(f"{constants.ENDPOINT} has no model {id}, or it is private", "ragstone models list, or set HF_TOKEN")
    if isinstance(error, HfHubHTTPError):
        return WeightsError(f"{constants.ENDPOINT} did not give {id}: {reason}")
    advice = "copy the model's folder here from a machine that has it and set train.base to its path"
    return WeightsError(f"can't reach {constants.ENDPOINT} for {id}: {reason}", advice)
