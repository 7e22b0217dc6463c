"""What every Para-Former is: something becomes tokens, branches of blocks read them, a norm and a head read the sum.

The same class is the serial twin, with one branch of all blocks. The parameters do not know the mode: a state dict
trained in one mode loads in the other. Three forms compute the same numbers:

    model                  blocks one after another, branch after branch; what checkpoints hold and the compiler reads
    model.fuse()           branches as wide operations, trained as stacked leaves; `unfuse` goes back
    model.fuse().fold()    the same for inference, in as many operators as one branch
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from typing_extensions import Self

from paraformer.block import Block
from paraformer.branches import Branches, EndsOfBranches
from paraformer.config import ParaFormerConfig
from paraformer.errors import ParaFormerError
from paraformer.folded import FoldedBranches
from paraformer.fused import FusedBranches, FusedGroups
from paraformer.prefixes import first_branches, prefix_states


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

    def embed(self, inputs: Tensor, /) -> Tensor:
        """The state x_0 that the blocks read: (batch, tokens, width)."""
        raise NotImplementedError

    def seen(self, attention_mask: Tensor) -> Tensor:
        """What each token sees, of the mask that the model is given; boolean."""
        raise NotImplementedError

    def start(self, inputs: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the blocks are given: x_0, and what each token sees where a mask tells."""
        return self.embed(inputs), None if attention_mask is None else self.seen(attention_mask)

    def answer(self, state: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What the head says of the last state (batch, tokens, width)."""
        assert attention_mask is None
        logits: Tensor = self.head(self.pooled(state))
        return logits

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
        if isinstance(self.blocks, FusedBranches | FusedGroups):
            return self
        return self.with_blocks(FusedBranches(self._looped()))

    def unfuse(self) -> Self:
        """A copy whose branches run one by one, with a state dict as checkpoints hold it; without fusion it is its own.

        Raises:
            ParaFormerError: a folded model.
        """
        if isinstance(self.blocks, FusedBranches | FusedGroups):
            return self.with_blocks(self.blocks.unfuse())
        self._looped()
        return self

    def fold(self) -> Self:
        """A copy for inference only, in as many operators as one branch; a model that is not fused is fused first."""
        if isinstance(self.blocks, FoldedBranches):
            return self
        if isinstance(self.blocks, FusedGroups):
            return self.unfuse().requires_grad_(requires_grad=False).fold()
        fused = self.fuse().blocks
        assert isinstance(fused, FusedBranches)
        return self.with_blocks(FoldedBranches(fused)).eval().requires_grad_(requires_grad=False)

    def prefix(self, count: int) -> Self:
        """A Para-Former of the first `count` branches, with a copy of their weights to train, fused where this one is.

        Raises:
            ParaFormerError: a folded model, or one without so many branches.
        """
        blocks = deepcopy(first_branches(self.unfuse()._looped(), count))
        depth = count * self.config.branch_depth
        config = replace(self.config, mode="para-former", branches=count, depth=depth)
        shorter = self.with_blocks(blocks, config).requires_grad_()
        return shorter if isinstance(self.blocks, Branches) else shorter.fuse()

    def prefix_logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The logits of every prefix, in one pass over the branches: (branches, batch, ...).

        Raises:
            ParaFormerError: a folded model.
        """
        blocks = self.blocks if isinstance(self.blocks, EndsOfBranches) else self._looped()
        x, seen = self.start(inputs, attention_mask)
        states = prefix_states(x, blocks.ends(x, seen), blocks.merge)
        repeated = None if attention_mask is None else attention_mask.repeat(len(states), 1)
        logits = self.answer(states.flatten(0, 1), repeated)
        return logits.view(*states.shape[:2], *logits.shape[1:])

    def _looped(self) -> Branches:
        if isinstance(self.blocks, Branches):
            return self.blocks
        raise ParaFormerError(
            "The norms of a folded Para-Former lie in its linears and cannot be told apart again.",
            "Keep the model that was folded.",
        )
