"""Options name one goal, and what has no meaning is refused before anything takes time."""

from __future__ import annotations

import pytest

from parallelize.conversion.goal import DEFAULT_BUDGET, AtDepth, Goal, Replay, Within, goal_of
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
