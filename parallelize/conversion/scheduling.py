"""Which schedule a conversion runs, and whether there is anything to schedule at all.

A schedule is given as a plan, searched on data within a budget or for a depth, or made of equal groups that fuse where
there is no data. A network may be as parallel as it was asked to be already; nothing is scheduled, and a reason says
why, where

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
from typing import TYPE_CHECKING

from parallelize.healing.pair import choose_device
from parallelize.metrics import Budget, Metric
from parallelize.models.prepare import Prepared
from parallelize.planning.forms import alike
from parallelize.planning.planner import Planner, PlannerOptions, Search
from parallelize.planning.structure import structural_plan
from parallelize.terminal.progress import Report
from parallelize.terminal.words import counted
from passes.apply_plan import check_fits
from passes.errors import ParallelizeError
from passes.plan import Plan, serial
from passes.stack_graph import StackGraph
from passes.stacks import Stack

if TYPE_CHECKING:
    from parallelize.conversion.convert import ConvertOptions

DEFAULT_BUDGET = Budget(0.02)


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


def settled(options: ConvertOptions, graph: StackGraph, *, is_random: bool) -> ConvertOptions:
    """Refuse what cannot be asked for together or without data, and leave out the refit on noise.

    Raises:
        ParallelizeError: several of a plan, a depth and a budget, a plan for another model, or what needs data.
    """
    given = [name for name in ("plan", "depth", "max_error") if getattr(options, name) is not None]
    if len(given) > 1:
        raise ParallelizeError(
            "Only one of a plan, a depth and a maximal error can be asked for.", "Leave out the rest."
        )
    if options.heal is not None:
        choose_device(options.heal.device)  # what is not there is refused before the long work
        if is_random:
            raise ParallelizeError("Healing needs data.", "Give calibration samples with --inputs.")
    if options.plan is not None:
        check_fits(graph.stacks, options.plan)
        wants_refit = any(part.refit != "none" for part in options.plan.stacks)
        if wants_refit and is_random:
            raise ParallelizeError(
                "The plan asks for a refit, which needs data.", 'Give --inputs, or set "refit": "none" in the plan.'
            )
    if is_random and options.max_error is not None:
        raise ParallelizeError(
            "A largest error is measured on data.", "Give calibration samples with --inputs, or ask for a --depth."
        )
    return replace(options, refit="none") if is_random else options


def chosen_schedule(
    prepared: Prepared, graph: StackGraph, metric: Metric, options: ConvertOptions, report: Report
) -> Schedule:
    """The schedule that the options ask for.

    Raises:
        ParallelizeError: there is none, or what was asked for cannot be done where nothing is scheduled.
        CheckError: no schedule is within the budget.
    """
    as_captured = Plan(tuple(serial(len(stack.terms)) for stack in graph.stacks), options.seed)
    reason = why_unscheduled(graph, options.plan, options.depth, has_budget=options.max_error is not None)
    if reason is not None and options.heal is not None:
        raise ParallelizeError(
            f"There is nothing to heal: {reason}.", "Leave out the healing, or name a plan that schedules more."
        )
    if reason is not None:
        return Schedule(options.plan or as_captured, None, reason)
    if options.plan is not None:
        return Schedule(options.plan)
    if prepared.random:
        plan = structural_plan(prepared.program.module, graph, options.depth, options.seed)
        return Schedule(plan, None, "no two neighbouring blocks fuse" if plan.is_serial else None)
    return _searched(prepared, metric, options, report)


def _searched(prepared: Prepared, metric: Metric, options: ConvertOptions, report: Report) -> Schedule:
    def progress(what: str, done: int, total: int) -> None:
        report(what, done / total if total > 1 else None)

    budget = DEFAULT_BUDGET if options.max_error is None else Budget.parse(options.max_error)
    if options.depth is None:
        budget.check(metric)
    searching = PlannerOptions(options.refit, options.seed, options.time_limit, refine=options.refine)
    data = prepared.data
    planner = Planner(prepared.program.module, data.fit, data.held_out, metric, searching, progress)
    if options.depth is not None:
        search = planner.at_depth(options.depth)
        return Schedule(search.chosen.plan, search)
    search = planner.within(budget)
    return Schedule(search.chosen.plan, search, budget=budget)


def why_unscheduled(graph: StackGraph, plan: Plan | None, depth: int | None, *, has_budget: bool) -> str | None:
    """Why nothing is to be scheduled, as the rest of a sentence, or None where something is.

    Args:
        graph: the model's stacks.
        plan: the plan that was given.
        depth: the depth that was asked for.
        has_budget: whether a largest error was given.
    """
    if plan is not None:
        return "the plan leaves every stack as it was captured" if plan.is_serial else None
    if not graph.stacks:
        return "the network has no residual stack"
    if not _has_group(graph.stacks):
        return branches(graph) if graph.is_parallel else _why_no_group(graph.stacks)
    if depth is not None and depth >= graph.serial_blocks:
        return f"the network is {counted(graph.serial_blocks, 'block')} deep as it is, and {depth} were asked for"
    if depth is None and not has_budget and graph.is_parallel:
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
