"""What every Para-Former is: something becomes tokens, branches of blocks read them, a norm and a head read the sum.

The same class is the serial twin, with one branch of all blocks. The parameters do not know the mode: a state dict
trained in one mode loads in the other. Three forms compute the same numbers:

    model                  blocks one after another, branch after branch; what checkpoints hold and the compiler reads
    model.fuse()           branches as wide operations, trained as stacked leaves; `unfuse` goes back
    model.fuse().fold()    the same for inference, in as many operators as one branch
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from typing_extensions import Self

from paraformer.block import Block
from paraformer.branches import Branches
from paraformer.config import ParaFormerConfig
from paraformer.errors import ParaFormerError
from paraformer.folded import FoldedBranches
from paraformer.fused import FusedBranches


class ParaFormer(nn.Module):
    """Blocks, norm and head; a subclass embeds its inputs and says what its head reads.

    Attributes:
        config: sizes and ways; plain values.
        blocks: (batch, tokens, width) and a mask to the same shape.
    """

    blocks: nn.Module

    def __init__(self, config: ParaFormerConfig) -> None:
        super().__init__()
        self.config = config

    def add_blocks(self, outputs: int, *, causal: bool = False) -> None:
        """Blocks, norm and head with new weights, behind what a subclass embeds with."""
        config = self.config
        blocks = (Block(config.width, config.heads, config.hidden, causal=causal) for _ in range(config.depth))
        self.blocks = Branches(blocks, config.branch_count, config.merge)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, outputs)

    def reset_blocks(self) -> None:
        """Truncated normal weights of all linears; what a block adds to the state starts small in a deep network."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        scale = (2 * self.config.depth) ** -0.5
        with torch.no_grad():
            for block in self.modules():
                if isinstance(block, Block):
                    block.attention.out.weight.mul_(scale)
                    block.down.weight.mul_(scale)

    def pooled(self, state: Tensor) -> Tensor:
        """What a classifier's head reads of the last state (batch, tokens, width): (batch, width)."""
        normed: Tensor = self.norm(state[:, 0] if self.config.pooling == "cls" else state)
        return normed if self.config.pooling == "cls" else normed.mean(1)

    def with_blocks(self, blocks: nn.Module, config: ParaFormerConfig | None = None) -> Self:
        """A copy of everything but the blocks, with these in their place."""
        twin = deepcopy(self, {id(self.blocks): blocks})
        twin.config = config or self.config
        return twin

    def fuse(self) -> Self:
        """A copy whose branches run as wide operations, with the same outputs and gradients; a fused model is its own.

        Raises:
            ParaFormerError: a folded model, or branches that differ in whether a parameter is trained.
        """
        if isinstance(self.blocks, FusedBranches):
            return self
        return self.with_blocks(FusedBranches(self._looped()))

    def unfuse(self) -> Self:
        """A copy whose branches run one by one, with a state dict as checkpoints hold it; without fusion it is its own.

        Raises:
            ParaFormerError: a folded model.
        """
        if isinstance(self.blocks, FusedBranches):
            return self.with_blocks(self.blocks.unfuse())
        self._looped()
        return self

    def fold(self) -> Self:
        """A copy for inference only, in as many operators as one branch; a model that is not fused is fused first."""
        if isinstance(self.blocks, FoldedBranches):
            return self
        fused = self.fuse().blocks
        assert isinstance(fused, FusedBranches)
        return self.with_blocks(FoldedBranches(fused)).eval().requires_grad_(requires_grad=False)

    def _looped(self) -> Branches:
        if isinstance(self.blocks, Branches):
            return self.blocks
        raise ParaFormerError(
            "The norms of a folded Para-Former lie in its linears and cannot be told apart again.",
            "Keep the model that was folded.",
        )
