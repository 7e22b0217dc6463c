"""What a healing can be asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest

from parallelize.healing.options import HealOptions
from passes.errors import ParallelizeError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1, "epochs": 1}, "Only one of steps and epochs"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"patience": -1}, "patience is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"time_limit": math.nan}, "time_limit is nan"),
        ({"hidden_weight": -1.0}, "hidden_weight is -1.0"),
        ({"train": "some"}, "cannot train 'some'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParallelizeError, match=message):
        HealOptions(**options)


def test_the_learning_rate_is_smaller_for_wider_states_unless_it_is_given() -> None:
    assert [HealOptions().rate(width) for width in (16, 64, 128)] == [1e-3, 1e-3, 5e-4]
    assert HealOptions(learning_rate=0.1).rate(128) == 0.1


def test_without_a_limit_it_is_a_thousand_steps_and_with_a_time_limit_any() -> None:
    assert HealOptions().total_steps(10) == 1000
    assert HealOptions(time_limit=1.0).total_steps(10) is None
    assert HealOptions(epochs=2, batch_size=3).total_steps(10) == 6
