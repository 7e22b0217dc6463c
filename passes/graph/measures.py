"""What a graph costs, counted on the graph: parameters, operators, matrix products on the critical path."""

from __future__ import annotations

from collections import Counter

from torch import fx

from passes.graph.operators import gemms
from passes.graph.parameters import read_parameter


def critical_gemms(module: fx.GraphModule) -> int:
    """The most matrix products that must wait for each other (an attention counts two)."""
    longest: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        waiting = max((longest[source] for source in node.all_input_nodes), default=0)
        longest[node] = waiting + gemms(node)
    return max(longest.values(), default=0)


def parameter_count(module: fx.GraphModule) -> int:
    """Stored values that the graph reads, a shared tensor counted once."""
    targets = {str(node.target): node for node in module.graph.nodes if node.op == "get_attr"}
    tensors = {tensor.data_ptr(): tensor for tensor in (read_parameter(module, node) for node in targets.values())}
    return sum(tensor.numel() for tensor in tensors.values())


def operator_counts(module: fx.GraphModule) -> dict[str, int]:
    """How often each operator is called, the most frequent first."""
    names = Counter(str(node.target) for node in module.graph.nodes if node.op == "call_function")
    return dict(names.most_common())
