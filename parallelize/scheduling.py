"""Whether there is anything to schedule: a network may be as parallel as it was asked to be already.

Nothing is scheduled, and a reason says why, where

    1. a plan leaves every stack as it was captured;
    2. no two neighbouring blocks have terms of the same kinds, so that there is no group;
    3. the depth that was asked for is no less than that of the network;
    4. nothing was asked for, and the network is made of branches that run side by side, as a Para-Former is.

Such a network is still cleaned, fused, exported, built, compared and reported. In all other cases a schedule is chosen
or given.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from parallelize.planning.forms import alike
from passes.plan import Plan
from passes.stack_graph import StackGraph
from passes.stacks import Stack


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


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as "1 block" and "2 blocks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
