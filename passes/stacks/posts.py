"""What follows a residual add up to the state that the next term reads: a norm or an activation, whole or written out.

    y = x + f(x)        state = w * (y * rsqrt(mean(y^2) + eps))        state = y / (|y| + eps)

A **path** is every node that is computed from the sum, up to one through which all goes on: its nodes read the sum, one
another and stored values alone, and none but the last is read elsewhere. So the term is N(x + f(x)) - x whatever N is,
and N need follow no pattern.

Handled: norms, pointwise operators, reductions, softmaxes, views and changes of the axes' order, in any arrangement.
Refused, with the operator's name (`obstacle`): any other operator, what reads a computed value beside the sum, and what
is read elsewhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import is_stored, tensor_inputs, value_users

aten = ops.aten

_REORDERS = frozenset({aten.permute.default, aten.transpose.int})
_MORE = frozenset(
    {
        aten.dropout.default,  # a captured dropout does nothing
        aten.instance_norm.default,
        aten.linalg_vector_norm.default,
        aten.expand.default,
        aten.expand_as.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.var.dim,
        aten.std.dim,
        aten.std.correction,
    }
)
_POSTS = ops.NORMS | ops.ELEMENTWISE | ops.VIEWS | ops.REDUCTIONS | ops.SOFTMAXES | _REORDERS | _MORE


def paths_after(total: fx.Node) -> Iterator[tuple[fx.Node, ...]]:
    """Every path that begins at a sum, the shortest first, each in execution order."""
    path: list[fx.Node] = []
    for node, reason, alone in _steps(total):
        if reason is not None:
            return
        path.append(node)
        if alone:
            yield tuple(path)


def obstacle(total: fx.Node, state: fx.Node) -> tuple[fx.Node, str] | None:
    """The first node because of which no path leads from a sum to a state, and why; None where one does."""
    inside = {total}
    for node, reason, alone in _steps(total):
        if state not in inside and reason is not None:
            return node, f"{node.name} ({node.target}) between {total.name} and {state.name}, the next state, {reason}"
        if node is state and alone:
            return None
        left = next((s for s in tensor_inputs(node) if s in inside and s is not state), None)
        if state in inside and left is not None:
            return left, f"{left.name} before {state.name}, the next state, is also read by {node.name}"
        if state not in inside:
            inside.add(node)
    return None


def _steps(total: fx.Node) -> Iterator[tuple[fx.Node, str | None, bool]]:
    """Each node computed from a sum, in execution order: why it is on no path, and whether all goes through it."""
    inside = {total}
    waiting = list(dict.fromkeys(value_users(total)))
    heapq.heapify(waiting)
    while waiting:
        node = heapq.heappop(waiting)
        yield node, _why_not(node, inside), not waiting
        inside.add(node)
        for user in value_users(node):
            if user not in waiting:
                heapq.heappush(waiting, user)


def _why_not(node: fx.Node, inside: set[fx.Node]) -> str | None:
    """Why a node is on no path, as the end of a sentence."""
    if node.target not in _POSTS and not ops.is_pointwise(node):
        return "is no norm or activation"
    for source in tensor_inputs(node):
        if source not in inside and not is_stored(source):
            return f"also reads {source.name}, which is no parameter"
    return None
