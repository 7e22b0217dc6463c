"""Nothing is left out in silence: every residual sum of a graph is in a term, a term, or refused with its reason.

    sums present  =  sums in terms  +  sums refused and what their terms hold

A residual sum has two float operands of its shape, one of which is computed from the other. The sums are looked for
here by what an operator computes, apart from how stacks are found, so that one checks the other.

Not counted: operators written out in their elements, such as x + 0.04 x^3 in a GELU or a norm's x - mean(x); and what
terms have added, x + f(x) - x, whose sums are counted themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import is_float, positions, region_between, same_shape, tensor_value
from passes.stacks.find import Stacks, find_stacks
from passes.stacks.residual_adds import ResidualAdd, is_difference, residual_adds

aten = ops.aten

_SUMS = ops.ADDS | {
    aten.sub.Tensor,
    operator.sub,
    aten.rsub.Tensor,
    aten.lerp.Scalar,
    aten.lerp.Tensor,
    aten.addcmul.default,
    aten.addcdiv.default,
    aten.baddbmm.default,
    aten.addmm.default,
}


def unaccounted(module: fx.GraphModule, stacks: Stacks | None = None) -> tuple[str, ...]:
    """The residual sums of a graph that are no term, in no term and not refused; there should be none.

    Args:
        module: ATen graph with example values in `node.meta["val"]`.
        stacks: what `find_stacks` found in it, where that is known.
    """
    found = find_stacks(module) if stacks is None else stacks
    place = positions(module.graph)
    told = _told(module.graph, found, place)
    states = {state for stack in found.stacks for term in stack.terms for state in (term.skip, term.result)}
    ends = {add.total: add.skip for add in residual_adds(module.graph, place)}
    return tuple(
        node.name
        for node, skip in _present(module.graph, place)
        if node not in told and not _is_written_out(node, skip, states, place) and not is_difference(node, skip, ends)
    )


def _told(graph: fx.Graph, found: Stacks, place: dict[fx.Node, int]) -> set[fx.Node]:
    """The nodes of all terms, and of all that was refused."""
    told: set[fx.Node] = set()
    for term in (term for stack in found.stacks for term in stack.terms):
        told.update((term.add, *term.post, *term.inner, *term.nodes))
    refused = {refusal.node for refusal in found.refused}
    for add in residual_adds(graph, place):
        if add.node.name in refused or not told.isdisjoint((add.node, *add.joins)):
            told.update(_held(add))
    told.update(node for node in graph.nodes if node.name in refused)
    return told


def _held(add: ResidualAdd) -> Iterator[fx.Node]:
    yield from (add.node, *add.joins, *add.region)
    if add.spelled is not None:
        yield from add.spelled.sums


def _present(graph: fx.Graph, place: dict[fx.Node, int]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Every sum of two float tensors of its shape, one computed from the other, with the earlier of the two."""
    for node in graph.nodes:
        total = tensor_value(node) if node.op == "call_function" and node.target in _SUMS else None
        if total is None or not is_float(node):
            continue
        values = [(source, tensor_value(source)) for source in node.all_input_nodes if source.op != "get_attr"]
        operands = [source for source, value in values if value is not None and same_shape(value, total)]
        for number, later in enumerate(sorted(operands, key=place.__getitem__)):
            earlier = sorted(operands, key=place.__getitem__)[:number]
            skip = next((source for source in earlier if region_between(source, later, place)), None)
            if skip is not None:
                yield node, skip
                break


def _is_written_out(node: fx.Node, skip: fx.Node, states: set[fx.Node], place: dict[fx.Node, int]) -> bool:
    """Whether a sum that is on no state holds elementwise operators alone."""
    region = region_between(skip, node, place)
    return {skip, node}.isdisjoint(states) and all(inner.target in ops.ELEMENTWISE for inner in region)
