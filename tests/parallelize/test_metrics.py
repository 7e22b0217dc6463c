"""Metrics: zero where two models agree, the textbook's number where they do not, a refusal where there is none."""

from __future__ import annotations

import math
import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from parallelize.inputs import Samples
from parallelize.metrics import METRICS, Metric, Scores, predict, score
from passes.errors import ParallelizeError
from tests.parallelize.small_models import images, vision

LABELS = torch.tensor([0, 1, 2, 2])


def _logits(seed: int, samples: int = 4, classes: int = 3) -> Tensor:
    return torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed))


def _softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.integers(1, 6), classes=st.integers(2, 5))
def test_every_metric_is_zero_for_equal_outputs(seed: int, samples: int, classes: int) -> None:
    logits = _logits(seed, samples, classes)
    scores = score([logits], [logits.clone()], torch.zeros(samples, dtype=torch.int64))
    assert {metric: scores.error(metric) for metric in METRICS} == dict.fromkeys(METRICS, 0.0)
    assert scores.samples == samples


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.integers(1, 6), classes=st.integers(2, 5))
def test_kl_is_the_divergence_of_the_teachers_distribution_from_ours_in_nats(
    seed: int, samples: int, classes: int
) -> None:
    ours, teacher = _logits(seed, samples, classes).double(), _logits(seed + 1, samples, classes).double()
    total = 0.0
    for row, row_teacher in zip(ours.tolist(), teacher.tolist(), strict=True):
        q, p = _softmax(row), _softmax(row_teacher)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert score([ours], [teacher]).error("kl") == pytest.approx(total / samples, rel=1e-9, abs=1e-12)


def test_kl_does_not_see_a_shift_of_all_logits_and_relative_l2_does() -> None:
    logits = _logits(0).double()
    scores = score([logits + 100], [logits])
    assert scores.error("kl") == pytest.approx(0, abs=1e-12)
    assert scores.error("relative-l2") > 1


def test_kl_of_certain_and_opposite_answers_is_finite() -> None:
    teacher = torch.tensor([[1000.0, 0.0]])
    assert score([teacher.flip(1)], [teacher]).error("kl") == pytest.approx(1000)


def test_relative_l2_is_taken_over_all_outputs_together() -> None:
    teacher = [torch.full((2, 3), 2.0), torch.full((2, 1, 2), 1.0)]
    outputs = [teacher[0] + 1, teacher[1] - 2]
    assert score(outputs, teacher).error("relative-l2") == pytest.approx(math.sqrt((6 + 16) / (24 + 4)))


def test_disagreement_is_the_share_of_samples_whose_largest_logit_moved() -> None:
    teacher = torch.eye(4)
    ours = teacher.clone()
    ours[1] = torch.tensor([0.0, 0.0, 0.0, 5.0])
    assert score([ours], [teacher]).error("disagreement") == pytest.approx(0.25)
    assert score([3 * teacher], [teacher]).error("disagreement") == 0


def test_top1_drop_is_the_teachers_accuracy_minus_ours() -> None:
    teacher = torch.eye(3)[[0, 1, 2, 0]]
    ours = torch.eye(3)[[0, 0, 0, 0]]
    scores = score([ours], [teacher], LABELS)
    assert (scores.top1, scores.top1_teacher) == (0.25, 0.75)
    assert scores.error("top1-drop") == 0.5
    assert score([teacher], [ours], LABELS).error("top1-drop") == -0.5


def test_top1_drop_without_labels_is_refused() -> None:
    scores = score([_logits(0)], [_logits(1)])
    assert scores.top1 is None
    with pytest.raises(ParallelizeError, match=r"^The metric top1-drop needs labels\.$") as caught:
        scores.error("top1-drop")
    assert "--labels" in caught.value.hint


@pytest.mark.parametrize("metric", ["kl", "disagreement"])
@pytest.mark.parametrize(
    "outputs",
    [
        [_logits(0), _logits(1)],
        [torch.zeros(4, 5, 3)],
        [torch.zeros(4, 1)],
        [torch.zeros(4)],
        [torch.zeros(4, 3, dtype=torch.int64)],
    ],
    ids=["two outputs", "three axes", "one class", "one axis", "integers"],
)
def test_outputs_that_are_no_logits_have_a_relative_l2_and_no_other_metric(
    outputs: list[Tensor], metric: Metric
) -> None:
    scores = score(outputs, outputs, LABELS)
    assert scores == Scores(4, 0.0)
    assert scores.error("relative-l2") == 0
    with pytest.raises(ParallelizeError, match=f"^The metric {metric} needs one output of logits") as caught:
        scores.error(metric)
    assert "relative-l2" in caught.value.hint


def test_half_precision_outputs_are_compared_in_double_precision() -> None:
    teacher = torch.full((2, 3), 300.0, dtype=torch.float16)
    assert score([teacher + 30], [teacher]).error("relative-l2") == pytest.approx(0.1)


def test_a_teacher_of_zeros_is_compared_without_a_division_by_zero() -> None:
    zeros = torch.zeros(4, 2)
    assert score([zeros], [zeros]).relative_l2 == 0
    assert score([zeros + 1], [zeros]).relative_l2 > 1e100


def test_outputs_that_are_not_a_number_are_within_no_budget() -> None:
    teacher = _logits(0)
    scores = score([teacher * torch.nan], [teacher])
    assert not scores.error("kl") <= 1e9
    assert not scores.error("relative-l2") <= 1e9


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_predictions_do_not_depend_on_the_batches(batch_size: int) -> None:
    samples = images(7, seed=0)
    (outputs,) = predict(vision().module, samples, batch_size)
    assert outputs.shape == (7, 10)
    assert not outputs.requires_grad
    torch.testing.assert_close(outputs, vision().module(samples.arrays["images"]))


def test_predictions_of_a_model_with_several_outputs_stay_apart() -> None:

    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((x, graph.call_function(operator.neg, (x,))))
    samples = Samples({"x": torch.arange(5.0)[:, None]})
    first, second = predict(fx.GraphModule({}, graph), samples, 2)
    assert torch.equal(first, samples.arrays["x"])
    assert torch.equal(second, -samples.arrays["x"])
