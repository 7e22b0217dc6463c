"""Schedules run eagerly: the independent reference, which calls the terms themselves and knows nothing of graphs."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.model import Block, VisionParaFormer
from tests.passes.models import Levels, Step


def vision_steps(model: VisionParaFormer) -> list[Step]:
    """The map of the state that each attention and each MLP of the vision transformer is."""

    def attention(block: Block, x: Tensor) -> Tensor:
        y: Tensor = x + block.attention(block.norm1(x))
        return y

    def mlp(block: Block, x: Tensor) -> Tensor:
        y: Tensor = x + block.down(F.gelu(block.up(block.norm2(x))))
        return y

    return [functools.partial(step, block) for block in model.blocks for step in (attention, mlp)]  # type: ignore[list-item]


def vision_output(model: VisionParaFormer, levels: Levels, pixels: Tensor) -> Tensor:
    """The logits of the vision transformer with its blocks scheduled."""
    state = after_levels(vision_steps(model), levels, model.embed(pixels))
    logits: Tensor = model.head(model.norm(state).mean(1))
    return logits


def after_levels(steps: Sequence[Step], levels: Levels, x: Tensor) -> Tensor:
    """y = x + sum_chains (chain(x) - x) on each level, eagerly."""
    for level in levels:
        y = x
        for chain in level:
            state = x
            for number in chain:
                state = steps[number](state)
            y = y + (state - x)
        x = y
    return x
