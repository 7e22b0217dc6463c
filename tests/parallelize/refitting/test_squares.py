"""Sums of squares are right to the precision of their numbers, however many there are."""

from __future__ import annotations

import pytest
import torch

from parallelize.refitting.squares import sum_of_squares


@pytest.mark.parametrize("shape", [(3,), (1, 1), (2000, 1), (300, 700), (4, 50, 60), (0, 7)])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)])
def test_a_sum_of_squares_is_that_of_the_numbers_in_float64(
    shape: tuple[int, ...], dtype: torch.dtype, off: float
) -> None:
    value = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3).to(dtype)
    assert sum_of_squares(value) == pytest.approx(float(value.double().square().sum()), rel=off)


def test_small_rows_are_not_lost_behind_large_ones() -> None:
    """In float32 alone, 2^24 and one more are 2^24."""
    value = torch.ones(1001, 1)
    value[0] = 2.0**12
    assert sum_of_squares(value) == 2.0**24 + 1000


def test_what_is_not_finite_stays_so() -> None:
    assert not sum_of_squares(torch.tensor([1.0, float("nan")])) >= 0
    assert sum_of_squares(torch.tensor([1.0, float("-inf")])) == float("inf")
