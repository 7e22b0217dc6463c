"""The learning rate of a healing, and when its peak is cut."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest

from parallelize.healing.pace import LOWEST, WARM_UP, WINDOW, Pace, one_cycle


def _taken(pace: Pace, losses: list[float], share: float = 0.5) -> list[bool]:
    return [pace.is_too_fast(loss, share) for loss in losses]


def test_the_rate_is_its_share_of_the_peak() -> None:
    assert Pace(2.0).rate(WARM_UP) == pytest.approx(2.0)
    assert Pace(2.0).rate(0.0) == pytest.approx(2.0 * LOWEST)
    assert Pace(2.0).rate(1.0) == pytest.approx(2.0 * LOWEST)


def test_losses_that_fall_or_scatter_change_nothing() -> None:
    pace = Pace(1.0)
    assert not any(_taken(pace, [1.0, 1.5, 0.5] * 20))
    assert not any(_taken(pace, [1.0 / n for n in range(1, 20)]))
    assert pace.peak == 1.0


def test_losses_that_rise_halve_the_peak_and_are_then_forgotten() -> None:
    pace = Pace(1.0)
    assert not any(_taken(pace, [1.0] * WINDOW))
    assert _taken(pace, [2.2] * WINDOW) == [False] * (WINDOW - 1) + [True]
    assert pace.peak == 0.5
    assert not any(_taken(pace, [2.2] * (WINDOW - 1)))
    assert _taken(pace, [2.2]) == [True]
    assert pace.peak == 0.25


def test_one_loss_out_of_line_is_no_reason() -> None:
    pace = Pace(1.0)
    assert not any(_taken(pace, [*[1.0] * WINDOW, 5.0, *[1.0] * WINDOW]))


def test_a_held_out_error_far_above_the_best_one_halves_the_peak() -> None:
    pace = Pace(1.0)
    assert not pace.is_far_off(0.2, 0.1, 0.5)
    assert pace.is_far_off(0.21, 0.1, 0.5)
    assert pace.is_far_off(math.inf, 0.1, 0.5)
    assert pace.peak == 0.25


def test_while_the_rate_rises_the_new_peak_is_half_of_what_was_too_much() -> None:
    pace = Pace(1.0)
    _taken(pace, [1.0])
    _taken(pace, [9.0] * (WINDOW - 1), WARM_UP / 10)
    assert pace.peak == pytest.approx(one_cycle(WARM_UP / 10) / 2)


def test_a_pace_is_made_again_from_its_state() -> None:
    pace = Pace(1.0)
    _taken(pace, [1.0] * 3)
    again = Pace(**asdict(pace))
    assert again == pace
    assert _taken(again, [9.0] * WINDOW) == _taken(pace, [9.0] * WINDOW)
    assert again == pace


def test_the_cycle_rises_to_the_peak_and_falls_to_almost_nothing() -> None:
    rates = [one_cycle(share / 100) for share in range(101)]
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] == pytest.approx(1e-3)
    assert one_cycle(2.0) == rates[100] == pytest.approx(1e-3)
