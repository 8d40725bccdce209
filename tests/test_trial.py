"""What a trial tells of its run."""

from ragstone import trial
from ragstone.train import Progress


def test_a_long_training_curve_is_thinned_and_keeps_its_end() -> None:
    steps = [Progress(step, 1000, 1 / step, 0.0) for step in range(1, 1001)]
    curve = trial.curve(steps, 200)
    assert [point["step"] for point in curve] == list(range(5, 1001, 5))
    assert curve[-1] == {"step": 1000, "loss": 0.001}
    assert trial.curve([Progress(1, 2, 0.5, 1.0, held_out=0.7)]) == [{"step": 1, "loss": 0.5, "held_out": 0.7}]
    assert trial.curve([]) == []
