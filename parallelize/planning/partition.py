"""The cheapest split of blocks into groups, for every number of groups, where the costs of groups add up.

best[j][D] = min over i of best[i][D-1] + cost(i..j-1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parallelize.planning.forms import Span
from parallelize.planning.shared_depth import share_depth
from passes.stacks.stack_graph import StackGraph

Groups = tuple[Span, ...]
Partition = tuple[float, tuple[Groups, ...]]  # sum of the costs, and the groups of each stack


def shared_partitions(graph: StackGraph, costs: Sequence[Mapping[Span, float]]) -> dict[int, Partition]:
    """For every depth of the whole the cheapest groups of each stack.

    Args:
        graph: the stacks.
        costs: for each stack those of the groups that are allowed.
    """
    pairs = zip(graph.stacks, costs, strict=True)
    return share_depth(graph.order, [best_partitions(len(stack.blocks), each) for stack, each in pairs])


def best_partitions(count: int, costs: Mapping[Span, float]) -> dict[int, tuple[float, Groups]]:
    """The cheapest split of blocks 0..count-1 into D intervals, for every D that has one.

    Args:
        count: blocks.
        costs: of the intervals that are allowed, by first and last block.
    """
    best: list[dict[int, tuple[float, Groups]]] = [{0: (0.0, ())}]
    for stop in range(1, count + 1):
        row: dict[int, tuple[float, Groups]] = {}
        for start in range(stop):
            cost = costs.get((start, stop - 1))
            if cost is None:
                continue
            for depth, (before, groups) in best[start].items():
                total = before + cost
                if depth + 1 not in row or total < row[depth + 1][0]:
                    row[depth + 1] = (total, (*groups, (start, stop - 1)))
        best.append(row)
    return best[count]
