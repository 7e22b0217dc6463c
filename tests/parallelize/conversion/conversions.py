"""What the tests of conversions share: the smallest network to convert, and an end before the work begins."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from parallelize.models.capture import capture
from parallelize.models.program import Program
from tests.parallelize.small_models import Residual, mlp, stack_plan, vision

PLAN = stack_plan(3, [[[0]], [[1], [2]]], "affine")  # of three MLPs
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 6, generator=GENERATOR)
LABELS = torch.randint(0, 5, (60,), generator=GENERATOR)


def two_blocks() -> Program:
    """Two blocks, to be one block deep."""
    return vision(depth=2)


@functools.cache
def three_mlps() -> Program:
    """Three blocks of one term on vectors, measured quickly."""
    torch.manual_seed(0)
    model = Residual([mlp(6, 12) for _ in range(3)], nn.Linear(6, 5)).eval()
    return capture(model, (torch.zeros(1, 6),), origin="mlps")


class Named(nn.Module):
    """Three MLPs on the sum of two inputs, with a name for what they return."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = Residual([mlp(6, 12) for _ in range(3)], nn.Linear(6, 5))

    def forward(self, x: Tensor, shift: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(x + shift)}


class SeenError(Exception):
    """Ends a conversion."""
