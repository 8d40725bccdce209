"""PAI-DLC under the trainers' contract, against a cloud on loopback. A job that is asked for again is found, so one run serves most."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ragstone import train
from ragstone.train import Trainer
from tests import cloud as clouds
from tests.conformance.test_train import (  # noqa: F401
    base,
    finished,
    one_thread,
    test_a_candidate_lies_on_the_line_from_the_base_to_the_tuned_weights,
    test_a_finished_run_is_not_repeated,
    test_a_loss_that_is_no_number_ends_the_run,
    test_every_interpolation_becomes_a_complete_model_folder,
    test_no_pairs_are_an_error_that_says_so,
    test_progress_tells_the_learning_rate_of_each_step,
    test_the_lineage_names_base_pairs_and_recipe,
)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    with pytest.MonkeyPatch.context() as monkeypatch, clouds.running(tmp_path_factory.mktemp("cloud")) as cloud:
        clouds.keys(monkeypatch)
        yield train.connect(cloud.url())
