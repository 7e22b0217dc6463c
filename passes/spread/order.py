"""Collectives of a rank in the order of all ranks.

Which collective comes first must be the same everywhere, forwards and backwards, or a rank's sum for one level meets
another's for the next. Between levels of one stack data flow sees to it. Stacks that run side by side have no order of
their own, and what else a rank computes moves nodes about; so each collective carries its number, the same everywhere.
"""

from __future__ import annotations

import itertools

import networkx as nx
from torch import fx

from passes.graph.dataflow import positions

LEVEL = "level of ranks"  # in a node's `meta`: the number of its collective


def restore_collectives(module: fx.GraphModule) -> None:
    """Sort the nodes so that collectives run by their numbers, and each node after what it reads, otherwise as is."""
    place = positions(module.graph)
    numbered = [node for node in module.graph.nodes if LEVEL in node.meta]
    kinds: dict[object, list[fx.Node]] = {}
    for node in sorted(numbered, key=lambda node: node.meta[LEVEL]):
        kinds.setdefault(node.target, []).append(node)
    pairs = [pair for kind in kinds.values() for pair in itertools.pairwise(kind)]
    if all(place[before] < place[after] for before, after in pairs):
        return
    order = nx.DiGraph()
    order.add_nodes_from(module.graph.nodes)
    order.add_edges_from((source, node) for node in module.graph.nodes for source in node.all_input_nodes)
    order.add_edges_from(pairs)
    previous, *rest = nx.lexicographical_topological_sort(order, key=place.__getitem__)
    first = next(iter(module.graph.nodes))
    if previous is not first:
        first.prepend(previous)
    for node in rest:
        previous.append(node)
        previous = node
