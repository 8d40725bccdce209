"""Several processes on one training run, by torch.distributed: each encodes its part of a batch, all hold the same weights.

It does not know who starts the processes: a connector does, and brings them together with `join`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, distributed

from ragstone.tune import share

Address = tuple[str, int]


def join(rank: int, count: int, host: str, meet: Callable[[Address | None], Address], backend: str) -> None:
    """Bring `count` processes together, once each has called this. They meet at rank 0, which listens on `host` and nowhere else.

    `meet` gives every process what rank 0 passes to it. `backend` is `gloo`, or `nccl` between GPUs. End with `leave`.
    """
    listener = socket.create_server((host, 0)) if rank == 0 else None
    address, port = meet((host, listener.getsockname()[1]) if listener else None)
    descriptor = listener.detach() if listener else None
    store = distributed.TCPStore(address, port, count, rank == 0, master_listen_fd=descriptor)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count)


def leave() -> None:
    """Undo `join`."""
    distributed.destroy_process_group()


class Group:
    """The `tune.Workers` that have joined. Rank 0 asks `stop` once a step; at its yes every worker is interrupted after that step."""

    def __init__(self, device: torch.device, stop: Callable[[], bool] = lambda: False) -> None:
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
        self.device, self.stop = device, stop

    def gather(self, own: Tensor, rows: int) -> Tensor:
        """All rows, by adding up matrices that are zero but for each worker's own: that takes parts of any size, and is exact."""
        part = share(rows, self.rank, self.count)
        whole = own.new_zeros((rows, own.shape[1]))
        whole[part] = own.detach()
        distributed.all_reduce(whole)
        return torch.cat([whole[: part.start], own, whole[part.stop :]])

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes the sum of the workers'."""
        for sum in [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
            sum.wait()

    def agree(self, value: float) -> float:
        """Rank 0's value. Raises `KeyboardInterrupt` on every worker when rank 0 is to stop."""
        told = torch.tensor([value, self.rank == 0 and self.stop()], dtype=torch.float64, device=self.device)
        distributed.broadcast(told, 0)
        if told[1]:
            raise KeyboardInterrupt
        return float(told[0])
