"""Read and add the tensors that a graph holds as attributes."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

_NUMBERS = (
    "parameter_numbers"  # in `module.meta`: how many names of each kind were given, so that a name costs no search
)


def read_parameter(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor behind a get_attr node, detached."""
    value = _attribute(module, node)
    assert isinstance(value, Tensor)
    return value.detach()


def is_learned(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a get_attr node reads a parameter and not a buffer or a constant."""
    return isinstance(_attribute(module, node), nn.Parameter)


def _attribute(module: fx.GraphModule, node: fx.Node) -> object:
    value: object = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def register_parameter(module: fx.GraphModule, name: str, value: Tensor, *, learned: bool = True) -> str:
    """Store a tensor, as it is and without a copy, under a fresh name ("name_0" and so on) and return that.

    What is not `learned` becomes a buffer.
    """
    numbers: dict[str, int] = module.meta.setdefault(_NUMBERS, {})
    number = numbers.get(name, 0)
    while hasattr(module, f"{name}_{number}"):
        number += 1
    module.meta[_NUMBERS] = {**numbers, name: number + 1}
    if learned:
        module.register_parameter(f"{name}_{number}", nn.Parameter(value, requires_grad=False))
    else:
        module.register_buffer(f"{name}_{number}", value)
    return f"{name}_{number}"


def store_parameter(
    module: fx.GraphModule, name: str, value: Tensor, before: fx.Node, *, learned: bool = True
) -> fx.Node:
    """Store a tensor, as it is and without a copy, and return a get_attr node for it, inserted before `before`."""
    fresh = register_parameter(module, name, value, learned=learned)
    with module.graph.inserting_before(before):
        node = module.graph.get_attr(fresh)
    node.meta["val"] = torch.empty_like(value, device="meta")
    return node


def add_parameter(module: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
    """Store a tensor in contiguous memory and return a get_attr node for it, inserted before `before`."""
    return store_parameter(module, name, value.contiguous(), before)


def replace_parameter(module: fx.GraphModule, node: fx.Node, place: int, name: str, value: Tensor) -> None:
    """Let a node read a new tensor of the old one's shape and dtype: whoever shares the old one keeps it."""
    old = node.args[place]
    assert isinstance(old, fx.Node)
    fresh = add_parameter(module, name, value, node)
    fresh.meta["val"] = old.meta.get("val")
    node.update_arg(place, fresh)


def has_stored_weights(node: fx.Node) -> bool:
    """Whether weight and bias of a linear or convolution are stored and not computed."""
    weights = (arg for arg in node.args[1:3] if arg is not None)
    return all(isinstance(arg, fx.Node) and arg.op == "get_attr" for arg in weights)
