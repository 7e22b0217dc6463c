"""Cut a piece out of a graph: given these values, compute those.

    extract(module, given=[x, y], wanted=[f, g])  is a module  (x, y) -> (f, g)

Only what `wanted` needs beyond `given` is computed. Parameters are shared with the source and cost no memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from passes.errors import PassError
from passes.graph.dataflow import canonical_walk


def extract(module: fx.GraphModule, given: Sequence[fx.Node], wanted: Sequence[fx.Node]) -> fx.GraphModule:
    """Cut out the computation of `wanted` from `given`.

    Args:
        module: the graph the nodes are of.
        given: nodes whose values the caller hands in, in this order; of a node named twice the last value counts.
        wanted: nodes whose values come back, as a tuple in this order.

    Raises:
        PassError: `wanted` needs an input of the model that is not among `given`.
    """
    known = set(given)
    graph = fx.Graph()
    value: dict[fx.Node, fx.Node] = {}
    for node in given:
        value[node] = graph.placeholder(f"{node.name}_last" if node in value else node.name)
        value[node].meta = dict(node.meta)
    for target in wanted:
        for node in canonical_walk(target, lambda n: n not in known and n not in value):
            if node in value:
                continue
            if node.op == "placeholder":
                raise PassError(f"The segment needs the input {node.name}.", "Hand it in among the given nodes.")
            value[node] = graph.node_copy(node, value.__getitem__)
    graph.output(tuple(value[node] for node in wanted))
    return fx.GraphModule(module, graph)
