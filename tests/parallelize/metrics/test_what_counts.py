"""Forbidden logits, class numbers and NaN in metrics: errors are those of the numbers, and nothing hides one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from parallelize.metrics import Scores, known_metrics, score
from parallelize.metrics.columns import Reference

LEAST = torch.finfo(torch.float32).min
FILLS = [-math.inf, LEAST, -1e9, -1e4]
BANNED = torch.arange(6) < 2


def _logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _masked(fill: float, seed: int = 0, samples: int = 8) -> Tensor:
    return _logits(seed, samples, 6).masked_fill(BANNED, fill)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("metric", ["relative-l2", "cosine", "kl", "disagreement"])
def test_errors_beside_forbidden_logits_are_those_of_the_allowed_ones(fill: float, metric: str) -> None:
    teacher, ours = _masked(fill, 0), _masked(fill, 1)
    expected = score([ours[:, 2:]], [teacher[:, 2:]])
    found = score([ours], [teacher])
    assert found.error(metric) == pytest.approx(expected.error(metric), rel=1e-6)
    assert found.interval(metric) == pytest.approx(expected.interval(metric), rel=1e-2)
    assert score([teacher], [teacher]).error(metric) == 0


def test_an_output_that_is_filled_everywhere_counts_nothing_beside_others() -> None:
    nothing, teacher, ours = torch.full((8, 3), -math.inf), _logits(0, 8, 4), _logits(1, 8, 4)
    expected = score([ours], [teacher]).relative_l2
    assert score([nothing, ours], [nothing, teacher]).relative_l2 == pytest.approx(expected)
    assert score([nothing], [nothing]).relative_l2 == 0


@pytest.mark.parametrize("fill", [-math.inf, LEAST])
def test_rows_in_which_everything_is_forbidden_count_nowhere(fill: float) -> None:
    teacher, ours = _masked(fill, 0), _masked(fill, 1)
    teacher[3:5] = ours[3:5] = fill
    kept = torch.tensor([0, 1, 2, 5, 6, 7])
    found, expected = score([ours], [teacher]), score([ours[kept]], [teacher[kept]])
    for metric in ("kl", "disagreement", "relative-l2"):
        assert found.error(metric) == pytest.approx(expected.error(metric))
    assert found.columns["kl"].weight.tolist() == [1, 1, 1, 0, 0, 1, 1, 1]


def test_what_the_teacher_forbids_and_we_do_not_is_an_infinite_distance_and_a_finite_divergence() -> None:
    teacher = _masked(-math.inf)
    ours = teacher.clone()
    ours[2, 0] = 0.0
    found = score([ours], [teacher])
    assert (found.relative_l2, found.error("cosine")) == (math.inf, math.inf)
    assert found.interval("relative-l2") == (math.inf, math.inf)
    assert found.kl is not None
    assert 0 < found.kl < math.inf
    assert score([teacher], [ours]).kl == math.inf


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 3])
def test_a_rewrite_that_is_no_number_is_infinitely_wrong(wrong: float, place: int) -> None:
    teacher = _logits(0, 4, 5)
    teacher[:, place] = 10.0  # where the wrong number stands the teacher has its largest logit, too
    ours = teacher.clone()
    ours[1, place] = wrong
    labels = torch.full((4,), place)
    found = score([ours], [teacher], labels)
    for metric in ("kl", "relative-l2", "cosine"):
        assert found.error(metric) == math.inf
    assert found.error("disagreement") == 0.25
    if math.isnan(wrong):
        assert found.error("top1-drop") == 0.25
        assert score([teacher * wrong], [teacher], labels).error("top1-drop") == 1


def test_a_perplexity_of_nan_is_infinite() -> None:
    logits, tokens = _logits(0, 2, 4, 3), torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1]])
    ours = logits.clone()
    ours[0, 1, 0] = math.nan
    found = Scores(Reference([logits], [None], tokens=tokens).compare([ours]))
    assert found.error("perplexity") == math.inf


def test_class_numbers_beside_numbers_are_counted_apart() -> None:
    teacher, ours = _logits(0, 8, 6), _logits(1, 8, 6)
    pair = score([ours, ours.argmax(1)], [teacher, teacher.argmax(1)])
    assert pair.relative_l2 == pytest.approx(score([ours], [teacher]).relative_l2)
    assert pair.error("differing") == pytest.approx(float((ours.argmax(1) != teacher.argmax(1)).double().mean()))
    assert pair.error("differing") > 0


@pytest.mark.parametrize("code", ["argmax", "topk", "mask"])
def test_outputs_of_codes_alone_are_compared_by_how_many_differ(code: str) -> None:
    make = {"argmax": lambda x: x.argmax(-1), "topk": lambda x: x.topk(3).indices, "mask": lambda x: x > 0}[code]
    teacher, ours = make(_logits(0, 8, 6)), make(_logits(1, 8, 6))
    found = score([ours], [teacher])
    share = float((ours != teacher).double().mean())
    assert found.error("differing") == pytest.approx(share)
    assert found.relative_l2 == pytest.approx(math.sqrt(share))
    assert score([teacher], [teacher]).error("differing") == 0


def test_a_budget_in_percent_of_codes_is_a_share() -> None:
    assert known_metrics()["differing"].percent_of == "one"


def test_classes_over_tokens_leave_padding_out() -> None:
    real = torch.tensor([[True, True, False], [True, False, False]])
    teacher, ours = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 7, 9], [4, 9, 9]])
    added = Reference([teacher], [real]).compare([ours])["differing"]
    assert added.weight.tolist() == [2, 1]
    assert added.ours.tolist() == [1, 0]
