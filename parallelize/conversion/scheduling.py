"""Which schedule a conversion runs, and whether there is anything to schedule at all.

A schedule is given as a plan, searched on data within a budget, for a depth or to be fast enough, or made of equal
groups that fuse where there is no data. A network may be as parallel as it was asked to be already; nothing is
scheduled, and a reason says why, where

    1. a plan leaves every stack as it was captured;
    2. no two neighbouring blocks have terms of the same kinds, or no group of blocks fuses without data;
    3. the depth that was asked for is no less than that of the network, or it is fast enough as it is;
    4. nothing was asked for, and the network is made of branches that run side by side, as a Para-Former is.

Such a network is still cleaned, fused, exported, built, compared and reported.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parallelize.conversion.fast_enough import Time, drafted, searched
from parallelize.conversion.goal import AtDepth, Faster, Goal, Replay, Within
from parallelize.conversion.job import Job
from parallelize.conversion.pace import Pace
from parallelize.conversion.stopwatch import Stopwatch, foreseen
from parallelize.metrics import Budget
from parallelize.planning.forms import alike
from parallelize.planning.fusibility import Fusibility
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from parallelize.planning.search import Search
from parallelize.planning.structure import structural_plan, structural_plans
from parallelize.terminal.progress import Report
from parallelize.terminal.words import counted
from passes.errors import ParallelizeError
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
        pace: what was timed where it was to be fast; None where it was not.
    """

    plan: Plan
    search: Search | None = None
    unscheduled: str | None = None
    budget: Budget | None = None
    pace: Pace | None = None


def chosen_schedule(job: Job, report: Report, memory: Path | None = None) -> Schedule:
    """The schedule that reaches the goal.

    Args:
        job: what is converted.
        report: told what is measured.
        memory: file in which a search keeps what it measured, and that it goes on from; the caller removes it.

    Raises:
        ParallelizeError: there is none, or what was asked for cannot be done where nothing is scheduled.
        CheckError: no schedule is within the budget, or fast enough.
        EnvironmentLackError: how fast one is cannot be measured here.
    """
    graph, goal, seed = job.graph, job.goal, job.options.seed
    reason = why_unscheduled(graph, goal)
    if reason is not None:
        _refuse_healing(job, reason)
    if isinstance(goal, Faster):
        return _fast(job, goal, reason, report, memory)
    if isinstance(goal, Replay):
        return Schedule(goal.plan, unscheduled=reason)
    if reason is not None:
        return Schedule(replace(graph.serial_plan, seed=seed), unscheduled=reason)
    if job.prepared.random:
        depth = goal.blocks if isinstance(goal, AtDepth) else None
        plan = structural_plan(job.prepared.program.module, graph, depth, seed)
        return Schedule(plan, unscheduled="no two neighbouring blocks fuse" if plan.is_serial else None)
    return _searched(job, goal, report, memory)


def assist(job: Job) -> None:
    """On another rank than the first: measure what the search of `chosen_schedule` hands out there, if there is one."""
    unscheduled = why_unscheduled(job.graph, job.goal) is not None
    if not (unscheduled or isinstance(job.goal, Replay) or job.prepared.random):
        _planner(job, lambda _what, _share: None, None)
    job.ranks.serve()


def _refuse_healing(job: Job, reason: str) -> None:
    if job.options.heal is not None:
        raise ParallelizeError(
            f"There is nothing to heal: {reason}.", "Leave out the healing, or name a plan that schedules more."
        )


def _fast(job: Job, goal: Faster, reason: str | None, report: Report, memory: Path | None) -> Schedule:
    """A schedule that is fast enough: on the target that is named, else where the backend runs."""
    if job.asked_for is not None:
        pace = Pace(job.asked_for.target.gpu, True, goal.speedup, goal.latency)
        return _fast_by(job, goal, pace, reason, foreseen(job, job.asked_for), report, memory)
    pace = Pace(job.choice.backend.name, False, goal.speedup, goal.latency)
    with tempfile.TemporaryDirectory(prefix="parallelize-") as folder:
        return _fast_by(job, goal, pace, reason, Stopwatch(job, Path(folder), report), report, memory)


def _fast_by(
    job: Job, goal: Faster, pace: Pace, reason: str | None, time: Time, report: Report, memory: Path | None
) -> Schedule:
    """By a search where there is data, and by structure alone where there is none."""
    teacher, graph = job.prepared.program.module, job.graph
    plans = {graph.serial_blocks: replace(graph.serial_plan, seed=job.options.seed)}
    if reason is not None:
        found = drafted(job, pace, [], plans.__getitem__, time, reason)
    elif job.prepared.random:
        plans = {**structural_plans(Fusibility(teacher, graph.stacks), graph, job.options.seed), **plans}
        found = drafted(job, pace, [depth for depth in plans if depth < graph.serial_blocks], plans.__getitem__, time)
    else:
        found = searched(job, goal, pace, _planner(job, report, memory), time)
    if found.search is not None:
        return Schedule(found.search.chosen.plan, found.search, budget=goal.budget, pace=found.pace)
    if found.depth == graph.serial_blocks:
        reason = reason or f"with its branches fused, the network reaches {found.pace.asked} as it is"
        _refuse_healing(job, reason)
    return Schedule(plans[found.depth], unscheduled=reason, budget=goal.budget, pace=found.pace)


def _searched(job: Job, goal: AtDepth | Within, report: Report, memory: Path | None) -> Schedule:
    planner = _planner(job, report, memory)
    if isinstance(goal, AtDepth):
        search = planner.at_depth(goal.blocks)
        return Schedule(search.chosen.plan, search)
    goal.budget.check(job.metric)
    search = planner.within(goal.budget)
    return Schedule(search.chosen.plan, search, budget=goal.budget)


def _planner(job: Job, report: Report, memory: Path | None) -> Planner:
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
    return Planner(job.prepared.program, data.fit, data.held_out, job.metric, searching, progress, job.ranks)


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
