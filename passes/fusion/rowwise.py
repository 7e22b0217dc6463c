"""Operators that compute every row of a tensor, or every value, from the row in the same place of another.

A view that changes only leading dimensions may stand on either side of such an operator.
"""

from __future__ import annotations

from typing import cast

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value
from passes.graph.view_nodes import sizes_of

aten = ops.aten

ALONG = frozenset({aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default})


def is_rowwise(node: fx.Node) -> bool:
    """Whether a node is pointwise, or a norm over the last dimensions."""
    if node.op != "call_function" or tensor_value(node) is None or ops.is_random(node):
        return False
    if node.target in ops.COPIES or node.kwargs.get("memory_format") is not None:
        return False
    return node.target in ops.ROW_NORMS or ops.is_pointwise(node)


def row_rank(node: fx.Node) -> int:
    """How many of the last dimensions one row has: those over which a norm is taken; none of a pointwise operator."""
    return len(cast("list[int]", node.args[1])) if node.target in ops.ROW_NORMS else 0


def operands(node: fx.Node) -> list[fx.Node]:
    """The tensors that a node reads."""
    return [source for source in node.all_input_nodes if tensor_value(source) is not None]


def trailing_of(node: fx.Node, source: fx.Node) -> int | None:
    """How many last dimensions a view of `source` ahead of `node` must leave as they are.

    None where the operator is not row by row, or its result has leading dimensions that `source` has not.
    """
    if not is_rowwise(node) or sizes_of(node) != sizes_of(source):
        return None
    if node.target in ops.ROW_NORMS and node.args[0] is not source:
        return None
    return max([row_rank(node), *(len(sizes_of(other)) for other in operands(node) if other is not source)])
