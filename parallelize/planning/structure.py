"""Schedules without data: what a group costs cannot be measured then, so equal groups are made of what fuses.

On random inputs errors are noise, and plans chosen by them look better founded than they are. Without data the cost of
a group of g blocks is what bounds its error if all blocks matter alike,

    g (g - 1) / 2        pairs of blocks that no longer see each other

which is least where all groups are as equal as can be; of equal choices later blocks form the larger groups. Of the
forms of a group the first that fuses is taken: sublayer, block, GPT-J.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx

from parallelize.planning.forms import GroupForm, Span, alike, forms, main_form
from parallelize.planning.fusibility import Fusibility
from parallelize.planning.partition import shared_partitions
from parallelize.terminal.words import counted
from passes.errors import ParallelizeError
from passes.plan import Level, Plan, StackPlan
from passes.stacks.find import Stack
from passes.stacks.stack_graph import StackGraph

_LATE = 1e-3  # how much less a group costs at the end of a stack than at its beginning


def structural_plan(teacher: fx.GraphModule, graph: StackGraph, depth: int | None, seed: int = 0) -> Plan:
    """The schedule of at most `depth` blocks whose groups are as equal as can be and fuse.

    Args:
        teacher: the captured and cleaned model.
        graph: its stacks.
        depth: blocks; None is half of the network, or what comes nearest.
        seed: of the plan.

    Raises:
        ParallelizeError: no schedule is so shallow.
    """
    fusibility = Fusibility(teacher, graph.stacks)
    plans = structural_plans(fusibility, graph, seed)
    if depth is None:
        depth = max(graph.serial_blocks // 2, min(plans))
    fitting = [there for there in plans if there <= depth]
    if not fitting:
        why = "".join(f" ({reason})" for reason in list(fusibility.left.values())[:1])
        raise ParallelizeError(
            f"No schedule of groups that fuse is {counted(depth, 'block')} deep, the shallowest has {min(plans)}{why}.",
            f"Ask for --depth {min(plans)} or more.",
        )
    return plans[max(fitting)]


def structural_plans(fusibility: Fusibility, graph: StackGraph, seed: int = 0) -> dict[int, Plan]:
    """For every depth in blocks that there is the schedule whose groups are as equal as can be and fuse.

    Args:
        fusibility: of the model.
        graph: its stacks.
        seed: of the plans.
    """
    chosen = [_groups(fusibility, number) for number in range(len(graph.stacks))]
    costs = [{span: _cost(stack, span) for span in groups} for stack, groups in zip(graph.stacks, chosen, strict=True)]
    plans = {}
    for depth, (_, split) in shared_partitions(graph, costs).items():
        each = zip(graph.stacks, chosen, split, strict=True)
        parts = (StackPlan(len(s.terms), _levels(groups, spans)) for s, groups, spans in each)
        plans[depth] = Plan(tuple(parts), seed)
    return plans


def _levels(groups: Mapping[Span, GroupForm], spans: Iterable[Span]) -> tuple[Level, ...]:
    return tuple(level for span in spans for level in groups[span].levels)


def _groups(fusibility: Fusibility, number: int) -> dict[Span, GroupForm]:
    """The groups of one stack that fuse, each in the first form that does, and every block alone."""
    stack = fusibility.stacks[number]
    count = len(stack.blocks)
    found = {(block, block): main_form(stack, block, block) for block in range(count)}
    for first in range(count):
        for last in range(first + 1, count):
            if not alike(stack, first, last):
                break
            fitting = (form for form in forms(stack, first, last) if fusibility.why_not(number, form) is None)
            form = next(fitting, None)
            if form is not None:
                found[first, last] = form
    return found


def _cost(stack: Stack, span: Span) -> float:
    first, last = span
    size = last - first + 1
    return size * (size - 1) / 2 * (1 + _LATE * (1 - (first + last) / (2 * len(stack.blocks))))
