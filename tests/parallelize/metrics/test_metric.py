"""A metric turns sums over samples into a value and an error, whichever way round is better."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from parallelize.metrics.metric import Added, Column, Metric


def metric(**changes: object) -> Metric:
    plain = Metric("m", "meaning", lambda batch: None, Column("m"), place=1)
    return replace(plain, **changes)  # type: ignore[arg-type]


def sums(ours: float, weight: float, serial: float | None = None) -> Added:
    values = [torch.tensor(value, dtype=torch.float64) for value in (ours, weight)]
    return Added(*values, None if serial is None else torch.tensor(serial, dtype=torch.float64))


def test_a_value_that_compares_two_networks_is_the_error_itself() -> None:
    rooted = metric(g=torch.sqrt)
    assert rooted.value(sums(8, 2)) == rooted.error(sums(8, 2)) == 2
    assert rooted.serial(sums(8, 2)) is None


@pytest.mark.parametrize(("better", "error"), [("higher", 0.25), ("lower", -1 / 3)])
def test_a_value_of_each_network_becomes_an_error_against_the_serial_one(better: str, error: float) -> None:
    own = metric(better=better)
    found = sums(2, 4, serial=3)
    assert (own.value(found), own.serial(found)) == (0.5, 0.75)
    assert float(own.error(found)) == pytest.approx(error)
    assert float(own.error(sums(3, 4, serial=3))) == 0


def test_without_a_weight_nothing_is_divided_by_zero_and_no_number_is_infinitely_bad() -> None:
    assert metric().error(sums(0, 0)) == 0
    assert metric().error(sums(math.nan, 1)) == math.inf
    assert metric(better="lower").error(sums(1, 1, serial=math.nan)) == math.inf
    assert metric(better="higher").error(sums(math.nan, 1, serial=1)) == math.inf


def test_several_sums_have_an_error_each() -> None:
    many = Added(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
    assert metric().error(many).tolist() == [0.5, 2.0]
    assert metric().error(many.each(lambda part: part[1])).tolist() == 2.0


def test_sums_are_equal_by_their_numbers() -> None:
    first = sums(1, 2, 3)
    assert first.equals(sums(1, 2, 3))
    assert not any(first.equals(other) for other in (sums(0, 2, 3), sums(1, 0, 3), sums(1, 2, 0), sums(1, 2)))
    assert sums(1, 2).equals(sums(1, 2))


def test_only_some_metrics_have_a_meaning_for_logits_alone() -> None:
    reads = ("numbers", "codes", "logits", "classes", "next tokens")
    assert [metric(reads=what).reads_logits for what in reads] == [False, False, True, True, True]
    assert str(metric()) == "m"
