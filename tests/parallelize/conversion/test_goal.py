"""Options name one goal, and what has no meaning is refused before anything takes time."""

from __future__ import annotations

import pytest

from parallelize.conversion.goal import DEFAULT_BUDGET, AtDepth, Faster, Goal, Replay, Within, asked_budget, goal_of
from parallelize.conversion.options import ConvertOptions
from parallelize.metrics import Budget, find_metric
from passes.errors import ParallelizeError
from passes.plan import Plan, serial

PLAN = Plan((serial(4),), seed=3)


@pytest.mark.parametrize(
    ("options", "goal"),
    [
        (ConvertOptions(plan=PLAN), Replay(PLAN)),
        (ConvertOptions(depth=2), AtDepth(2)),
        (ConvertOptions(max_error="1%"), Within(Budget(0.01, percent=True))),
        (ConvertOptions(min_speedup=2), Faster(speedup=2.0)),
        (ConvertOptions(min_speedup="1.5x"), Faster(speedup=1.5)),
        (ConvertOptions(max_latency="800us"), Faster(latency=0.8)),
        (ConvertOptions(min_speedup=2, target="h200"), Faster(speedup=2.0)),
        (
            ConvertOptions(max_error=0.1, min_speedup="2", max_latency=1.5),
            Faster(speedup=2.0, latency=1.5, budget=Budget(0.1)),
        ),
        (ConvertOptions(), Within(DEFAULT_BUDGET, is_default=True)),
    ],
)
def test_a_plan_is_replayed_a_depth_is_reached_and_an_error_and_a_latency_are_kept(
    options: ConvertOptions, goal: Goal
) -> None:
    assert goal_of(options) == goal


def test_only_an_error_that_was_asked_for_is_a_budget() -> None:
    budget = Budget(0.1)
    assert asked_budget(Within(budget)) == asked_budget(Faster(speedup=2.0, budget=budget)) == budget
    for goal in (Replay(PLAN), AtDepth(2), Within(is_default=True), Faster(speedup=2.0)):
        assert asked_budget(goal) is None


@pytest.mark.parametrize(
    "options",
    [
        ConvertOptions(plan=PLAN, depth=2),
        ConvertOptions(depth=2, max_error=0.1),
        ConvertOptions(PLAN, 2, 0.1),
        ConvertOptions(plan=PLAN, min_speedup=2),
        ConvertOptions(depth=2, max_latency="1ms"),
    ],
)
def test_several_goals_are_refused(options: ConvertOptions) -> None:
    with pytest.raises(ParallelizeError, match="Only one of a plan, a depth and a maximal error"):
        goal_of(options)


@pytest.mark.parametrize("value", [0, -2, "nan", "inf", "twice", "2 x 3", ""])
def test_a_speed_up_that_is_no_number_is_refused(value: float | str) -> None:
    with pytest.raises(ParallelizeError, match="is not a number above 1"):
        goal_of(ConvertOptions(min_speedup=value))


@pytest.mark.parametrize("value", [1, 0.5, "1.0x"])
def test_nothing_is_to_be_done_for_a_speed_up_that_every_network_has(value: float | str) -> None:
    with pytest.raises(ParallelizeError, match=r"^Nothing is to be done for a speed-up of"):
        goal_of(ConvertOptions(min_speedup=value))


def test_a_latency_that_is_no_time_is_refused() -> None:
    with pytest.raises(ParallelizeError, match=r"The latency '1\.5 parsecs' is not a time above zero"):
        goal_of(ConvertOptions(max_latency="1.5 parsecs"))


def test_a_percentage_of_a_metric_without_a_serial_value_is_refused() -> None:
    with pytest.raises(ParallelizeError, match="has no meaning for kl"):
        goal_of(ConvertOptions(max_error="1%", metric=find_metric("kl")))
    with pytest.raises(ParallelizeError, match="has no meaning for kl"):
        goal_of(ConvertOptions(max_error="1%", min_speedup=2, metric=find_metric("kl")))
