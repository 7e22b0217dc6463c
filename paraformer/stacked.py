"""The parameters of N equal blocks as one block of leaves with a leading branch axis, under the names of a block.

attention.qkv.weight (3W, W) of each block is attention.qkv.weight (N, 3W, W) of the leaves, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paraformer.block import Block
from paraformer.errors import ParaFormerError
from paraformer.wide import BlockWeights, Shape, fold_norm

_NAMES = ("weight", "bias")


class Leaves(nn.Module):
    """A weight and a bias, stacked."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)


class StackedAttention(nn.Module):
    """The projections of N attentions."""

    def __init__(self, qkv: Leaves, out: Leaves) -> None:
        super().__init__()
        self.qkv, self.out = qkv, out


class StackedBlock(nn.Module):
    """N blocks of equal sizes, one of each branch.

    Raises:
        ParaFormerError: the blocks differ in whether a parameter is trained.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        first = blocks[0]
        self.shape = Shape(
            len(blocks), first.attention.heads, first.attention.causal, (first.norm1.eps, first.norm2.eps)
        )
        self.norm1 = _stacked([block.norm1 for block in blocks])
        self.attention = StackedAttention(
            _stacked([block.attention.qkv for block in blocks]), _stacked([block.attention.out for block in blocks])
        )
        self.norm2 = _stacked([block.norm2 for block in blocks])
        self.up = _stacked([block.up for block in blocks])
        self.down = _stacked([block.down for block in blocks])
        self.train(first.training)

    def blocks(self) -> list[Block]:
        """The N blocks, each with a copy of its part of the leaves."""
        _, hidden, width = self.up.weight.shape
        parts = {name: leaf.detach().unbind(0) for name, leaf in self.named_parameters()}
        made = []
        for branch in range(self.shape.branches):
            with torch.device("meta"):  # no numbers are drawn for what is assigned at once
                block = Block(width, self.shape.heads, hidden, causal=self.shape.causal)
            block.load_state_dict({name: part[branch].clone() for name, part in parts.items()}, assign=True)
            block.norm1.eps, block.norm2.eps = self.shape.eps
            for name, leaf in self.named_parameters():
                block.get_parameter(name).requires_grad_(leaf.requires_grad)
            made.append(block.train(self.training))
        return made

    def weights(self, *, reads_same: bool) -> BlockWeights:
        """The weights as the wide operations take them; norms are folded anew, so that gradients reach them.

        Args:
            reads_same: whether all branches read the same state, as the first block of each does.
        """
        qkv_weight, qkv_bias = _folded(self.norm1, self.attention.qkv)
        up_weight, up_bias = _folded(self.norm2, self.up)
        out, down = self.attention.out, self.down
        width = qkv_weight.shape[-1]
        if reads_same:
            qkv_weight = qkv_weight.view(-1, 3, width, width).transpose(0, 1).reshape(-1, width)
            qkv_bias = qkv_bias.view(-1, 3, width).transpose(0, 1).reshape(-1)
        else:
            qkv_weight, qkv_bias = qkv_weight.transpose(1, 2), qkv_bias.unsqueeze(1)
        return BlockWeights(
            qkv_weight,
            qkv_bias,
            out.weight.transpose(1, 2),
            out.bias.unsqueeze(1),
            up_weight.transpose(1, 2),
            up_bias.unsqueeze(1),
            down.weight.transpose(1, 2),
            down.bias.unsqueeze(1),
        )


def _stacked(modules: Sequence[nn.Linear | nn.LayerNorm]) -> Leaves:
    leaves = Leaves(*(torch.stack([getattr(module, name).detach() for module in modules]) for name in _NAMES))
    for name in _NAMES:
        trained = {getattr(module, name).requires_grad for module in modules}
        if len(trained) > 1:
            raise ParaFormerError(
                f"Some branches train a {name} that others keep, so the branches cannot be fused.",
                "Train or keep the same parameters in every branch, or leave the branches unfused.",
            )
        getattr(leaves, name).requires_grad_(*trained)
    return leaves


def _folded(norm: Leaves, linear: Leaves) -> tuple[Tensor, Tensor]:
    return fold_norm(linear.weight, linear.bias, norm.weight, norm.bias)
