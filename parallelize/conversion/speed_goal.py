"""The schedule that is as fast as was asked for on a target, by predictions.

    1. without a budget: the deepest schedule that is predicted to be fast enough, because deeper ones lose less. The
       depth is found by bisection over schedules as the search proposes them; then whole networks are measured from
       that depth on, until one with its refit is fast enough too.
    2. with a budget: the shallowest schedule within it, where that is fast enough.

Where there is none, the error says how fast the nearest one is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import fx

from parallelize.conversion.goal import Faster
from parallelize.planning.planner import Planner
from parallelize.planning.search import Search
from parallelize.predicting.asked_for import AskedFor
from parallelize.terminal.words import counted
from passes.errors import CheckError
from passes.plan import Plan
from passes.registry import FUSION
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan

SpeedUp = Callable[[fx.GraphModule], float]  # how many times as fast as the serial network


def fast_enough(planner: Planner, goal: Faster, asked_for: AskedFor) -> Search:
    """The schedule that reaches the goal.

    Args:
        planner: of the model.
        goal: the speed-up, and a budget where there is one.
        asked_for: the target.

    Raises:
        CheckError: no schedule does, or none that is within the budget.
    """
    serial = asked_for.milliseconds(planner.program, planner.held_out)

    def speed_up(module: fx.GraphModule) -> float:
        fused, _ = run_passes(module, FUSION)
        return serial / asked_for.milliseconds(replace(planner.program, module=fused), planner.held_out)

    where = f"predicted to be {goal.min_speedup:g} times as fast on {asked_for.target.gpu}"
    if goal.budget is None:
        return _deepest(planner, goal.min_speedup, speed_up, where)
    search = planner.within(goal.budget)
    reached = speed_up(search.chosen.network.module)
    if reached >= goal.min_speedup:
        return search
    raise CheckError(
        f"No rewrite within the {planner.metric} budget of {goal.budget} is {where}: the shallowest,"
        f" {counted(search.chosen.depth_blocks, 'block')} deep, is {reached:.2f} times as fast.",
        "Lower --min-speedup, or raise --max-error.",
    )


def _deepest(planner: Planner, least: float, speed_up: SpeedUp, where: str) -> Search:
    depths = [depth for depth in planner.depths if depth < planner.blocks]
    low, high = 0, len(depths)
    while low < high:
        middle = (low + high) // 2
        if speed_up(_unrefitted(planner, planner.proposal(depths[middle]))) >= least:
            low = middle + 1
        else:
            high = middle
    reached = 1.0
    for depth in reversed(depths[: max(low, 1)]):
        search = planner.at_depth(depth)
        reached = speed_up(search.chosen.network.module)
        if reached >= least:
            return search
    raise CheckError(
        f"No rewrite is {where}: the shallowest, {counted(min(planner.depths), 'block')} deep, is {reached:.2f} times"
        " as fast.",
        "Lower --min-speedup.",
    )


def _unrefitted(planner: Planner, plan: Plan) -> fx.GraphModule:
    """A plan's network with the weights as they are, which has nearly the kernels of the refitted one."""
    module, _ = run_passes(planner.program.module, [ApplyPlan(plan.with_refit("none"))])
    return module
