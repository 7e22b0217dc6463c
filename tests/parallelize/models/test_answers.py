"""What a network answers is collected where its outputs have an axis of samples and are small."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import fx

from parallelize.data import Samples
from parallelize.data.buffer import Buffer
from parallelize.models.answers import Answering
from tests.parallelize.small_models import vision

SAMPLES = Samples({"x": torch.arange(12.0).reshape(6, 2)})


def _collected(network: fx.GraphModule, samples: Samples, *outputs: tuple[torch.Tensor, int, int]) -> Samples:
    answering = Answering(network, samples)
    for value, size, count in outputs:
        answering.take([value], size, count)
    return answering.answered()


def test_rows_of_a_sample_stay_together_and_what_fills_a_batch_up_is_left_out() -> None:
    network, rows = vision().module, torch.arange(16.0).reshape(8, 2)
    found = _collected(network, SAMPLES, (rows, 4, 4), (rows, 4, 2)).answered(network)
    assert found is not None
    assert found[0].shape == (6, 2, 2)
    assert found[0][4:].equal(rows[:4].reshape(2, 2, 2))


@pytest.mark.parametrize(
    ("samples", "outputs"),
    [
        (SAMPLES, [(torch.ones(5, 2), 4, 4)]),
        (SAMPLES, [(torch.ones(3, 2), 3, 3), (torch.ones(3, 4), 3, 3)]),
        (replace(SAMPLES, buffer=Buffer(100)), [(torch.ones(6, 3), 6, 6)]),
        (SAMPLES.head(6), [(torch.ones(6, 3), 6, 6)]),
    ],
    ids=["no axis of samples", "other shapes", "large", "a part of the data"],
)
def test_else_nothing_is_known(samples: Samples, outputs: list[tuple[torch.Tensor, int, int]]) -> None:
    network = vision().module
    found = _collected(network, samples, *outputs)
    assert found is samples
    assert found.answered(network) is None
