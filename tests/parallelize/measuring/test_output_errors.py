"""Statistics of errors: what NumPy says over all elements, whatever the batches, and tolerances that just pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from parallelize.measuring.output_errors import OutputComparison, OutputErrors, Tolerance, rounded_up

GENERATOR = torch.Generator().manual_seed(0)
REFERENCE = torch.randn(1000, 7, generator=GENERATOR) * 3
OURS = REFERENCE + torch.randn(1000, 7, generator=GENERATOR) * 10 ** torch.randn(1000, 7, generator=GENERATOR)


NOTHING = Tolerance()


def compared(reference: Tensor, ours: Tensor, tolerance: Tolerance = NOTHING, batch: int = 64) -> OutputErrors:
    comparison = OutputComparison("y", tolerance, 0.99)
    for r, y in zip(reference.split(batch), ours.split(batch), strict=True):
        comparison.add(r, y)
    return comparison.result()


def test_statistics_are_those_of_numpy_over_all_elements() -> None:
    r, y = REFERENCE.double().numpy().ravel(), OURS.double().numpy().ravel()
    d, found = np.abs(y - r), compared(REFERENCE, OURS)
    for errors, spread in ((d, found.absolute), (d / np.abs(r), found.relative)):
        assert spread is not None
        assert (spread.max, spread.mean) == pytest.approx((errors.max(), errors.mean()), rel=1e-12)
        expected = np.quantile(errors, (0.5, 0.99), method="inverted_cdf")
        assert (spread.median, spread.quantile) == pytest.approx(expected, rel=1 / 4096)
    assert found.cosine == pytest.approx(r @ y / np.linalg.norm(r) / np.linalg.norm(y), rel=1e-12)
    assert found.snr == pytest.approx(10 * np.log10((r @ r) / (d @ d)), rel=1e-12)
    assert (found.elements, found.non_finite) == (7000, 0)


def test_batches_change_nothing() -> None:
    whole, parts = compared(REFERENCE, OURS, batch=1000), compared(REFERENCE, OURS, batch=7)
    assert whole.absolute is not None
    assert parts.absolute is not None
    assert (whole.absolute.max, whole.absolute.median) == (parts.absolute.max, parts.absolute.median)
    assert whole.needed_rtol == parts.needed_rtol
    assert whole.cosine == pytest.approx(parts.cosine, rel=1e-12)


@pytest.mark.parametrize("given", [0.0, 1e-3, 0.3])
def test_the_needed_atol_passes_and_slightly_less_fails(given: float) -> None:
    needed = compared(REFERENCE, OURS, Tolerance(rtol=given)).needed_atol
    assert needed is not None
    assert compared(REFERENCE, OURS, Tolerance(needed, given)).failing == 0
    assert compared(REFERENCE, OURS, Tolerance(needed * 0.998, given)).failing > 0


@pytest.mark.parametrize("given", [0.0, 1e-3, 0.3])
def test_the_needed_rtol_passes_and_slightly_less_fails(given: float) -> None:
    needed = compared(REFERENCE, OURS, Tolerance(atol=given)).needed_rtol
    assert needed is not None
    assert compared(REFERENCE, OURS, Tolerance(given, needed)).failing == 0
    assert compared(REFERENCE, OURS, Tolerance(given, needed * 0.998)).failing > 0


def test_what_passes_is_what_numpy_calls_close() -> None:
    tolerance = Tolerance(0.5, 0.1)
    close = np.isclose(OURS.double().numpy(), REFERENCE.double().numpy(), rtol=0.1, atol=0.5)
    assert compared(REFERENCE, OURS, tolerance).failing == int((~close).sum())


def test_a_zero_of_the_reference_has_no_relative_error_and_no_rtol() -> None:
    found = compared(torch.tensor([0.0, 2.0]), torch.tensor([1e-3, 2.0]))
    assert found.relative is not None
    assert found.relative.max == 0
    assert found.needed_rtol == math.inf
    assert compared(torch.tensor([0.0]), torch.tensor([1e-3]), Tolerance(atol=2e-3)).needed_rtol == 0


def test_equal_outputs_have_no_error_and_an_infinite_snr() -> None:
    found = compared(REFERENCE, REFERENCE.clone())
    assert found.absolute is not None
    assert (found.absolute.max, found.absolute.median, found.needed_atol, found.needed_rtol) == (0, 0, 0, 0)
    assert (found.snr, found.cosine, found.failing) == (math.inf, pytest.approx(1), 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_and_infinity_are_counted_and_fail_and_enter_no_statistic(value: float, side: int) -> None:
    pair = [REFERENCE.clone(), REFERENCE.clone()]
    pair[side][3, 4] = value
    found = compared(*pair, Tolerance(1e9, 1e9))
    assert (found.non_finite, found.failing, found.needed_atol) == (1, 1, math.inf)
    assert found.absolute is not None
    assert found.absolute.max == 0


def test_outputs_that_are_nan_everywhere_have_no_statistics() -> None:
    found = compared(torch.full((3,), math.nan), torch.zeros(3))
    assert (found.absolute, found.relative, found.non_finite) == (None, None, 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integers_and_bools_are_compared_by_the_share_that_differs(dtype: torch.dtype) -> None:
    found = compared(torch.tensor([0, 1, 1, 0]).to(dtype), torch.tensor([0, 1, 0, 0]).to(dtype), Tolerance(9.0))
    assert (found.differing, found.failing, found.absolute, found.cosine) == (0.25, 1, None, None)


def test_half_precision_is_compared_in_double() -> None:
    found = compared(torch.tensor([1.0, 60000.0]), torch.tensor([1.0, 60000.0]).half())
    assert found.absolute is not None
    assert found.absolute.max == 0


def test_a_proposed_tolerance_has_four_digits_and_is_not_below() -> None:
    assert rounded_up(0.00123401) == 0.001235
    assert rounded_up(math.inf) == math.inf
    assert all(rounded_up(value) >= value for value in np.random.default_rng(0).random(1000))
