"""Metrics: zero where two models agree, the textbook's number where they do not, a refusal where there is none."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from parallelize.metrics import known_metrics, score
from passes.errors import ParallelizeError

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
    there = [metric for metric in known_metrics() if scores.has(metric)]
    assert set(known_metrics()) - set(there) == {"perplexity", "differing"}
    assert {metric: scores.error(metric) for metric in there} == dict.fromkeys(there, 0.0)
    assert {scores.interval(metric) for metric in there} == {(0.0, 0.0)}
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
    with pytest.raises(ParallelizeError, match=r"^The metric top1-drop needs labels") as caught:
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
def test_outputs_that_are_no_logits_have_distances_and_no_other_metric(outputs: list[Tensor], metric: str) -> None:
    scores = score(outputs, outputs, LABELS)
    codes = [] if outputs[0].is_floating_point() else ["differing"]
    assert [name for name in known_metrics() if scores.has(name)] == ["relative-l2", "cosine", *codes]
    assert scores.error("relative-l2") == 0
    assert (scores.kl, scores.agreement, scores.top1, scores.top1_teacher) == (None, None, None, None)
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


def test_cosine_is_one_minus_the_mean_cosine_of_each_samples_outputs_together() -> None:
    teacher = [torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[[0.0]], [[0.0]]])]
    ours = [torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[[4.0]], [[0.0]]])]
    expected = 1 - (3 / 5 + math.sqrt(0.5)) / 2
    assert score(ours, teacher).error("cosine") == pytest.approx(expected)
    assert score([-teacher[0]], [teacher[0]]).error("cosine") == pytest.approx(2)


def test_samples_of_zeros_have_no_direction_and_count_only_where_the_other_model_has_one() -> None:
    zeros, ones = torch.zeros(2, 3), torch.ones(2, 3)
    assert score([zeros], [zeros]).error("cosine") == 0
    assert score([ones], [zeros]).error("cosine") == 1
    mixed = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert score([torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])], [mixed]).error("cosine") == 1


def test_a_value_belongs_to_one_network_and_an_error_to_two() -> None:
    teacher, ours = torch.eye(3)[[0, 1, 2, 0]], torch.eye(3)[[0, 0, 0, 0]]
    scores = score([ours], [teacher], LABELS)
    assert (scores.value("top1-drop"), scores.serial("top1-drop")) == (0.25, 0.75)
    assert scores.value("kl") is None
    assert scores.serial("kl") is None
    assert scores.value_interval("kl") is None


def test_intervals_hold_the_number_and_pairs_are_drawn_together() -> None:
    teacher = _logits(0, 200, 3)
    ours = teacher + 0.3 * _logits(1, 200, 3)
    labels = teacher.argmax(1).where(torch.arange(200) % 4 > 0, 0)
    scores = score([ours], [teacher], labels)
    for metric in ("kl", "relative-l2", "cosine", "disagreement", "top1-drop"):
        low, high = scores.interval(metric)
        assert low < scores.error(metric) < high
    value, drop = scores.value_interval("top1-drop"), scores.interval("top1-drop")
    assert value is not None
    assert value[0] < scores.value("top1-drop") < value[1]
    same = score([teacher], [teacher], labels)
    assert same.interval("top1-drop") == (0, 0)
    assert same.value_interval("top1-drop") != (0, 0)
    assert drop[1] - drop[0] < 2 * (value[1] - value[0])


def test_scores_are_equal_where_every_sample_has_the_same_numbers() -> None:
    teacher, ours = _logits(0), _logits(1)
    assert score([ours], [teacher]) == score([ours], [teacher])
    assert score([ours], [teacher]) != score([ours.roll(1, 0)], [teacher.roll(1, 0)])
    assert score([ours], [teacher]) != score([ours], [teacher], LABELS)
    assert score([ours], [teacher]) != 0


def test_plain_numbers_stand_under_their_names() -> None:
    scores = score([_logits(0)], [_logits(1)], LABELS)
    plain = scores.plain()
    assert plain.samples == 4
    assert plain.kl == scores.kl
    assert plain.top1_teacher == scores.serial("top1-drop")
    assert plain.perplexity is None


def test_an_unknown_metric_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(ParallelizeError, match="no metric 'bleu'") as caught:
        score([_logits(0)], [_logits(1)]).error("bleu")
    assert all(name in caught.value.hint for name in known_metrics())
