"""How deep a baseline must be: what each stack may have, and what all of them have together.

A plan says the depth of every stack. A number leaves open how the stacks share it: every stack has options of several
depths, each with a cost, and the options whose depths add up to the number at the smallest sum of costs are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from passes.apply_plan import check_fits
from passes.errors import ParallelizeError
from passes.plan import Plan
from passes.stacks import Stack

Option = TypeVar("Option")


@dataclass(frozen=True)
class Depths:
    """Depths in blocks.

    Attributes:
        total: of all stacks together.
        allowed: for each stack the depths from which it may take one.
    """

    total: int
    allowed: tuple[range, ...]


def wanted_depths(stacks: Sequence[Stack], target: int | Plan) -> Depths:
    """The depths that `target` asks for: a number of blocks in all, or a plan whose stacks are matched one by one.

    A schedule whose depth is no whole number of blocks is rounded up; no stack gets less than one block.

    Raises:
        ParallelizeError: the plan is for another model, or no network is as deep as the number.
    """
    counts = [len(stack.blocks) for stack in stacks]
    if isinstance(target, Plan):
        check_fits(stacks, target)
        each = [stack.in_blocks(part.depth) for stack, part in zip(stacks, target.stacks, strict=True)]
        return Depths(sum(each), tuple(range(depth, depth + 1) for depth in each))
    if not len(counts) <= target <= sum(counts):
        raise ParallelizeError(
            f"No baseline is {target} blocks deep: the model has {sum(counts)} blocks in {len(counts)} stacks.",
            f"Ask for a depth from {len(counts)} to {sum(counts)}.",
        )
    others = [(len(counts) - 1, sum(counts) - count) for count in counts]
    return Depths(
        target,
        tuple(
            range(max(1, target - most), min(count, target - least) + 1)
            for count, (least, most) in zip(counts, others, strict=True)
        ),
    )


def share(options: Sequence[Mapping[int, tuple[float, Option]]], total: int) -> tuple[Option, ...] | None:
    """One option for each stack, `total` deep together and of the smallest sum of costs; None where there is none.

    Args:
        options: for each stack, depth -> cost and option.
        total: the wanted sum of depths.
    """
    best: dict[int, tuple[float, tuple[Option, ...]]] = {0: (0.0, ())}
    for stack in options:
        row: dict[int, tuple[float, tuple[Option, ...]]] = {}
        for before, (cost, chosen) in best.items():
            for depth, (more, option) in stack.items():
                if before + depth not in row or cost + more < row[before + depth][0]:
                    row[before + depth] = (cost + more, (*chosen, option))
        best = row
    return best[total][1] if total in best else None
