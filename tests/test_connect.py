import os
import subprocess
import sys

import pytest

from ragstone.connect import STAGES, built_in, connector
from ragstone.errors import ConfigError


def test_a_scheme_is_the_modules_name() -> None:
    assert connector("store", "file:///tmp/x").__name__ == "ragstone.store.file"


def test_an_unknown_scheme_names_what_there_is() -> None:
    with pytest.raises(ConfigError, match="no store connector for 'ftp': there is file"):
        connector("store", "ftp://host/x")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_an_embedded_default(stage: str) -> None:
    assert built_in(stage)


def test_what_runs_a_stage_by_itself_is_no_scheme() -> None:
    assert "__main__" not in built_in("train")


def test_importing_ragstone_loads_nothing_heavy() -> None:
    program = "import sys, ragstone; print(sorted(m for m in ('torch', 'numpy', 'onnxruntime', 'starlette') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("given", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_pytorchs_threads_sleep_while_they_wait_unless_the_environment_says_otherwise(given: dict[str, str], found: str) -> None:
    program = "import ragstone.encoder, subprocess, sys; subprocess.run(['printenv', 'OMP_WAIT_POLICY'])"
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=clean | given)
    assert done.stdout.strip() == found
