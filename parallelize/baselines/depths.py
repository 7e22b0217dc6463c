"""How deep a baseline must be: what each stack may have, and how long the longest path through all of them is.

A plan says the depth of every stack. A number leaves open how the stacks share it: every stack has options of several
depths, each with a cost, and of the options that make the longest path so long those of the smallest sum of costs are
taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from parallelize.planning.shared_depth import share_depth
from passes.errors import ParallelizeError
from passes.plan import Plan
from passes.schedule.apply_plan import check_fits
from passes.stacks.find import Stack
from passes.stacks.stack_graph import StackGraph, stack_graph

Option = TypeVar("Option")


@dataclass(frozen=True, eq=False)
class Depths:
    """Depths in blocks.

    Attributes:
        graph: of the stacks.
        total: the longest path through all stacks.
        allowed: for each stack the depths from which it may take one.
    """

    graph: StackGraph
    total: int
    allowed: tuple[range, ...]

    def is_too_deep(self, number: int, counts: Sequence[int]) -> bool:
        """Whether a stack has to lose a block, where each stack has so many.

        It has more than it may have, or a path through it is too long and it may have fewer.
        """
        allowed, count = self.allowed[number], counts[number]
        if count <= allowed.start:
            return False
        return count not in allowed or self.graph.through(number, counts) > self.total

    def share(self, options: Sequence[Mapping[int, tuple[float, Option]]]) -> tuple[Option, ...] | None:
        """One option (depth -> cost and option) for each stack, of the smallest sum of costs; None where none fit."""
        found = share_depth(self.graph.order, options).get(self.total)
        return None if found is None else found[1]


def wanted_depths(stacks: Sequence[Stack], target: int | Plan) -> Depths:
    """The depths that `target` asks for: blocks on the longest path, or a plan whose stacks are matched one by one.

    A schedule whose depth is no whole number of blocks is rounded up; no stack gets less than one block.

    Raises:
        ParallelizeError: the plan is for another model, or no network is as deep as the number.
    """
    graph = stack_graph(stacks)
    if isinstance(target, Plan):
        check_fits(stacks, target)
        each = [stack.in_blocks(part.depth) for stack, part in zip(stacks, target.stacks, strict=True)]
        return Depths(graph, graph.longest(each), tuple(range(depth, depth + 1) for depth in each))
    if not graph.least_blocks <= target <= graph.serial_blocks:
        raise ParallelizeError(
            f"No baseline is {target} blocks deep: the model has {graph.serial_blocks} blocks on its longest path.",
            f"Ask for a depth from {graph.least_blocks} to {graph.serial_blocks}.",
        )
    return Depths(graph, target, tuple(_allowed(graph, number, target) for number in range(len(stacks))))


def _allowed(graph: StackGraph, number: int, target: int) -> range:
    """The depths of one stack with which others can make the target."""
    most = [len(stack.blocks) for stack in graph.stacks]
    least = [1] * len(most)
    every = range(1, most[number] + 1)
    fits = [
        depth
        for depth in every
        if graph.through(number, _with(least, number, depth)) <= target <= graph.longest(_with(most, number, depth))
    ]
    return range(fits[0], fits[-1] + 1) if fits else range(1, 1)


def _with(depths: Sequence[int], number: int, depth: int) -> list[int]:
    return [*depths[:number], depth, *depths[number + 1 :]]
