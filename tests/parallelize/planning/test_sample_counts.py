"""How many samples a choice is made on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from parallelize.models.capture import capture
from parallelize.planning.sample_counts import fit_count, judged_count, sample_count
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import Residual, mlp


def _stack(*sizes: int) -> Any:
    """Stands for a stack whose state has these sizes after the batch."""
    return SimpleNamespace(entry=SimpleNamespace(meta={"val": torch.empty(1, *sizes, device="meta")}), terms=())


@pytest.mark.parametrize(
    ("sizes", "samples"),
    [
        ((768,), 256),  # one position
        ((197, 768), 64),  # fewer tokens than channels
        ((197, 64), 64),
        ((4096, 64), 16),
        ((20, 20, 16), 32),  # an image, its channels last
    ],
)
def test_samples_hold_about_as_many_positions_as_a_fit_needs(sizes: tuple[int, ...], samples: int) -> None:
    assert sample_count([_stack(*sizes)]) == samples
    assert sample_count([_stack(768), _stack(*sizes)]) == samples


def test_positions_of_an_image_that_is_convolved_are_its_height_times_its_width() -> None:
    network = Residual([nn.Conv2d(16, 16, 1) for _ in range(2)])
    program = capture(network.eval(), (torch.zeros(2, 16, 8, 50),))
    assert sample_count(find_stacks(program.module).stacks) == 32


def test_a_free_number_of_tokens_counts_as_in_the_example() -> None:
    network = Residual([mlp(4, 8) for _ in range(2)])
    program = capture(network.eval(), (torch.zeros(2, 400, 4),), dynamic=[{0: "batch", 1: "tokens"}])
    stacks = find_stacks(program.module).stacks
    assert not isinstance(stacks[0].entry.meta["val"].shape[1], int)
    assert sample_count(stacks) == 32


@pytest.mark.parametrize(
    ("sizes", "fit", "judged"),
    [
        ((768,), 256, 100),  # one position
        ((197, 768), 64, 32),
        ((50, 64), 41, 100),
        ((64, 384), 192, 100),
        ((4096, 64), 16, 16),
        ((4096, 4096), 16, 16),
        ((20, 20, 16), 16, 16),
    ],
)
def test_wide_states_need_more_samples_to_fit_on_and_long_ones_are_compared_on_fewer(
    sizes: tuple[int, ...], fit: int, judged: int
) -> None:
    assert (fit_count([_stack(*sizes)]), judged_count([_stack(*sizes)], 100)) == (fit, judged)
