"""The moving average of weights."""

from __future__ import annotations

import torch
from torch import nn

from paraformer.training.average import average_of


def test_the_average_forgets_its_start_quickly_and_is_slow_later() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = average_of(model, 0.5)
    expected = 0.0
    for step in range(6):
        weight = float(step)
        nn.init.constant_(model.weight, weight)
        average.update_parameters(model)
        decay = 0.0 if step == 0 else min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
        torch.testing.assert_close(average.module.weight, torch.full((1, 1), expected))


def test_equal_weights_stay_as_they_are_to_the_bit() -> None:
    model = nn.Linear(5, 5)
    average = average_of(model, 0.99)
    for _ in range(5):
        average.update_parameters(model)
    assert torch.equal(average.module.weight, model.weight)
