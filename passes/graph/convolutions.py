"""What a convolution is called with."""

from __future__ import annotations

from typing import Any

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value


def convolution_settings(node: fx.Node) -> tuple[Any, ...]:
    """Stride, padding, dilation and groups of a convolution, with their defaults."""
    value = tensor_value(node)
    assert value is not None
    rank = value.dim() - 2
    padding: Any = "valid" if node.target in ops.NAMED_PADDING else [0] * rank
    defaults = ([1] * rank, padding, [1] * rank, 1)
    return tuple(node.args[3 + i] if len(node.args) > 3 + i else defaults[i] for i in range(4))
