"""A student of which each rank of a row has its branches, with their weights alone.

What is trained is chosen in the whole graph, so that all ranks number it the same; a rank trains what its part reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parallelize.healing.weights import Weight
from parallelize.models.of_rank import spread_module
from parallelize.refitting.records import Refitted
from passes.graph.editing import clone
from passes.spread.spread_branches import SpreadBranches

_END = "end of a healing"


def spread_student(
    refitted: Refitted, weights: Sequence[Weight], rank: int, size: int, group: str
) -> tuple[Refitted, tuple[Weight, ...]]:
    """The part of one rank, and its weights.

    Args:
        refitted: the rewrite; it is not changed.
        weights: that are trained in it.
        rank: of the row.
        size: ranks in the row.
        group: name of their process group.

    Raises:
        ParallelizeError: no level has a branch for each rank.
    """
    marked = clone(refitted.module)
    by_name = {node.name: node for node in marked.graph.nodes}
    for ours, _ in refitted.ends:
        by_name[ours].meta[_END] = ours
    module, _ = spread_module(marked, SpreadBranches(rank, size, group, trains=True), fuses=False)
    there = {node.name: node for node in module.graph.nodes}
    ends = {node.meta[_END]: node.name for node in module.graph.nodes if _END in node.meta}
    own = [(weight, [there[node.name] for node in weight.nodes if node.name in there]) for weight in weights]
    return (
        replace(refitted, module=module, ends=tuple((ends[ours], theirs) for ours, theirs in refitted.ends)),
        tuple(replace(weight, nodes=tuple(nodes)) for weight, nodes in own if nodes),
    )
