"""Sizes of tensors as numbers or expressions."""

from __future__ import annotations

from typing import TypeAlias

import sympy
import torch

Size: TypeAlias = int | sympy.Expr


def sizes(value: torch.Tensor) -> tuple[Size, ...]:
    """The shape of an example value, symbolic sizes as expressions."""
    return tuple(size if isinstance(size, int) else size.node.expr for size in value.shape)
