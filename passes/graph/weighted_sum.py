"""A sum of values times numbers, in as few operators as it takes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from passes.graph import operators as ops
from passes.graph.operators import aten


def weighted_sum(module: fx.GraphModule, terms: Iterable[tuple[fx.Node, float]]) -> fx.Node:
    """Insert the sum of values times factors where the graph inserts.

    Args:
        module: the graph.
        terms: values with factors; what is times zero is left out, and what is times one is added first.
    """
    call = module.graph.call_function
    ordered = sorted((term for term in terms if term[1]), key=lambda term: term[1] != 1)
    (first, factor), *rest = ordered
    total = first if factor == 1 else call(aten.mul.Tensor, (first, factor))
    for value, factor in rest:
        if abs(factor) == 1:
            total = call(ops.ADD if factor == 1 else aten.sub.Tensor, (total, value))
        else:
            total = call(ops.ADD, (total, call(aten.mul.Tensor, (value, factor))))
    return total
