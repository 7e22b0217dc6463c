"""Budgets: absolute values and percentages, of what, and what is refused."""

from __future__ import annotations

import pytest

from parallelize.metrics import Budget, known_metrics
from parallelize.metrics.own import own_metric
from passes.errors import ParallelizeError


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        (0.02, Budget(0.02)),
        (0, Budget(0.0)),
        ("0.02", Budget(0.02)),
        ("2e-3", Budget(0.002)),
        ("1%", Budget(0.01, percent=True)),
        (" 0.5 % ", Budget(0.005, percent=True)),
        (Budget(3.0), Budget(3.0)),
    ],
)
def test_numbers_and_percentages_are_read(given: Budget | float | str, budget: Budget) -> None:
    assert Budget.parse(given) == budget


@pytest.mark.parametrize("given", ["", "%", "one", "-1", "-1%", "nan", "inf", "1%%", -0.1, float("nan")])
def test_what_is_no_share_is_refused(given: float | str) -> None:
    with pytest.raises(ParallelizeError, match="is not a number of zero or more") as caught:
        Budget.parse(given)
    assert "1%" in caught.value.hint


def test_a_percentage_is_one_of_the_serial_value_where_the_metric_has_one() -> None:
    percent = Budget.parse("1%")
    assert percent.limit(known_metrics()["top1-drop"], 0.9) == pytest.approx(0.009)
    own = own_metric("m:f", lambda outputs, teacher, batch: outputs[0])
    assert percent.limit(own, -40.0) == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["relative-l2", "cosine", "disagreement"])
def test_a_percentage_of_a_share_is_one_of_1(name: str) -> None:
    assert Budget.parse("1%").limit(known_metrics()[name], None) == pytest.approx(0.01)


def test_a_percentage_of_a_perplexity_is_relative_to_the_serial_one_as_its_error_is() -> None:
    assert Budget.parse("1%").limit(known_metrics()["perplexity"], 40.0) == pytest.approx(0.01)


@pytest.mark.parametrize("name", known_metrics())
def test_an_absolute_value_limits_the_error_itself(name: str) -> None:
    assert Budget.parse(0.02).limit(known_metrics()[name], 0.5) == 0.02


def test_a_percentage_of_nats_is_refused() -> None:
    with pytest.raises(ParallelizeError, match=r"^The maximal error 1% has no meaning for kl") as caught:
        Budget.parse("1%").check(known_metrics()["kl"])
    assert "absolute" in caught.value.hint


def test_a_budget_is_written_as_it_was_given() -> None:
    assert [str(Budget.parse(text)) for text in ("0.02", "1%", "12.5%", "0")] == ["0.02", "1%", "12.5%", "0"]
