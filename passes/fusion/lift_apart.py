"""What a branch computes by operators without a wide form: branch by branch, between operators that are wide.

    wide linear  ->  cut  ->  sinh of each branch  ->  concatenate  ->  wide linear

Cases:
    1. an operator without a rule, or whose rule finds no place for the branches; it may have several results;
    2. such operators in a row: nothing is put together between them.

Refused, each with its reason: random values, operators whose body or result size only the data tell, and branches that
would run no fewer operators than before, such as a recurrence alone, or norms of values that are put together first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from passes.fusion.contraction import Contraction, Part
from passes.fusion.emitter import Emitter
from passes.fusion.layout import Apart, CannotLiftError, Lifted, Shared, Stored, Wide
from passes.fusion.lift_shapes import Env, shape_of
from passes.fusion.relayout import cut, materialised
from passes.graph import operators as ops
from passes.graph.dataflow import tensors_of

aten = ops.aten

# Of these, none computes or copies anything in a graph that is compiled.
_FREE = ops.VIEWS | ops.REARRANGEMENTS | {aten.expand.default, ops.GETITEM, ops.MULTIPLY}


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


def refuse_without_gain(emitter: Emitter, results: Sequence[Lifted | Part], sides: Sequence[fx.Node]) -> None:
    """Refuse branches that would run neither fewer products, nor fewer norms and fewer operators in all.

    Raises:
        CannotLiftError: why the first operator runs in each branch by itself.
    """
    inner = [node for node in emitter.branches.lists[0] if node in emitter.branches.inner]
    if not emitter.apart and _products(inner):
        return
    parts = [result for result in results if isinstance(result, Part)]
    products = sum(isinstance(part, Contraction) for part in parts)
    if _products(emitter.created) + products < emitter.count * _products(inner):
        return
    fewer_norms = _norms(emitter.created) < emitter.count * _norms(inner)
    cost = _costs(emitter.created) + emitter.moves + products + len(parts)
    saves = cost < emitter.count * (_costs(inner) + len(parts))
    if not emitter.apart and (sides or not saves):  # to put values together costs as much as what runs on them
        raise CannotLiftError(f"{inner[-1].name} holds no matrix product, and side by side nothing runs less often")
    if emitter.apart and not (fewer_norms and saves):
        raise next(iter(emitter.apart.values()))


def _products(nodes: Iterable[fx.Node]) -> int:
    return sum(ops.gemms(node) for node in nodes)


def _norms(nodes: Iterable[fx.Node]) -> int:
    return sum(node.target in ops.NORMS for node in nodes)


def _costs(nodes: Iterable[fx.Node]) -> int:
    return sum(node.op == "call_function" and node.target not in _FREE for node in nodes)
