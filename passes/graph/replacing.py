"""Put other operators in the place of one node, with sizes as numbers or as nodes.

A size that is known only when the model runs is read from an input of the graph that has it, so that no tensor is read
for its shape alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from passes.graph.dataflow import tensor_value
from passes.graph.operators import aten
from passes.graph.shapes import complete_shapes

_PLACE = ("nn_module_stack", "stack_trace")  # where in the user's model a node comes from


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an ATen operator by name, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    values: dict[str, Any] = {}
    for place, argument in enumerate(node.target._schema.arguments):
        is_positional = place < len(node.args) and not argument.kwarg_only
        values[argument.name] = (
            node.args[place] if is_positional else node.kwargs.get(argument.name, argument.default_value)
        )
    return values


def rank_of(node: fx.Node) -> int:
    """The number of dimensions of a node's tensor."""
    value = tensor_value(node)
    assert value is not None
    return value.ndim


def size_texts(node: fx.Node) -> list[str]:
    """The sizes of a node's tensor as text: comparing free sizes themselves would fix them."""
    value = tensor_value(node)
    assert value is not None
    return [str(size) for size in value.shape]


class Replacing:
    """Inserts operators before `node`, their example values known at once."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        self.module, self.node = module, node

    def emit(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Insert an operator."""
        with self.module.graph.inserting_before(self.node):
            new = self.module.graph.call_function(target, args, kwargs)
        new.meta.update({key: self.node.meta[key] for key in _PLACE if key in self.node.meta})
        complete_shapes(self.module, [new])
        return new

    def size(self, source: fx.Node, dim: int) -> int | fx.Node:
        """A size of a node's tensor as an argument of another operator."""
        value = tensor_value(source)
        assert value is not None
        size = value.shape[dim]
        if isinstance(size, int):
            return size
        for node in self.module.graph.find_nodes(op="placeholder"):
            held = tensor_value(node)
            shape: Sequence[Any] = () if held is None else held.shape
            place = next((i for i, other in enumerate(shape) if str(other) == str(size)), None)
            if place is not None:
                return self._read(node, place)
        return self.emit(aten.sym_size.int, source, dim % value.ndim)

    def _read(self, source: fx.Node, dim: int) -> fx.Node:
        """A size of an input, by the operator that reads it already where there is one."""
        for reader in source.users:
            if reader.target == aten.sym_size.int and reader.args[1] == dim and reader < self.node:
                return reader
        return self.emit(aten.sym_size.int, source, dim)

    def sizes(self, source: fx.Node) -> list[int | fx.Node]:
        """All sizes of a node's tensor as arguments of another operator."""
        return [self.size(source, dim) for dim in range(rank_of(source))]

    def permuted(self, source: fx.Node, order: Sequence[int]) -> fx.Node:
        """The dimensions in another order; one exchange of two is a transposition."""
        moved = [dim for dim, place in enumerate(order) if dim != place]
        if not moved:
            return source
        if len(moved) == 2:
            return self.emit(aten.transpose.int, source, *moved)
        return self.emit(aten.permute.default, source, list(order))

    def replace(self, new: fx.Node) -> None:
        """Let all readers read `new`, and erase the node."""
        self.node.replace_all_uses_with(new)
        self.module.graph.erase_node(self.node)
