"""Which schedule a conversion runs, and whether there is anything to schedule at all.

A schedule is given as a plan, searched on data within a budget, for a depth or for a speed-up, or made of equal groups
that fuse where there is no data. A network may be as parallel as it was asked to be already; nothing is scheduled, and
a reason says why, where

    1. a plan leaves every stack as it was captured;
    2. no two neighbouring blocks have terms of the same kinds, or no group of blocks fuses without data;
    3. the depth that was asked for is no less than that of the network;
    4. nothing was asked for, and the network is made of branches that run side by side, as a Para-Former is.

Such a network is still cleaned, fused, exported, built, compared and reported.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parallelize.conversion.goal import AtDepth, Faster, Goal, Replay, Within
from parallelize.conversion.job import Job
from parallelize.conversion.speed_goal import fast_enough
from parallelize.metrics import Budget
from parallelize.planning.forms import alike
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from parallelize.planning.search import Search
from parallelize.planning.structure import structural_plan
from parallelize.terminal.progress import Report
from parallelize.terminal.words import counted
from passes.errors import CheckError, ParallelizeError
from passes.plan import Plan
from passes.stacks.stack_graph import StackGraph
from passes.stacks.terms import Stack


@dataclass(frozen=True)
class Schedule:
    """What was chosen.

    Attributes:
        search: what was measured, None where nothing was searched.
        budget: the largest error that the search allowed; None where there was no such search.
        unscheduled: why nothing is scheduled, as the rest of a sentence; None where something is.
    """

    plan: Plan
    search: Search | None = None
    unscheduled: str | None = None
    budget: Budget | None = None


def chosen_schedule(job: Job, report: Report, memory: Path | None = None) -> Schedule:
    """The schedule that reaches the goal.

    Args:
        job: what is converted.
        report: told what is measured.
        memory: file in which a search keeps what it measured, and that it goes on from; the caller removes it.

    Raises:
        ParallelizeError: there is none, or what was asked for cannot be done where nothing is scheduled.
        CheckError: no schedule is within the budget, or as fast as was asked for.
    """
    graph, goal, seed = job.graph, job.goal, job.options.seed
    reason = why_unscheduled(graph, goal)
    if reason is not None and job.options.heal is not None:
        raise ParallelizeError(
            f"There is nothing to heal: {reason}.", "Leave out the healing, or name a plan that schedules more."
        )
    if reason is not None and isinstance(goal, Faster):
        raise CheckError(f"Nothing can be made faster: {reason}.", "Leave out --min-speedup.")
    if isinstance(goal, Replay):
        return Schedule(goal.plan, unscheduled=reason)
    if reason is not None:
        return Schedule(replace(graph.serial_plan, seed=seed), unscheduled=reason)
    if job.prepared.random:
        depth = goal.blocks if isinstance(goal, AtDepth) else None
        plan = structural_plan(job.prepared.program.module, graph, depth, seed)
        return Schedule(plan, unscheduled="no two neighbouring blocks fuse" if plan.is_serial else None)
    return _searched(job, goal, report, memory)


def _searched(job: Job, goal: AtDepth | Within | Faster, report: Report, memory: Path | None) -> Schedule:
    def progress(what: str, done: int, total: int) -> None:
        report(what, done / total if total > 1 else None)

    options, data = job.options, job.prepared.data
    searching = PlannerOptions(
        refit=options.refit,
        seed=options.seed,
        time_limit=options.time_limit,
        refine=options.refine,
        resume=memory,
    )
    planner = Planner(job.prepared.program, data.fit, data.held_out, job.metric, searching, progress)
    if isinstance(goal, AtDepth):
        search = planner.at_depth(goal.blocks)
        return Schedule(search.chosen.plan, search)
    if isinstance(goal, Faster):
        assert job.asked_for is not None
        search = fast_enough(planner, goal, job.asked_for)
        return Schedule(search.chosen.plan, search, budget=goal.budget)
    goal.budget.check(job.metric)
    search = planner.within(goal.budget)
    return Schedule(search.chosen.plan, search, budget=goal.budget)


def why_unscheduled(graph: StackGraph, goal: Goal) -> str | None:
    """Why nothing is to be scheduled, as the rest of a sentence, or None where something is."""
    if isinstance(goal, Replay):
        return "the plan leaves every stack as it was captured" if goal.plan.is_serial else None
    if not graph.stacks:
        return "the network has no residual stack"
    if not _has_group(graph.stacks):
        return branches(graph) if graph.is_parallel else _why_no_group(graph.stacks)
    if isinstance(goal, AtDepth) and goal.blocks >= graph.serial_blocks:
        return f"the network is {counted(graph.serial_blocks, 'block')} deep as it is, and {goal.blocks} were asked for"
    if isinstance(goal, Within) and goal.is_default and graph.is_parallel:
        return f"{branches(graph)} (--depth {graph.least_blocks} would schedule each of them)"
    return None


def branches(graph: StackGraph) -> str:
    """How many stacks of a parallel network run side by side, such as "its 8 stacks are branches ..."."""
    return f"its {len(graph.stacks)} stacks are branches that run side by side already"


def _has_group(stacks: Sequence[Stack]) -> bool:
    return any(alike(stack, *pair) for stack in stacks for pair in _neighbours(stack))


def _neighbours(stack: Stack) -> Iterator[tuple[int, int]]:
    return itertools.pairwise(range(len(stack.blocks)))


def _why_no_group(stacks: Sequence[Stack]) -> str:
    if any(len(stack.blocks) > 1 for stack in stacks):
        return "no two neighbouring blocks have terms of the same kinds"
    if len(stacks) == 1:
        return "the network is one block deep"
    return f"each of its {len(stacks)} stacks is one block deep"
