"""Branches of which each rank of a row runs some: they read one state, and what they add goes round once.

    forward     y = x + all_reduce(sum over own branches of branch_b(x) - x)
    backward    the gradient of y reaches the own branches as it is; what they say of x is all-reduced

So a row of ranks is one function for what is before and behind the branches: its weights have whole gradients on each
rank, the same on all. Where every prefix is wanted, the ends of all branches are gathered instead of summed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from paraformer.branches import Branches, EndsOfBranches
from paraformer.modes import Merge
from paraformer.prefixes import first_branches

if TYPE_CHECKING:
    from paraformer.training.row import Row


class SpreadBranches(nn.Module):
    """The branches of one rank in the place of all: (batch, tokens, width) to the same shape.

    Attributes:
        own: the branches of this rank.
        first: number of the first of them.
        count: of all branches.
    """

    def __init__(self, own: nn.Module, first: int, count: int, merge: Merge, row: Row) -> None:
        super().__init__()
        self.own, self.first, self.count, self.row = own, first, count, row
        self.merge: Merge = merge

    def ends(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The state at the end of each branch, of all ranks: (N, B, T, W)."""
        return self.row.gathered(self._own_ends(self.row.read(x), mask), self.count)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._of_first(x, mask, None)

    def prefix(self, count: int, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The state behind the first `count` branches, the only ones that run."""
        return self._of_first(x, mask, count)

    def _of_first(self, x: Tensor, mask: Tensor | None, count: int | None) -> Tensor:
        total = self.row.summed(self._part(self.row.read(x), mask, count))
        if self.merge == "added":
            return x + total
        return total / (count or self.count) if self.merge == "mean" else total

    def _part(self, read: Tensor, mask: Tensor | None, count: int | None) -> Tensor:
        """What own branches bring to the sum, those among the first `count` where that is given."""
        if count is not None and count <= self.first:
            return 0.0 * read  # the others wait for its gradient too
        ends = self._own_ends(read, mask, count)
        return (ends - read if self.merge == "added" else ends).sum(0)

    def _own_ends(self, read: Tensor, mask: Tensor | None, count: int | None = None) -> Tensor:
        own = self.own
        if count is not None and isinstance(own, Branches):
            own = first_branches(own, min(count - self.first, own.count))
        assert isinstance(own, EndsOfBranches)
        ends = own.ends(read, mask)
        return ends if isinstance(ends, Tensor) else torch.stack(list(ends))
