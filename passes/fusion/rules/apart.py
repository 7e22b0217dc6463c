"""What a branch computes by operators without a wide form: branch by branch, between operators that are wide.

    wide linear  ->  cut  ->  sinh of each branch  ->  concatenate  ->  wide linear

Cases:
    1. an operator without a rule, or whose rule finds no place for the branches; it may have several results;
    2. such operators in a row: nothing is put together between them.

Refused, each with its reason: random values, and operators whose body or result size only the data tell. Whether enough
is left that runs once for all branches is another question (passes/fusion/gain.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from passes.fusion.emitter import Emitter
from passes.fusion.layout import Apart, CannotLiftError, Lifted, Shared, Stored, Wide
from passes.fusion.relayout import cut, materialised
from passes.fusion.rule import Env, shape_of
from passes.graph import operators as ops
from passes.graph.dataflow import tensors_of

aten = ops.aten


def no_wide_form(node: fx.Node) -> CannotLiftError:
    """The sentence for an operator without a rule."""
    if node.target in ops.RECURRENCES:
        return CannotLiftError(f"{node.name} ({node.target}) is a recurrence, which has no wide form")
    return CannotLiftError(f"{node.name} is {node.target}, for which no wide form is known")


def run_apart(emitter: Emitter, node: fx.Node, env: Env, reason: CannotLiftError) -> Apart:
    """Apply the operator of `node` to each branch.

    Raises:
        CannotLiftError: `reason`, or that only the data tell the sizes of the results, which may differ.
    """
    if node.op != "call_function" or ops.is_random(node):
        raise reason
    if any(free_unbacked_symbols(value) for value in tensors_of(node)):
        raise CannotLiftError(f"{node.name} ({node.target}) has a size that only the data tell")
    inputs = {source: each_branch(emitter, source, env[source]) for source in node.all_input_nodes}
    results = []
    for branch in range(emitter.count):
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n, b=branch: inputs[n][b])  # type: ignore[misc]
        results.append(emitter.emit(node.target, args, kwargs))
    emitter.apart[node] = reason
    return Apart(tuple(results))


def each_branch(emitter: Emitter, source: fx.Node, value: Lifted) -> Sequence[fx.Node]:
    """One node for each branch."""
    if isinstance(value, Shared):
        return [value.node] * emitter.count
    if isinstance(value, Apart):
        return value.nodes
    if isinstance(value, Stored):
        return emitter.column(source)
    value = materialised(emitter, value, source, shape_of(source))
    if isinstance(value, Shared):
        return [value.node] * emitter.count
    if not isinstance(value, Wide):
        raise CannotLiftError(f"{source.name} ({source.target}) is read whole, which the branches hold in pieces")
    return cut(emitter, value)
