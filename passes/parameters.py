"""Read and add the tensors that a graph holds as attributes."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn


def read_parameter(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor behind a get_attr node, detached."""
    value: object = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value.detach()


def add_parameter(module: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
    """Store a tensor under a fresh name and return a get_attr node for it, inserted before `before`."""
    number = 0
    while hasattr(module, f"{name}_{number}"):
        number += 1
    fresh = f"{name}_{number}"
    module.register_parameter(fresh, nn.Parameter(value.contiguous(), requires_grad=False))
    with module.graph.inserting_before(before):
        node = module.graph.get_attr(fresh)
    node.meta["val"] = torch.empty_like(value, device="meta")
    return node
