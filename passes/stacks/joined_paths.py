"""Adds of two paths that part at one state, where neither path is the state itself: g(x) + f(x).

Two cases, each with its sentence:
    1. one path is affine, as the 1x1 convolution where a ResNet changes the number of channels: a skip path that maps
       the state, so that the block begins another state and no term on the old one;
    2. no path is affine: branches that run side by side already, such as those of a Para-Former or an ensemble.

A sum of more than two paths is told once, at its last add. Adds without a matrix product or convolution on either path
(masks, rotary tables) and adds of paths that share token numbers only (embeddings) are no such adds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import descendants, positions, region_between, same_shape, tensor_inputs, tensor_value
from passes.stacks.terms import Refusal

_LINEAR_MAPS = (
    ops.ADDS
    | ops.COPIES
    | {
        ops.aten.sub.Tensor,
        ops.aten.mul.Tensor,
        ops.aten.div.Tensor,
        ops.aten.neg.default,
        ops.aten.to.dtype,
        ops.aten._to_copy.default,
    }
)
_NONLINEAR = (ops.ELEMENTWISE | ops.SOFTMAXES | {ops.ATTENTION}) - _LINEAR_MAPS

Operands = tuple[fx.Node, fx.Node]


def joined_paths(graph: fx.Graph, adds: Iterable[tuple[fx.Node, Operands]]) -> list[Refusal]:
    """Say of each add in `adds` whose operands part at one state why it is no term.

    Args:
        graph: the graph of the adds.
        adds: adds that are no residual adds and not inside a term, with their operands, in execution order.
    """
    place = positions(graph)
    data = descendants(node for node in graph.nodes if node.op == "placeholder")
    parted = {node: (operands, state) for node, operands in adds if (state := _state(operands, place, data))}
    return [
        Refusal(node.name, _reason(node, _summands(node, parted), state, place))
        for node, (_, state) in parted.items()
        if not _is_inside_sum(node, parted)
    ]


def _state(operands: Operands, place: dict[fx.Node, int], data: Collection[fx.Node]) -> fx.Node | None:
    """The last tensor that both operands are computed from, or None where it is no state."""
    left, right = (_ancestors(operand) for operand in operands)
    common = [node for node in left & right if node in data and _is_float(node)]
    if not common:
        return None
    state = max(common, key=place.__getitem__)
    paths = [region_between(state, operand, place) for operand in operands]
    has_product = any(ops.gemms(node) for path in paths for node in path)
    return state if all(paths) and has_product else None


def _is_float(node: fx.Node) -> bool:
    value = tensor_value(node)
    return value is not None and value.is_floating_point()


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and everything whose tensors it is computed from."""
    found = {node}
    pending = [node]
    while pending:
        fresh = [source for source in tensor_inputs(pending.pop()) if source not in found]
        found.update(fresh)
        pending.extend(fresh)
    return found


def _is_inside_sum(node: fx.Node, parted: Collection[fx.Node]) -> bool:
    users = list(node.users)
    return len(users) == 1 and users[0] in parted


def _summands(root: fx.Node, parted: Mapping[fx.Node, tuple[Operands, fx.Node]]) -> list[fx.Node]:
    """The paths that a tree of such adds joins."""
    found: list[fx.Node] = []
    pending = [root]
    while pending:
        node = pending.pop()
        if node is root or (node in parted and _is_inside_sum(node, parted)):
            pending.extend(reversed(parted[node][0]))
        else:
            found.append(node)
    return found


def _reason(add: fx.Node, summands: Sequence[fx.Node], state: fx.Node, place: dict[fx.Node, int]) -> str:
    paths = [region_between(state, summand, place) for summand in summands]
    affine = [path for path in paths if path and not any(node.target in _NONLINEAR for node in path)]
    if not affine:
        return f"{add.name} is a sum of {len(summands)} branches that all read {state.name}: they are parallel already"
    skip = min(affine, key=len)
    mapped = next((node for node in reversed(skip) if ops.gemms(node)), skip[-1])
    before, after = tensor_value(state), tensor_value(add)
    unchanged = before is not None and after is not None and same_shape(before, after)
    result = "no term leaves the state as it is" if unchanged else "the block changes the state and ends the stack"
    return f"the skip path of {add.name} is not the state {state.name} but {mapped.name} ({_what(mapped)}), so {result}"


def _what(node: fx.Node) -> str:
    """Such as "1x1 convolution from 16x16x16 to 32x8x8"."""
    source = node.args[0] if node.args else None
    before = tensor_value(source) if isinstance(source, fx.Node) else None
    after = tensor_value(node)
    if before is None or after is None:
        return str(node.target)
    first = 1 if node.target in ops.CONVOLUTIONS else -1
    return f"{_name(node)} from {_sizes(before.shape[first:])} to {_sizes(after.shape[first:])}"


def _name(node: fx.Node) -> str:
    if node.target in ops.LINEARS:
        return "linear layer"
    weight = node.args[1] if node.target in ops.CONVOLUTIONS else None
    value = tensor_value(weight) if isinstance(weight, fx.Node) else None
    return str(node.target) if value is None else f"{_sizes(value.shape[2:])} convolution"


def _sizes(sizes: Iterable[int | torch.SymInt]) -> str:
    return "x".join(map(str, sizes))
