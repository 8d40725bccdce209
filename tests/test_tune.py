"""What a batch is to learn: one right passage, or the shares that a teacher gives."""

from __future__ import annotations

import pytest
import torch

from ragstone.corpus.pairs import Pair
from ragstone.tune import AT_RANDOM, targets

LABELLED = Pair("a?", "a", "a", "A", ("A wrong",))
TAUGHT = Pair("b?", "b", "b", "B", ("B near", "B far"), scores=(0.8, 0.6, 0.1))


def test_a_labelled_pair_has_all_on_its_passage() -> None:
    assert targets([LABELLED, TAUGHT], 0.1)[0].tolist() == [1, 0, 0, 0, 0]


def test_a_taught_pair_has_the_softmax_of_its_scores_and_others_count_as_found_at_random() -> None:
    wanted = torch.softmax(torch.tensor([AT_RANDOM, 0.8, AT_RANDOM, 0.6, 0.1]) / 0.1, 0)
    torch.testing.assert_close(targets([LABELLED, TAUGHT], 0.1)[1], wanted)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_every_question_shares_out_the_whole(temperature: float) -> None:
    torch.testing.assert_close(targets([TAUGHT, LABELLED, TAUGHT], temperature).sum(1), torch.ones(3))


def test_a_lower_temperature_trusts_the_first_more() -> None:
    cold, warm = (targets([TAUGHT], temperature)[0] for temperature in (0.05, 0.5))
    assert cold[0] > warm[0]
    assert cold[2] < warm[2]
