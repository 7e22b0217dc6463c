"""Branches that are trained as wide and batched operations: leaves are their parameters, stacked.

Computes what `Branches` does, up to rounding (in float64 to 1e-10), and so do the gradients: N branches take as many
operators as one. Additions to the state stay outside of the products, so that autocast leaves the state in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paraformer.branches import Branches
from paraformer.modes import Merge
from paraformer.stacked import StackedBlock
from paraformer.wide import BlockWeights, Shape, for_each_branch, hidden, mixed


class FusedBranches(nn.Module):
    """`Branches` of equal blocks, trained as stacked leaves: (batch, tokens, width) to the same shape.

    `blocks.0` holds the first block of every branch, `blocks.1` the second, each parameter with a leading branch axis.

    Raises:
        ParaFormerError: branches differ in whether a parameter is trained.
    """

    def __init__(self, branches: Branches) -> None:
        super().__init__()
        self.count = branches.count
        self.merge: Merge = branches.merge
        self.blocks = nn.ModuleList(StackedBlock(blocks) for blocks in zip(*branches.runs(), strict=True))
        self.train(branches.training)

    def weights(self) -> list[BlockWeights]:
        """Of the first block of all branches, of the second and so on, norms folded."""
        return [block.weights(reads_same=place == 0) for place, block in enumerate(self._stacked())]

    def shapes(self) -> list[Shape]:
        """What the weights do not tell, in the same order."""
        return [block.shape for block in self._stacked()]

    def _stacked(self) -> list[StackedBlock]:
        return [block for block in self.blocks if isinstance(block, StackedBlock)]

    def ends(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The state at the end of each branch, all of which read x (B, T, W): (N, B, T, W)."""
        state, masks = x.flatten(0, 1), [mask]
        if len(self.blocks) > 1:
            masks += [for_each_branch(mask, self.count)] * (len(self.blocks) - 1)
        for seen, weights, shape in zip(masks, self.weights(), self.shapes(), strict=True):
            read = mixed(x, state, seen, weights, shape)
            state = state + torch.baddbmm(weights.out_bias, read, weights.out_weight)
            state = state + torch.baddbmm(weights.down_bias, hidden(state, weights, shape), weights.down_weight)
        return state.view(self.count, *x.shape)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return _merged(x, self.ends(x, mask), self.merge)

    def unfuse(self) -> Branches:
        """The branches one by one, with copies of the leaves."""
        runs = zip(*(block.blocks() for block in self._stacked()), strict=True)
        branches = Branches([block for run in runs for block in run], self.count, self.merge)
        return branches.train(self.training)


class FusedGroups(nn.Module):
    """Runs of `Branches` that are fused each for itself, because some are trained and others kept as they are.

    Raises:
        ParaFormerError: branches of one run differ in whether a parameter is trained.
    """

    def __init__(self, branches: Branches, kept: int) -> None:
        super().__init__()
        self.count = branches.count
        self.merge: Merge = branches.merge
        runs = branches.runs()
        parts = [part for part in (runs[:kept], runs[kept:]) if part]
        self.groups = nn.ModuleList(
            FusedBranches(Branches([block for run in part for block in run], len(part), branches.merge))
            for part in parts
        )
        self.train(branches.training)

    def _fused(self) -> list[FusedBranches]:
        return [group for group in self.groups if isinstance(group, FusedBranches)]

    def ends(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The state at the end of each branch, all of which read x (B, T, W): (N, B, T, W)."""
        return torch.cat([group.ends(x, mask) for group in self._fused()])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return _merged(x, self.ends(x, mask), self.merge)

    def unfuse(self) -> Branches:
        """The branches one by one, with copies of the leaves."""
        blocks = [block for group in self._fused() for run in group.unfuse().runs() for block in run]
        return Branches(blocks, self.count, self.merge).train(self.training)


def _merged(x: Tensor, ends: Tensor, merge: Merge) -> Tensor:
    if merge == "added":
        return x + (ends - x).sum(0)
    return ends.sum(0) if merge == "summed" else ends.mean(0)
