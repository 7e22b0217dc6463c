"""What metrics read of a batch: numbers, patterns, codes and logits, wherever they count."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from parallelize.metrics.batch import Batch, Pair, logit_axes
from passes.graph.agreement import scale

INF, NAN = math.inf, math.nan


def pair(ours: object, teacher: object, real: object = None) -> Pair:
    y, t = torch.as_tensor(ours), torch.as_tensor(teacher)
    mask = None if real is None else torch.as_tensor(real)
    return Pair(y, t, mask, scale(t, mask))


def lists(values: tuple[Tensor, ...]) -> list[object]:
    return [value.tolist() for value in values]


def test_numbers_are_those_of_the_teacher_and_zero_elsewhere() -> None:
    found = pair([[1.0, 2.0, 3.0]], [[4.0, INF, 6.0]], [[True, True, False]])
    assert lists(found.numbers) == [[[1.0, 0.0, 0.0]], [[4.0, 0.0, 0.0]]]
    assert found.numbers[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("ours", "teacher", "broken"),
    [
        ([[1.0, -INF]], [[1.0, -INF]], False),
        ([[1.0, 5.0]], [[1.0, -INF]], True),
        ([[1.0, INF]], [[1.0, -INF]], True),
        ([[NAN, 1.0]], [[NAN, 1.0]], False),
        ([[NAN, 1.0]], [[2.0, 1.0]], True),
        ([[9.0, 1.0]], [[2.0, 1.0]], False),
        ([[1e9, 1.0]], [[2.0, 1.0]], False),
    ],
)
def test_another_pattern_or_a_lost_number_is_broken_and_any_number_is_not(
    ours: object, teacher: object, broken: bool
) -> None:
    assert pair(ours, teacher).is_broken.tolist() == [broken]


def test_padding_is_in_no_logits_and_positions_without_a_number_do_not_count() -> None:
    teacher = [[[1.0, 2.0], [-INF, -INF], [3.0, 4.0]]]
    found = pair([[[5.0, 6.0], [7.0, 8.0], [NAN, NAN]]], teacher, [[[True], [True], [False]]])
    assert found.positions.tolist() == [[1.0, 0.0, 0.0]]
    assert found.logits[0][0, 2].tolist() == [-INF, -INF]
    assert found.lost.tolist() == [[False, False, False]]
    assert found.over_positions(torch.tensor([[2.0, NAN, NAN]])).tolist() == [2.0]


def test_logits_are_lost_where_they_are_no_numbers_and_the_teachers_are() -> None:
    found = pair([[NAN, 1.0], [INF, 1.0], [-INF, 1.0], [INF, 1.0]], [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [INF, 1.0]])
    assert found.lost.tolist() == [True, True, False, False]


def test_codes_are_counted_and_are_no_numbers() -> None:
    batch = Batch([pair([[1, 2], [3, 4]], [[1, 9], [3, 4]]), pair([True, False], [True, True])])
    assert batch.codes is not None
    assert lists(batch.codes) == [[1.0, 1.0], [3.0, 3.0]]
    assert (batch.numeric, batch.numbers) == ([], [])
    assert Batch([pair([[1.0]], [[1.0]])]).codes is None


def test_sizes_and_totals_are_over_all_outputs_of_numbers() -> None:
    batch = Batch([pair([[3.0], [1.0]], [[1.0], [1.0]]), pair([[4.0], [INF]], [[2.0], [2.0]]), pair([1, 2], [1, 3])])
    ours, teacher = batch.sizes
    assert (ours.tolist(), teacher.tolist()) == ([25.0, INF], [5.0, 5.0])
    assert batch.broken.tolist() == [False, True]
    assert batch.total([]).tolist() == [0.0, 0.0]


def test_what_can_be_logits_is_told_by_shape_and_by_what_was_asked_for() -> None:
    classes, tokens = pair(torch.zeros(2, 3), torch.zeros(2, 3)), pair(torch.zeros(2, 4, 3), torch.zeros(2, 4, 3))
    assert (Batch([classes]).logits, Batch([classes]).classes) == (classes, classes)
    assert (Batch([tokens]).logits, Batch([tokens]).classes) == (None, None)
    assert Batch([tokens], by_token=True).logits is tokens
    ids = torch.zeros(2, 4, dtype=torch.int64)
    assert Batch([tokens], tokens=ids).predictions is tokens
    for other in (None, ids[:, :3], ids[:, :1]):
        assert Batch([tokens], tokens=other).predictions is None
    assert Batch([classes], tokens=ids).predictions is None


@pytest.mark.parametrize(
    ("outputs", "axes"),
    [
        ([torch.zeros(2, 3)], 2),
        ([torch.zeros(2, 4, 3)], 3),
        ([torch.zeros(2, 1)], None),
        ([torch.zeros(2)], None),
        ([torch.zeros(2, 3, dtype=torch.int64)], None),
        ([torch.zeros(2, 3), torch.zeros(2, 3)], None),
        ([], None),
    ],
)
def test_one_output_of_numbers_for_several_classes_can_be_logits(outputs: list[Tensor], axes: int | None) -> None:
    assert logit_axes(outputs) == axes
