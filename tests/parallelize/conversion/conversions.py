"""What the tests of conversions share: the smallest network to convert, and an end before the work begins."""

from __future__ import annotations

import functools

import torch
from torch import nn

from parallelize.models.capture import capture
from parallelize.models.program import Program
from tests.parallelize.small_models import Residual, mlp, vision


def two_blocks() -> Program:
    """Two blocks, to be one block deep."""
    return vision(depth=2)


@functools.cache
def three_mlps() -> Program:
    """Three blocks of one term on vectors, measured quickly."""
    torch.manual_seed(0)
    model = Residual([mlp(6, 12) for _ in range(3)], nn.Linear(6, 5)).eval()
    return capture(model, (torch.zeros(1, 6),), origin="mlps")


class SeenError(Exception):
    """Ends a conversion."""
