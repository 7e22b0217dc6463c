"""Branches folded for inference: no leaves, norms lie in the linears, the sum over branches in matrix products.

N branches take as many operators that compute as one block run alone, because additions to the state and the sum over
branches are addends and factors of products:

    s_b = (x + bias_b) + read_b W_out                     the state after the first attention, x + bias_b by one addcmul
    e_b = s_b + hidden_b W_down                           the end of a branch, without the bias of its last linear
    y   = (skip x + share sum bias_b) + share (1 .. 1) e  the row in brackets comes out of the same addcmul

    merge    added              summed    mean
    skip     1 - N              0         0
    share    1                  1         1/N

In half precision `added` rounds (1 - N) x before the sum, so many folded branches lose more there than fused ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paraformer.fused import FusedBranches
from paraformer.modes import Merge
from paraformer.wide import BlockWeights, for_each_branch, hidden, mixed


class FoldedBranches(nn.Module):
    """`FusedBranches` for inference: weights are buffers that no gradient reaches, folded once."""

    start_bias: Tensor
    start_skip: Tensor
    share: Tensor

    def __init__(self, branches: FusedBranches) -> None:
        super().__init__()
        self.shapes = branches.shapes()
        with torch.no_grad():
            weights = branches.weights()
            for place, block in enumerate(weights):
                for name, value in zip(BlockWeights._fields, block, strict=True):
                    self.register_buffer(f"{name}_{place}", value.detach().contiguous().clone())
            self._register_sum(weights, branches.count, branches.merge)
        self.eval()

    def _register_sum(self, weights: Sequence[BlockWeights], count: int, merge: Merge) -> None:
        """The addends and factors that make the sum over branches part of the products."""
        first, last = weights[0].out_bias, weights[-1].down_bias
        share = 1 / count if merge == "mean" else 1.0
        skip = 1.0 - count if merge == "added" else 0.0
        self.register_buffer("start_bias", torch.cat([first, share * last.sum(0, keepdim=True)]))
        self.register_buffer("start_skip", torch.cat([first.new_ones(count, 1, 1), first.new_full((1, 1, 1), skip)]))
        self.register_buffer("share", first.new_full((1, count), share))

    def weights(self) -> list[BlockWeights]:
        """Of the first block of all branches, of the second and so on."""
        names = [[f"{name}_{place}" for name in BlockWeights._fields] for place in range(len(self.shapes))]
        return [BlockWeights(*map(self.get_buffer, row)) for row in names]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        flat = x.flatten(0, 1)
        start = torch.addcmul(self.start_bias, flat, self.start_skip)
        state, rest = start[:-1], start[-1]
        weights, shapes = self.weights(), self.shapes
        state = torch.baddbmm(state, mixed(x, flat, mask, weights[0], shapes[0]), weights[0].out_weight)
        mask = for_each_branch(mask, shapes[0].branches) if len(weights) > 1 else None
        for place in range(1, len(weights)):
            before, block, shape = weights[place - 1], weights[place], shapes[place]
            inner = hidden(state, before, shapes[place - 1])
            state = state + torch.baddbmm(before.down_bias, inner, before.down_weight)
            state = state + torch.baddbmm(block.out_bias, mixed(x, state, mask, block, shape), block.out_weight)
        ends = torch.baddbmm(state, hidden(state, weights[-1], shapes[-1]), weights[-1].down_weight)
        return torch.addmm(rest.flatten(), self.share, ends.flatten(1)).view(x.shape)
