"""TensorBoard's event files, read as TensorBoard reads them: each record by its length and checksums, which another package computes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crcmod.predefined
from tensorboardX.proto.event_pb2 import Event

crc32c = crcmod.predefined.mkCrcFun("crc-32c")


def events(folder: Path) -> list[Any]:
    """Every event of the files in the folder, the oldest file first."""
    files = sorted(folder.glob("events.out.tfevents.*"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return [Event.FromString(record) for path in files for record in _records(path.read_bytes())]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of each curve, by its tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def _records(content: bytes) -> Iterator[bytes]:
    while content:
        head, content = content[:12], content[12:]
        length, checksum = struct.unpack("<QI", head)
        assert checksum == _masked(head[:8])
        record, end, content = content[:length], content[length : length + 4], content[length + 4 :]
        assert struct.unpack("<I", end) == (_masked(record),)
        yield record


def _masked(content: bytes) -> int:
    """A checksum in TFRecord's form."""
    checksum: int = crc32c(content)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF
