"""Functions of one tensor, captured as models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from parallelize.models.capture import capture
from parallelize.models.program import Program


class Function(nn.Module):
    """A module whose forward is a function of one tensor."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def of_function(function: Callable[..., Any], *shape: int, **options: Any) -> Program:
    return capture(Function(function).eval(), (torch.rand(*shape),), origin="it", **options)
