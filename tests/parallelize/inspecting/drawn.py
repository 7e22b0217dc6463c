"""Stacks and plans that the tests of diagrams draw."""

from __future__ import annotations

import functools

import torch
from torch import nn

from paraformer.model import VisionConfig, VisionParaFormer
from passes.plan import Level, StackPlan, grouped, serial
from passes.stacks.find import Stack, find_stacks

BLOCKS = [(2 * block, 2 * block + 1) for block in range(12)]
PLANS = {
    "serial": serial(24),
    "groups": grouped(24, [BLOCKS[:1], BLOCKS[1:4], BLOCKS[4:]]),
    "one level": StackPlan(24, (Level(tuple((term,) for term in range(24))),)),
    "block form": grouped(24, [[sum(BLOCKS[i : i + 3], ()) for i in range(0, 12, 3)]], "block"),
    "many branches of two blocks": grouped(24, [[sum(BLOCKS[i : i + 2], ()) for i in range(0, 12, 2)]], "block"),
    "equal groups": grouped(24, [BLOCKS[i : i + 3] for i in range(0, 12, 3)]),
    "chains of unequal length": StackPlan(24, (Level(((0, 1, 2), (3,), (4, 5))), Level(((6,), (7, 9, 11, 13))))),
    "deletion": StackPlan(24, tuple(Level(((term,),)) for term in range(24) if term not in (4, 10, 12, 14))),
    "nothing left": StackPlan(24, ()),
}


class TwoStacks(nn.Module):
    """Three residual MLPs, a linear layer that changes the width, two residual linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(3))
        self.between = nn.Linear(8, 4)
        self.second = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.first:
            x = x + layer(x)
        x = self.between(x)
        for layer in self.second:
            x = x + layer(x)
        return x


def _stacks(model: nn.Module, example: torch.Tensor) -> tuple[Stack, ...]:
    exported = torch.export.export(model.eval(), (example,))
    return find_stacks(exported.module(check_guards=False)).stacks


@functools.cache
def twelve_blocks() -> tuple[Stack, ...]:
    """A vision transformer: one stack of twelve blocks of attention and MLP."""
    torch.manual_seed(0)
    model = VisionParaFormer(VisionConfig(image_size=8, depth=12, width=16, heads=2, hidden=32))
    return _stacks(model, torch.zeros(2, 1, 8, 8))


@functools.cache
def two_stacks() -> tuple[Stack, ...]:
    """Stacks of three and of two terms behind each other."""
    torch.manual_seed(0)
    return _stacks(TwoStacks(), torch.zeros(2, 8))
