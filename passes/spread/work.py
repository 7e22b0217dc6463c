"""Floating-point operations of a node, counted by torch on tensors without values.

Counted are products, convolutions and attention, with one sample of each free size's example value: what else runs is
small beside them, and only the ratios of branches of one sum matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from passes.graph.operators import RECURRENCES, gemms


def flops(node: fx.Node) -> int:
    """Floating-point operations of one node; 0 for one that is no product, convolution or attention."""
    if node.target in RECURRENCES:
        return _recurrence(node)
    if not gemms(node):
        return 0
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: _described(source.meta["val"]))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        node.target(*pytree.tree_map(_number, args), **pytree.tree_map(_number, kwargs))  # type: ignore[operator]
    return int(counter.get_total_flops())


def _described(value: Any) -> Any:
    """Tensors of the same shapes on the device without memory, numbers as they are."""
    return pytree.tree_map(_shaped, value)


def _shaped(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return _number(value)
    return torch.empty([_number(size) for size in value.shape], dtype=value.dtype, device="meta")


def _number(value: Any) -> Any:
    """A free size as that of the example; one that only the data tell counts as 1."""
    if not isinstance(value, torch.SymInt):
        return value
    hint = value.node.hint
    return 1 if hint is None else int(hint)


def _recurrence(node: fx.Node) -> int:
    """Every weight is used once for each position of the input."""
    source, weights = node.args[0], node.args[2]
    assert isinstance(source, fx.Node)
    assert isinstance(weights, list | tuple)
    positions = [_number(size) for size in source.meta["val"].shape[:-1]]
    count = sum(weight.meta["val"].numel() for weight in weights if isinstance(weight, fx.Node))
    for size in positions:
        count *= size
    return 2 * int(count)
