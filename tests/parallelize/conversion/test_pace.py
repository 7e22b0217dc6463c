"""A goal of latency is reached by medians of one run, and what was taken is the last that was searched."""

from __future__ import annotations

import pytest

from parallelize.conversion.pace import Pace, Timed


def timed(depth: int, ms: float) -> Timed:
    return Timed(depth, 4.0, ms)


def test_a_network_is_told_with_its_depth_its_times_and_its_speed_up() -> None:
    assert str(timed(3, 1.6)) == "3 blocks deep, 1.6 ms, serial 4 ms (2.50x)"


@pytest.mark.parametrize(
    ("speedup", "latency", "reached"),
    [(2.0, None, [1.0, 1.5, 2.0]), (None, 1.5, [1.0, 1.5]), (2.0, 1.5, [1.0, 1.5]), (4.0, 3.0, [1.0])],
)
def test_both_goals_must_be_reached_and_the_limit_itself_reaches(
    speedup: float | None, latency: float | None, reached: list[float]
) -> None:
    pace = Pace("onnxruntime", False, speedup, latency)
    assert [ms for ms in (1.0, 1.5, 2.0, 3.0) if pace.is_reached(timed(1, ms))] == reached


def test_what_was_asked_for_is_told_with_where() -> None:
    assert Pace("onnxruntime", False, 2.0, None).asked == "a speed-up of 2 on onnxruntime"
    assert Pace("NVIDIA H200", True, 2.0, 1.5).asked == "a speed-up of 2 and 1.5 ms on NVIDIA H200 (predicted)"


def test_what_was_taken_is_the_last_that_was_searched_or_the_deepest_draft_that_reaches() -> None:
    drafts = (timed(4, 3.0), timed(1, 1.0), timed(2, 1.5))
    assert Pace("onnxruntime", False, 2.0, None, drafts).chosen == drafts[2]
    assert Pace("onnxruntime", False, 2.0, None, drafts, (timed(2, 2.5), timed(1, 1.1))).chosen == timed(1, 1.1)
    assert Pace("onnxruntime", False, 9.0, None, drafts).chosen is None
