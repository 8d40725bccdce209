"""Training logs: a run's settings, the figures of each step and the verdict's, where people compare runs.

    tensorboard:runs             event files below runs/ of the project, a folder for each run
    mlflow:http://host:5000      an MLflow server, or what else MLflow takes for a tracking URI: mlflow:file:///srv/mlruns

A log is a convenience. A thread of its own writes it, so that a slow server does not hold training up; where it fails that is said once,
and training goes on without it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol
from urllib.parse import urlsplit

from ragstone.errors import ConfigError
from ragstone.recipe import Progress
from ragstone.show import Show

PATIENCE = 10.0
"""Seconds that the end of a run waits for its log."""

EXPERIMENT = "ragstone"
"""What MLflow keeps the runs under."""

RUN = "ragstone.run"
"""The tag by which a run that was interrupted is found again."""

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}
"""What each kind of log is written with."""

MOST = 1000
"""Figures that MLflow takes in one request."""

MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it reports its use to its makers otherwise
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is the verdict's
    "MLFLOW_ALLOW_FILE_STORE": "true",  # who names a folder has been asked
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default a dead server is known after minutes
}
"""What MLflow reads from the environment, unless it is set there."""

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Figure:
    """A number that a run told."""

    name: str
    value: float
    step: int
    at: float
    """Seconds since 1970."""


class Log(Protocol):
    """Where a run is written down. A call may take long and raise anything: a `Journal` makes it."""

    def write(self, figures: Sequence[Figure]) -> None:
        """Add figures, in the order in which they were told."""

    def close(self, status: str) -> None:
        """The run is over: FINISHED, KILLED by a person, or FAILED."""


class TensorBoard:
    """An event file, beside those of the same run before it was interrupted. What they say of later steps is taken back.

    tensorboardX's own writer is not used: it has a queue that a full disk blocks for ever.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.summary import hparams

        folder.mkdir(parents=True, exist_ok=True)
        self.file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self.begun = False
        plain = {name: value if isinstance(value, int | float) else str(value) for name, value in settings.items()}
        *beginning, self.end = hparams(plain, {})
        for summary in beginning:
            self._add(time.time(), 0, summary=summary)

    def write(self, figures: Sequence[Figure]) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.summary import scalar

        if not self.begun and figures[0].step:  # a run that was interrupted after its last step has a verdict only: its curves stay
            self._add(figures[0].at, figures[0].step, session_log=SessionLog(status=SessionLog.START))
        self.begun = True
        for figure in figures:
            self._add(figure.at, figure.step, summary=scalar(figure.name, figure.value))
        self.file.flush()

    def close(self, status: str) -> None:
        if status == "FINISHED":
            self._add(time.time(), 0, summary=self.end)
        self.file.close()

    def _add(self, at: float, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self.file.write_event(Event(wall_time=at, step=step, **content))


class Mlflow:
    """A run on an MLflow server, or in a store of MLflow's own; the same run again when it was interrupted."""

    def __init__(self, uri: str, run: str, settings: Settings) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(uri)
        known = self.client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self.client.create_experiment(EXPERIMENT)
        unfinished = self.client.search_runs([experiment], f"tags.`{RUN}` = '{run}' and attributes.status != 'FINISHED'", max_results=1)
        made = unfinished[0] if unfinished else self.client.create_run(experiment, run_name=run, tags={RUN: run})
        self.id: str = made.info.run_id
        self.client.update_run(self.id, status="RUNNING")
        self.client.log_batch(self.id, params=[Param(name, str(value)) for name, value in settings.items()])

    def write(self, figures: Sequence[Figure]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(figure.name, figure.value, int(1000 * figure.at), figure.step) for figure in figures]
        for start in range(0, len(metrics), MOST):
            self.client.log_batch(self.id, metrics=metrics[start : start + MOST])

    def close(self, status: str) -> None:
        self.client.set_terminated(self.id, status)


class Nowhere:
    """No log."""

    def write(self, figures: Sequence[Figure]) -> None:
        pass

    def close(self, status: str) -> None:
        pass


class Journal:
    """What a run tells, on its way into a log. Whatever becomes of that, no call here raises or waits."""

    def __init__(self, place: str, open: Callable[[], Log], show: Show) -> None:
        self.place, self.open, self.show = place, open, show
        self.told: SimpleQueue[Figure | str] = SimpleQueue()
        self.last = 0
        self.thread = Thread(target=self._write, daemon=True)
        self.thread.start()

    def step(self, now: Progress) -> None:
        """Every number that is known of a step, under its own name."""
        self.last = now.step
        self.figures({name: value for name, value in asdict(now).items() if name not in ("step", "steps")})

    def figures(self, values: Mapping[str, object]) -> None:
        """Numbers of the last step, by name; what is no number is left out."""
        for name, value in values.items():
            if isinstance(value, int | float):
                self.told.put(Figure(name, float(value), self.last, time.time()))

    def close(self, status: str) -> None:
        """The run is over. Waits for the log, within reason."""
        self.told.put(status)
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            self.show.say(f"log       {self.place} does not answer: the end of the run is not in it")

    def _write(self) -> None:
        try:
            log = self.open()
            for figures, status in self._parts():
                if figures:
                    log.write(figures)
                if status:
                    log.close(status)
        except Exception as error:  # the clients of others, over disks and networks: what they raise is not known
            self.show.say(f"log       {self.place} failed, and this run is not logged any further: {_reason(error)}")

    def _parts(self) -> Iterator[tuple[list[Figure], str]]:
        """All figures that wait, again and again; with the last of them the status."""
        status = ""
        while not status:
            part: list[Figure] = []
            while not status and (not part or not self.told.empty()):
                told = self.told.get()
                if isinstance(told, Figure):
                    part.append(told)
                else:
                    status = told
            yield part, status


@contextmanager
def journal(url: str, folder: Path, run: str, settings: Settings, show: Show) -> Iterator[Journal]:
    """The journal of a run of that name, into the log at `url` (`train.log`), until the block ends. `folder` is the project's.

    Raises `ConfigError`, as `check` does.
    """
    check(url)
    kept = Journal(url, _log(url, folder, run, settings), show)
    try:
        yield kept
    except BaseException as error:
        kept.close("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    kept.close("FINISHED")


def check(url: str) -> None:
    """Raises `ConfigError` when `url` (`train.log`) names no log, has credentials in it, or needs an extra that is not installed."""
    kind, _, place = url.partition(":")
    if not url:
        return
    if kind not in PACKAGES or not place:
        raise ConfigError(f"train.log has no log of the kind {kind!r}", "set train.log to tensorboard:runs or mlflow:http://127.0.0.1:5000")
    parts = urlsplit(place)
    if "@" in parts.netloc or parts.query:  # MLflow repeats its URI in messages
        raise ConfigError(
            "train.log has credentials or a query in its URI, and is shown in messages",
            "leave the bare address, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )
    if find_spec(PACKAGES[kind]) is None:
        raise ConfigError(f"train.log needs {PACKAGES[kind]}, which is not installed", f"pip install 'ragstone[{kind}]'")


def _log(url: str, folder: Path, run: str, settings: Settings) -> Callable[[], Log]:
    """How the log is opened. What it needs is imported here: the thread's imports could meet those of training half way."""
    kind, _, place = url.partition(":")
    if kind == "tensorboard":
        import tensorboardX  # noqa: F401

        return lambda: TensorBoard(folder / place / run, settings)
    if kind == "mlflow":
        for name, value in MLFLOW.items():
            os.environ.setdefault(name, value)
        import mlflow.tracking  # noqa: F401

        return lambda: Mlflow(place, run, settings)
    return Nowhere


def _reason(error: BaseException) -> str:
    """What went wrong, in a line: what the system said, at the bottom of other errors, or else the first line of the error itself."""
    chain: list[BaseException] = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(inner)
    told = next((one for one in reversed(chain) if isinstance(one, OSError)), error)
    return next(iter(str(told).strip().splitlines()), "")[:200] or type(told).__name__
