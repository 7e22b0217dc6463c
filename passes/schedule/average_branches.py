"""Branches averaged instead of summed (Painters, arXiv 2407.09298).

    y = x + 1/g sum_chains (chain(x) - x)        on each level of g chains

A level of one chain stays as it is. The sum over the branches is kept as one node, so that they fuse as those of any
other level do; the mean is a step from the state towards it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from passes.graph.editing import restore_order
from passes.graph.operators import ADD, aten
from passes.plan import Plan
from passes.runner import Pass, PassResult, Stage, run_passes
from passes.schedule.apply_plan import schedule
from passes.schedule.sites import LevelSite, StackSite


@dataclass(frozen=True)
class AverageBranches(Pass):
    """Rewrite residual stacks as a plan says, with the mean of the chains of each level."""

    plan: Plan
    name: ClassVar[str] = "average-branches"
    exact: ClassVar[bool] = False
    stage: ClassVar[Stage] = "schedule"
    after: ClassVar[tuple[str, ...]] = ("apply-plan",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        sites = schedule_averaged(module, self.plan)
        levels = [(site.name, sum(len(level.level.chains) > 1 for level in site.levels)) for site in sites]
        return PassResult(tuple(f"{name}, levels averaged: {count}" for name, count in levels if count))


def averaged(teacher: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """The network that runs `plan` with the mean of the chains of each level.

    Raises:
        ParallelizeError: the plan does not fit the model's stacks.
    """
    return run_passes(teacher, [AverageBranches(plan)])[0]


def schedule_averaged(module: fx.GraphModule, plan: Plan) -> tuple[StackSite, ...]:
    """Apply a plan in place with averaged branches; the sites are those of the sums."""
    sites = schedule(module, plan)
    means: dict[fx.Node, fx.Node] = {}  # the sum after a level -> the mean
    for level in (level for site in sites for level in site.levels if len(level.level.chains) > 1):
        means[level.result] = _average(module, level, means.get(level.entry, level.entry))
    restore_order(module)
    return sites


def _average(module: fx.GraphModule, level: LevelSite, entry: fx.Node) -> fx.Node:
    """Put the mean of a level's chains behind their sum; returns the new state."""
    total, value = level.result, level.result.meta.get("val")
    users, after = list(total.users), total.next
    call = module.graph.call_function
    with module.graph.inserting_before(after):
        step = call(aten.sub.Tensor, (total, entry))
        share = call(aten.mul.Tensor, (step, 1 / len(level.level.chains)))
        mean = call(ADD, (entry, share))
    for node in (step, share, mean):
        node.meta["val"] = value
    for user in users:
        user.replace_input_with(total, mean)
    return mean
