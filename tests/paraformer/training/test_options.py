"""Training options out of range are refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from paraformer.errors import TrainingError
from paraformer.training.options import TrainingOptions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"accumulate": -1}, "accumulate is -1; it must be at least 1"),
        ({"patience": 0}, "patience is 0; it must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, not above 0"),
        ({"temperature": 0.0}, "temperature is 0.0, not above 0"),
        ({"prefix_weight": 1.1}, "prefix_weight is 1.1, not from 0 to 1"),
        ({"teacher_weight": -0.1}, "teacher_weight is -0.1, not from 0 to 1"),
        ({"ema": 1.0}, "ema is 1.0, not from 0 to less than 1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0, not 0 or more"),
        ({"objective": "greedy"}, "objective is 'greedy', none of 'joint', 'progressive', 'progressive-steps'"),
        ({"precision": "int8"}, "precision is 'int8', none of 'fp32', 'bf16', 'fp16'"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        TrainingOptions(**given)
    assert str(caught.value) == f"The training option {message}."
    assert caught.value.hint == "See `parallelize train --help`."


def test_the_defaults_and_the_borders_are_taken() -> None:
    TrainingOptions()
    TrainingOptions(prefix_weight=0.0, teacher_weight=1.0, ema=0.0, weight_decay=0.0, patience=1)
