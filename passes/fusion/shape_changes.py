"""Changes of shape behind a product: one that leaves the last dimension alone may as well stand before it.

    view(x W)  =  view(x) W

Others are applied to the product, once for all branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import Shared
from passes.fusion.rule import Env, number, operand, shape_of
from passes.graph import operators as ops
from passes.graph.sizes import Size

aten = ops.aten

SHAPES = ops.VIEWS | {aten.transpose.int, aten.permute.default}


def keeps_last(node: fx.Node) -> bool:
    """Whether a change of shape leaves the last dimension alone."""
    before, after = shape_of(operand(node)), shape_of(node)
    if node.target in ops.VIEWS:
        return before[-1:] == after[-1:]
    if node.target == aten.permute.default:
        return cast("list[int]", node.args[1])[-1] % len(before) == len(before) - 1
    return all(number(node, place) % len(before) != len(before) - 1 for place in (1, 2))


def carry(emitter: Emitter, node: fx.Node, features: fx.Node, width: Size, env: Env) -> fx.Node:
    """Apply a change of shape that keeps the last dimension to `features` (.., width) in place of its operand."""
    args = list(emitter.plain(node, {**env, operand(node): Shared(features)})[0])
    if node.target in ops.VIEWS:
        args[1] = [*args[1][:-1], width]
    return emitter.emit(node.target, tuple(args))


def replay(module: fx.GraphModule, tail: Sequence[fx.Node], node: fx.Node) -> fx.Node:
    """Apply the changes of shape of a tail to the result of its product."""
    for shaped in tail:
        node = module.graph.call_function(shaped.target, (node, *shaped.args[1:]))  # type: ignore[arg-type]
    return node
