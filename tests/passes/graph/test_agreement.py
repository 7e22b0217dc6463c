"""Which entries of two outputs count: numbers by their difference, patterns and codes by being the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from passes.graph.agreement import CODES_TOLERANCE, change, entries, largest_change, scale

INF, NAN = math.inf, math.nan
LEAST = torch.finfo(torch.float32).min
HALF = torch.finfo(torch.float16).min


def _change(before: list[float], after: list[float], dtype: torch.dtype = torch.float32) -> float:
    return largest_change([torch.tensor(before, dtype=dtype)], [torch.tensor(after, dtype=dtype)])


@pytest.mark.parametrize("fill", [-INF, INF, NAN, LEAST, -LEAST, -1e9, -1e10, 1e6, HALF])
def test_beside_an_entry_that_is_no_number_a_change_has_its_full_size(fill: float) -> None:
    assert _change([1, fill], [100, fill]) == pytest.approx(99)
    assert 0 < _change([1, fill], [1.0000001, fill]) < 2e-7


def test_a_fill_of_ten_thousand_is_told_by_being_there_more_than_once() -> None:
    assert _change([1, -12345.678, -12345.678], [2, -12345.678, -12345.678]) == 1
    assert _change([1, -12345.678, -23456.789], [2, -12345.678, -23456.789]) < 1e-3


@pytest.mark.parametrize(
    ("before", "after"), [(-INF, 1), (-INF, INF), (NAN, 1), (1, NAN), (1, INF), (LEAST, 1), (LEAST, -LEAST), (-1e9, 1)]
)
def test_another_pattern_is_an_infinite_change(before: float, after: float) -> None:
    assert _change([1, before], [1, after]) > 1e8


def test_what_half_precision_makes_of_a_fill_is_the_same_fill() -> None:
    assert _change([1, LEAST], [1, HALF]) == 0
    assert _change([1, -1e9], [1, HALF]) == 0
    assert _change([6e4, LEAST], [6e4, HALF]) == INF, "60,000 is a number here, so -65,504 may be one"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_point_type_has_its_own_least_number(dtype: torch.dtype) -> None:
    least = torch.finfo(dtype).min
    assert _change([1, least], [2, least], dtype) == 1


def test_large_numbers_of_a_network_stay_numbers() -> None:
    assert scale(torch.tensor([3.0, 812345.6, 1.0])).limit == 1e30
    assert scale(torch.tensor([3e5, 2e5, 1e5])).limit == 1e30
    assert _change([3.0, 812345.6], [3.0, 812345.6 / 2]) == pytest.approx(0.5)


def test_all_entries_filled_alike_are_no_change() -> None:
    assert _change([LEAST, LEAST], [LEAST, LEAST]) == 0
    assert _change([-INF, NAN], [-INF, NAN]) == 0


def test_class_numbers_and_masks_count_by_how_many_differ() -> None:
    classes = torch.tensor([2, 9, 4, 1])
    assert largest_change([classes], [torch.tensor([9, 9, 4, 1])]) == 0.25
    assert largest_change([classes > 3], [classes > 1]) == 0.25
    found = change([classes.double(), classes], [classes.double(), classes])
    assert found.within(0)


def test_a_few_ranks_may_differ_by_rounding_and_a_tenth_of_them_may_not() -> None:
    ranks = torch.arange(1000)
    swapped = ranks.clone()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert change([ranks], [swapped]).within(0)
    assert not change([ranks], [ranks.where(ranks % 10 > 0, 0)]).within(CODES_TOLERANCE)


def test_only_what_is_real_counts() -> None:
    before, after = torch.tensor([[1.0, 5.0], [2.0, NAN]]), torch.tensor([[1.5, 1.0], [2.0, 7.0]])
    real = torch.tensor([[True, False], [True, False]])
    assert largest_change([before], [after], [real]) == 0.25
    assert largest_change([before.long()], [after.long()], [real]) == 0
    assert largest_change([before], [after], [torch.tensor([[True], [False]])]) == pytest.approx(0.8)


def test_outputs_that_lie_in_pieces_have_one_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    values[:, 1] = -12345.678
    whole = scale(values)
    monkeypatch.setattr("passes.graph.agreement._PIECE", 4)
    assert scale(values) == whole
    assert whole.limit == pytest.approx(12345.678)
    assert scale(values, torch.ones(50, 1, dtype=torch.bool)) == whole


def test_an_entry_is_a_number_a_code_or_a_pattern() -> None:
    reference, other = torch.tensor([1.0, -INF, NAN, 2.0]), torch.tensor([1.0, -INF, 0.0, NAN])
    found = entries(reference, other)
    assert found.numbers.tolist() == [True, False, False, True]
    assert found.differ.tolist() == [False, False, True, False]
    assert not found.codes.any()


def _shapes() -> list[tuple[Tensor, Tensor]]:
    return [(torch.zeros(2), torch.zeros(3)), (torch.zeros(2), torch.zeros(2).double())]


@pytest.mark.parametrize("pair", _shapes())
def test_another_shape_or_dtype_is_an_infinite_change(pair: tuple[Tensor, Tensor]) -> None:
    assert largest_change([pair[0]], [pair[1]]) == INF


def test_outputs_with_gradients_are_compared_without_them() -> None:
    before, after = torch.tensor([2.0, -INF], requires_grad=True), torch.tensor([3.0, -INF], requires_grad=True)
    assert largest_change([before], [after]) == 0.5
    assert scale(before).largest == 2


def test_the_largest_change_is_relative_to_the_largest_value_of_each_output() -> None:
    before = [torch.tensor([1.0, -4.0]), torch.tensor([100.0])]
    after = [torch.tensor([2.0, -4.0]), torch.tensor([101.0])]
    assert largest_change(before, after) == pytest.approx(0.25)
    assert largest_change(before, before) == 0.0


def test_empty_outputs_do_not_change_and_zeros_may_not() -> None:
    assert largest_change([torch.zeros(0)], [torch.zeros(0)]) == 0.0
    assert largest_change([torch.zeros(2)], [torch.tensor([0.0, 1e-6])]) > 1.0
