"""Safetensors files as float32 arrays, without PyTorch: halves of both kinds are widened. Weights in several files become one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ragstone.errors import WeightsError

FILE = "model.safetensors"
SHARDS = "model.safetensors.index.json"
"""Says which of several files holds which tensor."""

FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def load(path: Path) -> dict[str, NDArray[np.float32]]:
    """The floating-point tensors of a file, by name; others (position ids) are left out. Raises `WeightsError` when it can't be read."""
    from safetensors import SafetensorError, deserialize

    try:
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"can't read {path}: {error}") from error
    return {
        name: _floats(tensor["data"], tensor["dtype"]).reshape(tensor["shape"])
        for name, tensor in tensors
        if tensor["dtype"] in FLOATS or tensor["dtype"] == "BF16"
    }


def join(folder: Path, target: Path) -> None:
    """Make `target` one file of the tensors in `folder`, byte by byte: copied, or put together from its shards."""
    if (folder / FILE).is_file():
        shutil.copyfile(folder / FILE, target)
        return
    try:
        names = json.loads((folder / SHARDS).read_bytes())["weight_map"].values()
        shards = [folder / Path(name).name for name in sorted(set(names))]
        headers = [_header(shard) for shard in shards]
        with target.open("wb") as out:
            out.write(_joined(shards, headers))
            for shard, (_, start) in zip(shards, headers, strict=True):
                with shard.open("rb") as file:
                    file.seek(start)
                    shutil.copyfileobj(file, out, 1 << 20)
    except (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"can't read the weights of {folder}: {error}") from error


Header = dict[str, dict[str, object]]


def _floats(data: bytes, kind: str) -> NDArray[np.float32]:
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, FLOATS[kind]).astype(np.float32)


def _header(shard: Path) -> tuple[Header, int]:
    """What a file says of its tensors, and where their bytes start."""
    with shard.open("rb") as file:
        length = _length(file)
        header: Header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _length(file: BinaryIO) -> int:
    return int.from_bytes(file.read(8), "little")


def _joined(shards: list[Path], headers: list[tuple[Header, int]]) -> bytes:
    """The head of a file that holds the bytes of all shards, one after the other."""
    whole: dict[str, object] = {"__metadata__": {"format": "pt"}}
    before = 0
    for shard, (header, start) in zip(shards, headers, strict=True):
        for name, tensor in header.items():
            whole[name] = {**tensor, "data_offsets": [int(at) + before for at in list(tensor["data_offsets"])]}  # type: ignore[call-overload]
        before += shard.stat().st_size - start
    written = json.dumps(whole, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written
