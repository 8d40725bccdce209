import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ragstone.children import Kept, interruptible, spawn, stop


def wait_until(true: object, seconds: float = 20.0) -> None:
    """Wait for what another process does; how long it takes is not asserted."""
    assert callable(true)
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def test_a_process_is_started_with_its_output_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "version.log"
    assert spawn(["--version"], log).wait(30) == 0
    assert log.read_text().startswith("ragstone ")


def test_a_process_found_dead_is_started_again(tmp_path: Path) -> None:
    kept = Kept(["--version"], tmp_path / "log", tmp_path)
    assert kept.tend() is None
    assert kept.process is not None
    kept.process.wait(30)
    assert kept.tend() == 0
    kept.process.wait(30)
    assert (tmp_path / "log").read_text().count("ragstone ") == 2


def test_a_process_that_keeps_dying_waits_longer_each_time(tmp_path: Path) -> None:
    now = 0.0
    kept = Kept(["no-such-command"], tmp_path / "log", tmp_path, clock=lambda: now)
    kept.tend()
    statuses = []
    for second in range(8):
        now = float(second)
        assert kept.process is not None
        kept.process.wait(30)
        statuses.append(kept.tend())
    assert [second for second, status in enumerate(statuses) if status is not None] == [0, 1, 4]


def test_sigterm_ends_interruptible_work_as_ctrl_c_does_and_means_what_it_meant_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_became_of_an_interrupt_on_its_way_is_an_interrupt_still() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        fails(interrupted=True)
    with pytest.raises(ImportError), interruptible():
        fails(interrupted=False)


def fails(interrupted: bool) -> None:
    """As a C module does whose import is interrupted."""
    try:
        if interrupted:
            signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        pass
    raise ImportError("initialization failed")


def test_stopping_a_process_that_ignores_sigterm_still_ends_it() -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    assert stop(process, patience=0.2) == -9


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's; elsewhere children outlive a killed parent")
def test_a_killed_parent_takes_its_processes_with_it(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from ragstone.children import spawn;"
        f"child = spawn(['edge', '--port', '0'], pathlib.Path({str(tmp_path / 'log')!r}));"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=tmp_path)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
