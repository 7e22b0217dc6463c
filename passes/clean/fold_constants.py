"""Compute once what depends on parameters alone.

    1 + gain,  g * v / |v|  (weight norm),  table[index]  (relative position bias)    ->   a stored parameter

Cases: every operator whose inputs are parameters, buffers or numbers; of several results (`chunk` of a packed
in-projection, `unbind`, `var_mean`) each that is read is stored. Views of a parameter stay views of its memory. What
depends on no parameter becomes a buffer, so that nothing trains it.
Refused, each with its reason: random values, what is no tensor, and results of more than `limit` values that are no
views, which would make a file large for what is quickly computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from passes.graph.dataflow import carries_tensors, tensor_value, tensors_of
from passes.graph.operators import GETITEM, is_random, writes_in_place
from passes.graph.parameters import is_learned, read_parameter, store_parameter
from passes.runner import Pass, PassResult, Skip, Stage


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute what depends on parameters alone, such as weight norms and tables of position biases."""

    limit: int = 1 << 24
    name: ClassVar[str] = "fold-constants"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("normalize-adds",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        constants: dict[fx.Node, Any] = {}
        learned: set[fx.Node] = set()
        skipped: list[Skip] = []
        for node in module.graph.nodes:
            if node.op == "get_attr" and tensor_value(node) is not None:
                constants[node] = read_parameter(module, node)
                learned.update([node] if is_learned(module, node) else [])
            elif _is_constant(node, constants):
                reason = self._why_not(node)
                if reason is not None:
                    skipped.append(Skip(node.name, reason))
                    continue
                args, kwargs = fx.map_arg((node.args, node.kwargs), constants.__getitem__)
                with torch.no_grad():
                    constants[node] = node.target(*args, **kwargs)
                learned.update([node] if learned.intersection(node.all_input_nodes) else [])
        last = [node for node in constants if node.op != "get_attr" and _is_last(node, constants)]
        for node in last:
            stored = store_parameter(module, "constant", constants[node], node, learned=node in learned)
            stored.meta.update({key: node.meta[key] for key in ("val", "nn_module_stack") if key in node.meta})
            node.replace_all_uses_with(stored)
        return PassResult(tuple(node.name for node in last), tuple(skipped))

    def _why_not(self, node: fx.Node) -> str | None:
        if is_random(node):
            return f"{node.name} ({node.target}) draws random values"
        if tensor_value(node) is None and not _gives_pieces(node):
            return f"{node.name} ({node.target}) gives no tensor"
        size = sum(value.numel() for value in tensors_of(node))
        if size > self.limit and not _is_view(node):
            return f"{node.name} has {size} values, more than {self.limit}"
        return None


def _is_constant(node: fx.Node, constants: dict[fx.Node, Any]) -> bool:
    if node.target == GETITEM:
        return node.args[0] in constants
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if writes_in_place(node):
        return False
    if not all(isinstance(size, int) for value in tensors_of(node) for size in value.shape):
        return False
    return bool(node.all_input_nodes) and all(source in constants for source in node.all_input_nodes)


def _gives_pieces(node: fx.Node) -> bool:
    """Whether a node gives several tensors, and is read only where one of them is taken."""
    return carries_tensors(node) and all(user.target == GETITEM for user in node.users)


def _is_view(node: fx.Node) -> bool:
    """Whether what a node gives lies in the memory of what it reads, and no value twice."""
    if node.target == GETITEM:
        return True
    assert isinstance(node.target, torch._ops.OpOverload)
    before = sum(value.numel() for source in node.all_input_nodes for value in tensors_of(source))
    after = sum(value.numel() for value in tensors_of(node))
    return after <= before and all(result.alias_info is not None for result in node.target._schema.returns)


def _is_last(node: fx.Node, constants: dict[fx.Node, Any]) -> bool:
    """Whether something that is no constant reads the node."""
    return any(user not in constants for user in node.users)
