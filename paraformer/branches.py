"""Blocks as branches that all read one state, run one after another, and what becomes of their results.

    added     y = x + sum_b (branch_b(x) - x)
    summed    y = sum_b branch_b(x)              each branch brings its own copy of x, as published code has it
    mean      y = 1/N sum_b branch_b(x)

A branch is a run of neighbouring blocks, so one branch of all blocks is the serial network; there all three agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from paraformer.block import Block
from paraformer.modes import Merge


@runtime_checkable
class EndsOfBranches(Protocol):
    """Branches in a form that tells where each of them ends."""

    count: int
    merge: Merge

    def ends(self, x: Tensor, mask: Tensor | None = None) -> Tensor | list[Tensor]:
        """The state at the end of each branch, all of which read x."""


class Branches(nn.ModuleList):
    """Blocks in `count` runs of equal length: (batch, tokens, width) to the same shape.

    A slice of it is one branch of the blocks in the slice.
    """

    def __init__(self, blocks: Iterable[nn.Module] = (), count: int = 1, merge: Merge = "added") -> None:
        super().__init__(blocks)
        self.count = count
        self.merge: Merge = merge

    def runs(self) -> list[list[Block]]:
        """The blocks of each branch."""
        blocks = [block for block in self if isinstance(block, Block)]
        length = len(blocks) // self.count
        return [blocks[first : first + length] for first in range(0, len(blocks), length)]

    def ends(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The state at the end of each branch, all of which read x."""
        ends = []
        for run in self.runs():
            state = x
            for block in run:
                state = block(state, mask)
            ends.append(state)
        return ends

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return merged(x, self.ends(x, mask), self.merge)


def merged(x: Tensor, ends: Sequence[Tensor], merge: Merge) -> Tensor:
    """The state behind branches that read x and ended in `ends`; what one branch ends in is the state, to the bit."""
    y, *others = ends
    for end in others:
        y = y + (end - x if merge == "added" else end)
    return y / len(ends) if merge == "mean" else y
