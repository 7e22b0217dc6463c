"""Options name one goal, and what has no meaning is refused before anything takes time."""

from __future__ import annotations

import pytest

from parallelize.conversion.goal import DEFAULT_BUDGET, AtDepth, Faster, Goal, Replay, Within, goal_of
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
        (ConvertOptions(), Within(DEFAULT_BUDGET, is_default=True)),
        (ConvertOptions(min_speedup=2, target="h200"), Faster(2)),
        (ConvertOptions(min_speedup=2, target="h200", max_error=0.1), Faster(2, Budget(0.1))),
    ],
)
def test_a_plan_is_replayed_a_depth_is_reached_and_an_error_is_kept(options: ConvertOptions, goal: Goal) -> None:
    assert goal_of(options) == goal


@pytest.mark.parametrize(
    "options",
    [ConvertOptions(plan=PLAN, depth=2), ConvertOptions(depth=2, max_error=0.1), ConvertOptions(PLAN, 2, 0.1)],
)
def test_several_goals_are_refused(options: ConvertOptions) -> None:
    with pytest.raises(ParallelizeError, match="Only one of a plan, a depth and a maximal error"):
        goal_of(options)


def test_a_percentage_of_a_metric_without_a_serial_value_is_refused() -> None:
    with pytest.raises(ParallelizeError, match="has no meaning for kl"):
        goal_of(ConvertOptions(max_error="1%", metric=find_metric("kl")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ConvertOptions(min_speedup=2), "A speed-up of 2 is asked of a target, and none is named"),
        (ConvertOptions(min_speedup=2, target="h200", depth=2), "leaves nothing to choose by a speed-up"),
        (ConvertOptions(min_speedup=2, target="h200", plan=PLAN), "leaves nothing to choose by a speed-up"),
        (ConvertOptions(min_speedup=0.5, target="h200"), "The speed-up 0.5 is not a number of one or more"),
        (ConvertOptions(min_speedup=float("nan"), target="h200"), "The speed-up nan is not a number"),
        (ConvertOptions(min_speedup=2, target="h200", max_error="much"), "'much' is not a number"),
    ],
)
def test_a_speed_up_that_cannot_be_asked_for_is_refused(options: ConvertOptions, message: str) -> None:
    with pytest.raises(ParallelizeError, match=message):
        goal_of(options)
