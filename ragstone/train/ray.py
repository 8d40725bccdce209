"""Training on a Ray cluster: Ray Train for the run, Ray Data for mining and encoding.

    ray?workers=2                      Ray on this machine, on loopback only, until this process ends
    ray://host:10001?workers=8         a cluster, through its client port
    ray+gcs://host:6379?workers=8      a cluster that this machine is a node of

No shared folder is needed: models and pairs go to the workers through Ray, and checkpoints come back to `work`, where a later run finds
them. What travels of a model is its files; weights are safetensors everywhere.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ragstone import raycluster
from ragstone.corpus.pairs import Pair
from ragstone.errors import ConfigError, RagstoneError, TrainError
from ragstone.raycluster import reason
from ragstone.train import MEMORY, Progress, R, Recipe, Report, T, Trainer, Work

MAPS = True
"""The workers encode and search too."""

FAILURES = 2
"""How many times a run is started again after it lost a worker."""

BLOCK = 128
"""Items that a worker maps at a time: about a second of passages. Fewer in all are not worth a cluster."""

PATIENCE = 0.5
"""Seconds between two looks at whether the workers have ended."""

Handle = Any
"""Ray's handle of the desk: each method becomes `method.remote`."""

Files = Mapping[str, bytes]
"""A folder's files by relative path."""


@dataclass(frozen=True)
class Cluster:
    """Where the workers run and how many; 0 workers is one for each GPU or, without any, for each node; 0 cpus is all there are."""

    address: str
    workers: int = 0
    cpus: int = 0


def connect(url: str) -> RayTrainer:
    """The trainer; Ray is started or joined with the first call. Raises `ConfigError`."""
    return RayTrainer(cluster(url))


def cluster(url: str) -> Cluster:
    """What the URL says.

    >>> cluster("ray?workers=2"), cluster("ray://host:10001"), cluster("ray+gcs://host:6379?workers=8&cpus=4")
    (Cluster(address='local', workers=2, cpus=0), Cluster(address='ray://host:10001', workers=0, cpus=0), \
Cluster(address='host:6379', workers=8, cpus=4))
    """
    address = raycluster.address(url)
    query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    numbers = set(query) <= {"workers", "cpus"} and all(value.isdecimal() for value in query.values())
    if not numbers or not address:
        raise ConfigError(f"train.url = {url!r} is not the address of a Ray cluster", "set train.url like ray?workers=2 or ray://host:10001")
    return Cluster(address, **{name: int(value) for name, value in query.items()})


class RayTrainer(Trainer):
    """Trains and maps on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def train(
        self, base: Path, pairs: Sequence[Pair], recipe: Recipe, work: Path, progress: Report, memory: float = MEMORY
    ) -> dict[float, Path]:
        """Candidate model folders below `work`, by interpolation. Resumes from a checkpoint in `work`. Raises `TrainError`."""
        from ragstone.tune import Run

        run = Run(base, pairs, recipe, work)
        if not run.over:
            _train(self.cluster, _Order(_packed(run.base), tuple(pairs), recipe, memory), work, progress)
            run = Run(base, pairs, recipe, work)
        return run.candidates()

    def map(
        self, open: Callable[..., Work[T, R]], folders: Sequence[Path], items: Sequence[T], progress: Callable[[int], None]
    ) -> list[R]:
        """What `open(*folders)` gives for `items`, in order; every worker opens copies of the folders once. Raises `TrainError`."""
        if len(items) < BLOCK:
            return super().map(open, folders, items, progress)
        return _map(self.cluster, open, folders, items, progress)


@dataclass(frozen=True)
class _Order:
    """What every worker needs."""

    base: Files
    pairs: tuple[Pair, ...]
    recipe: Recipe
    memory: float


@dataclass(frozen=True)
class _News:
    """What the workers told since the driver last asked."""

    progress: tuple[Progress, ...]
    checkpoint: bytes
    failure: tuple[str, str] | None


class _Desk:
    """An actor between the workers and the driver. It outlives the workers, so those that follow go on from its checkpoint."""

    def __init__(self, checkpoint: bytes) -> None:
        self.checkpoint, self.fresh = checkpoint, False
        self.progress: list[Progress] = []
        self.failure: tuple[str, str] | None = None
        self.stopped = False
        self.told = asyncio.Event()

    async def tell(self, now: Progress) -> bool:
        """Whether the run is to go on."""
        self.progress.append(now)
        self.told.set()
        return not self.stopped

    async def keep(self, checkpoint: bytes) -> None:
        self.checkpoint, self.fresh = checkpoint, True
        self.told.set()

    async def fail(self, message: str, hint: str) -> None:
        self.failure = message, hint
        self.told.set()

    async def latest(self) -> bytes:
        """The newest checkpoint, empty when there is none."""
        return self.checkpoint

    async def stop(self) -> None:
        self.stopped = True

    async def hear(self) -> _News:
        """What is new, as soon as there is any; nothing when there is none for a while."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.told.wait(), PATIENCE)
        news = _News(tuple(self.progress), self.checkpoint if self.fresh else b"", self.failure)
        self.told.clear()
        self.progress.clear()
        self.fresh, self.failure = False, None
        return news


def _train(cluster: Cluster, order: _Order, work: Path, progress: Report) -> None:
    """Leaves the last checkpoint in `work`. An interruption ends the run at its next step, with a checkpoint; a second one at once."""
    from ragstone.tune import CHECKPOINT

    _start(cluster)
    import ray
    import ray.train

    scale = _scale(cluster, most=min(order.recipe.batch, len(order.pairs)))
    kept = work / CHECKPOINT
    desk = ray.remote(num_cpus=0)(_Desk).remote(kept.read_bytes() if kept.is_file() else b"")
    errand = ray.put(order)
    fit = _in_background(lambda: _fit(scale, desk, errand))
    try:
        _follow(fit, desk, kept, progress)
        fit.result()
    except (ray.exceptions.RayError, ray.train.TrainingFailedError) as error:
        raise TrainError(f"the workers failed: {reason(error)}", "run it again: it goes on from its last checkpoint") from error
    except BaseException:
        with suppress(ray.exceptions.RayError):
            ray.get(desk.stop.remote())
            _follow(fit, desk, kept, lambda now: None)
        raise


def _follow(fit: Future[None], desk: Handle, kept: Path, progress: Report) -> None:
    """Store and pass on what the workers tell, until they have ended. Raises `TrainError` when the run has no way on."""
    import ray

    over = False
    while not over:
        over = fit.done()
        news: _News = ray.get(desk.hear.remote())
        if news.checkpoint:
            _store(kept, news.checkpoint)
        for now in news.progress:
            progress(now)
        if news.failure:
            raise TrainError(*news.failure)


def _fit(scale: _Scale, desk: Handle, order: object) -> None:
    """Run the workers to their end, again from the newest checkpoint when one dies. Ray Train does that."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory(prefix="ragstone-ray-") as storage:  # of Ray Train's own notes: nothing of ours goes there
        TorchTrainer(
            _work,
            train_loop_config={"desk": desk, "order": order},
            torch_config=_unconnected(),
            scaling_config=ScalingConfig(num_workers=scale.workers, use_gpu=bool(scale.gpus), resources_per_worker=scale.resources),
            run_config=RunConfig(storage_path=storage, failure_config=FailureConfig(max_failures=FAILURES)),
        ).fit()


def _unconnected() -> Any:
    """Ray Train's PyTorch without its rendezvous, which listens on every interface; ours is `workers.join`."""
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig

    class Unconnected(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> Any:
            return Backend

    return Unconnected()


def _work(config: dict[str, Any]) -> None:
    """One worker's part of a run."""
    import ray
    import torch
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    from ragstone import workers
    from ragstone.tune import CHECKPOINT, Run

    rank, count = get_context().get_world_rank(), get_context().get_world_size()
    order: _Order = ray.get(config["order"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reporter = _Reporter(config["desk"])
    with tempfile.TemporaryDirectory(prefix="ragstone-worker-") as name:
        folder = Path(name)
        _unpack(order.base, folder / "base")
        (folder / CHECKPOINT).write_bytes(reporter.latest())
        workers.join(rank, count, ray.util.get_node_ip_address(), broadcast_from_rank_zero, "nccl" if device.type == "cuda" else "gloo")
        try:
            group = workers.Group(device, reporter.told_to_stop)
            run = Run(folder / "base", order.pairs, order.recipe, folder, group, reporter.keep, order.memory)
            run.optimise(reporter.tell if rank == 0 else lambda now: None)
        except KeyboardInterrupt:
            pass  # the driver's: the run is saved
        except TrainError as error:
            reporter.fail(error)
        finally:
            reporter.told_to_stop()
            workers.leave()


class _Reporter:
    """A worker's line to the desk. A step does not wait for the answer to its own report: it takes that of the step before."""

    def __init__(self, desk: Handle) -> None:
        self.desk = desk
        self.answer: Any = None

    def latest(self) -> bytes:
        checkpoint: bytes = self._get(self.desk.latest.remote())
        return checkpoint

    def tell(self, now: Progress) -> None:
        self.answer = self.desk.tell.remote(now)

    def told_to_stop(self) -> bool:
        return self.answer is not None and not self._get(self.answer)

    def keep(self, checkpoint: Path) -> None:
        self._get(self.desk.keep.remote(checkpoint.read_bytes()))

    def fail(self, error: TrainError) -> None:
        self._get(self.desk.fail.remote(error.message, error.hint))

    def _get(self, reference: Any) -> Any:
        import ray

        return ray.get(reference)


def _map(
    cluster: Cluster, open: Callable[..., Work[T, R]], folders: Sequence[Path], items: Sequence[T], progress: Callable[[int], None]
) -> list[R]:
    _start(cluster)
    import ray

    blocks = [items[start : start + BLOCK] for start in range(0, len(items), BLOCK)]
    rows = [{"at": at, "block": pickle.dumps(list(block))} for at, block in enumerate(blocks)]
    errand = open, [ray.put(_packed(folder)) for folder in folders], rows, _scale(cluster, most=len(blocks))
    found: dict[int, list[R]] = {}
    done = 0
    try:
        for row in _remote(errand) if cluster.address.startswith("ray://") else _mapped(*errand):
            found[row["at"]], told, failure = pickle.loads(row["block"])
            if failure:
                raise TrainError(*failure)
            done += told
            progress(done)
    except ray.exceptions.RayError as error:
        raise TrainError(f"a worker failed: {reason(error)}", "run it again") from error
    return [result for at in range(len(blocks)) for result in found[at]]


Row = dict[str, Any]


def _mapped(open: Callable[..., Work[Any, Any]], folders: Sequence[Any], rows: Sequence[Row], scale: _Scale) -> Iterator[Row]:
    """The rows with their results, as they are ready. Ray Data does that."""
    from ray import data

    context = data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    pool = data.ActorPoolStrategy(size=scale.workers)
    mapped = data.from_items(rows, override_num_blocks=len(rows)).map(
        _Mapper, fn_constructor_args=(open, folders), compute=pool, num_cpus=scale.cpus
    )
    yield from mapped.iter_rows()


def _remote(errand: tuple[Any, ...]) -> list[Row]:
    """All rows at once, from a task on the cluster: Ray Data does not work through a client port."""
    import ray

    rows: list[Row] = ray.get(ray.remote(num_cpus=0)(lambda *errand: list(_mapped(*errand))).remote(*errand))
    return rows


class _Mapper:
    """What one worker maps with. Results travel pickled: as Arrow columns they would change their types."""

    def __init__(self, open: Callable[..., Work[Any, Any]], folders: Sequence[Any]) -> None:
        import ray

        with tempfile.TemporaryDirectory(prefix="ragstone-worker-") as name:
            paths = [_unpack(ray.get(folder), Path(name) / str(at)) for at, folder in enumerate(folders)]
            self.work = open(*paths)

    def __call__(self, row: Row) -> Row:
        told = [0]
        failure, results = None, list[Any]()
        try:
            results = list(self.work(pickle.loads(row["block"]), told.append))
        except RagstoneError as error:
            failure = error.message, error.hint
        return {"at": row["at"], "block": pickle.dumps((results, told[-1], failure))}


def _start(cluster: Cluster) -> None:
    """Ray runs in this process from here on. Raises `TrainError`."""
    raycluster.join(cluster.address, cluster.workers, TrainError)


@dataclass(frozen=True)
class _Scale:
    """How many workers, and what each of them holds."""

    workers: int
    cpus: int
    gpus: int

    @property
    def resources(self) -> dict[str, int]:
        return {"CPU": self.cpus} | ({"GPU": 1} if self.gpus else {})


def _scale(cluster: Cluster, most: int) -> _Scale:
    """As much as was asked for, or there is; at most so many workers. Raises `TrainError` when the cluster has less."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    workers = min(cluster.workers or gpus or len(nodes), most)
    beside = math.ceil(workers / len(nodes))
    cpus = cluster.cpus or max(1, int(min(node.get("CPU", 0) for node in nodes)) // beside)
    if sum(node.get("CPU", 0) // cpus for node in nodes) < workers or 0 < gpus < workers:
        have = f"{int(sum(node.get('CPU', 0) for node in nodes))} CPUs, {gpus} GPUs, {len(nodes)} nodes"
        raise TrainError(f"{workers} workers of {cpus} CPUs do not fit: the cluster has {have}", "set train.url like ray?workers=2&cpus=1")
    return _Scale(workers, cpus, gpus)


def _packed(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _unpack(files: Files, folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _store(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _in_background(call: Callable[[], None]) -> Future[None]:
    """The call in a thread that no one waits for when this process ends: Ray ends with it."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            call()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
