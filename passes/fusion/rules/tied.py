"""Rules for operators whose parameters the branches have in common, on private inputs: one operator on more samples.

    W x_1 + b, .., W x_N + b   ->   W [x_1; ..; x_N] + b

No weight is stored N times, as a batched product would need it. So a head that is read by several states, or an encoder
that reads several inputs, costs the weights of one.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import Normed, Shared, Wide
from passes.fusion.relayout import avoiding
from passes.fusion.rule import Env, again, operand, shape_of, wide_operand


def is_tied(node: fx.Node, env: Env) -> bool:
    """Whether an operator reads a value of each branch, and beside it stored values that all branches share."""
    source, *others = node.all_input_nodes
    value = env[source]
    private = isinstance(value.value if isinstance(value, Normed) else value, Wide)
    return private and bool(others) and all(_is_stored(env, other) for other in others)


def _is_stored(env: Env, node: fx.Node) -> bool:
    value = env[node]
    return isinstance(value, Shared) and value.node.op == "get_attr"


def on_more_samples(emitter: Emitter, node: fx.Node, env: Env, dims: Collection[int]) -> Wide:
    """The operator once, on all branches.

    Args:
        emitter: of the branches.
        node: the operator in branch 0.
        env: what was lifted.
        dims: dimensions of its input on which it acts, counted from the left or the right, where no branches may lie.
    """
    rank = len(shape_of(operand(node)))
    value = avoiding(emitter, wide_operand(emitter, node, env), {dim % rank for dim in dims}, node)
    return again(emitter, node, value, env)
