"""The loss of a healing: the distances that it is made of, and that padding is in none of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.data.padding import Layout
from parallelize.healing.loss import Distance, kl, rows, squared_error
from parallelize.metrics import score

PLAIN = Distance(logits=False, outputs=1, layouts=(None,), mask=None)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_is_that_of_pytorch_with_the_teacher_first() -> None:
    student, teacher = _normal(5, 7), _normal(5, 7, seed=1)
    expected = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(kl(student, teacher).value, expected)
    assert float(kl(teacher, teacher).value) == 0


def test_the_error_over_batches_is_that_of_all_samples_together() -> None:
    student, teacher = _normal(9, 4), 3 * _normal(9, 4, seed=1)
    total = sum(
        (squared_error(a, b) for a, b in zip(student[4:].split(2), teacher[4:].split(2), strict=True)),
        squared_error(student[:4], teacher[:4]),
    )
    assert PLAIN.error(total) == pytest.approx(score([student], [teacher]).relative_l2)


def test_half_precision_is_summed_in_float32() -> None:
    value = torch.full((4, 4096), 200.0, dtype=torch.float16)
    assert float(squared_error(value, value / 2).value) == pytest.approx(1.0)


def test_the_loss_is_the_outputs_error_and_the_mean_of_the_states_errors() -> None:
    distance = Distance(logits=True, outputs=1, layouts=(None,) * 3, mask=None)
    student = [_normal(3, 5), _normal(3, 2, 4), _normal(3, 2, 4, seed=5)]
    teacher = [_normal(3, 5, seed=2), _normal(3, 2, 4, seed=3), 10 * _normal(3, 2, 4, seed=4)]
    first, second = (squared_error(a, b).value for a, b in zip(student[1:], teacher[1:], strict=True))
    expected = kl(student[0], teacher[0]).value + 0.5 * (first + second) / 2
    torch.testing.assert_close(distance.loss([], student, teacher, 0.5), expected)
    torch.testing.assert_close(distance.loss([], student, teacher, 0.0), kl(student[0], teacher[0]).value)


def test_integer_outputs_have_no_error() -> None:
    distance = Distance(logits=False, outputs=2, layouts=(None, None), mask=None)
    values = [_normal(3, 5), torch.arange(3)]
    others = [_normal(3, 5, seed=1), torch.arange(3) + 1]
    torch.testing.assert_close(distance.loss([], values, others, 1.0), squared_error(values[0], others[0]).value)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("logits", [False, True])
def test_padding_is_in_no_part_of_the_loss(*, logits: bool, transposed: bool) -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    at = (Layout(1, 0) if transposed else Layout(0, 1),) * 2
    distance = Distance(logits=logits, outputs=1, layouts=at, mask=1)
    teacher = [_normal(2, 3, 4, seed=1), _normal(2, 3, 4, seed=2)]
    student = [_normal(2, 3, 4, seed=3), _normal(2, 3, 4, seed=4)]
    garbage = [torch.where(mask[..., None].bool(), value, 1e3) for value in student]
    flip = [[v.transpose(0, 1) if transposed else v for v in values] for values in (teacher, student, garbage)]
    inputs = [torch.zeros(2, 3), mask]
    first, second = (distance.loss(inputs, values, flip[0], 1.0) for values in flip[1:])
    torch.testing.assert_close(first, second)
    assert float(distance.output_error(inputs, flip[1], flip[0]).denominator) > 0
    assert len(rows(flip[1][0], mask, at[0])) == 3


def test_a_batch_of_padding_alone_has_no_error() -> None:
    distance = Distance(logits=True, outputs=1, layouts=(Layout(0, 1),), mask=0)
    value = _normal(2, 3, 4)
    assert float(distance.loss([torch.zeros(2, 3)], [value], [value + 1], 1.0)) == 0


@pytest.mark.parametrize("fill", [-math.inf, torch.finfo(torch.float32).min])
def test_forbidden_logits_are_in_no_loss_and_send_no_gradient(fill: float) -> None:
    banned = torch.tensor([True, False, False, True, False])
    teacher, student = _normal(3, 5).masked_fill(banned, fill), _normal(3, 5, seed=1).requires_grad_()
    for measure in (kl, squared_error):
        masked = measure(student.masked_fill(banned, fill), teacher).value
        torch.testing.assert_close(masked, measure(student[:, ~banned], teacher[:, ~banned]).value)
        (gradient,) = torch.autograd.grad(masked, student)
        assert gradient.isfinite().all()
        assert not gradient[:, banned].any()


def test_a_row_in_which_everything_is_forbidden_is_in_no_loss() -> None:
    teacher, student = _normal(3, 5), _normal(3, 5, seed=1)
    teacher[1] = -math.inf
    torch.testing.assert_close(kl(student, teacher).value, kl(student[::2], teacher[::2]).value)
