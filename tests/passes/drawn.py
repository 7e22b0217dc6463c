"""Graphs of plain functions, drawn operator by operator in milliseconds, for tests of what reads or edits them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from passes.graph.editing import clone


def drawn(forward: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    """The ATen graph of a function with all sizes fixed; tensors and parameters that it closes over are stored.

    Args:
        forward: takes the inputs, returns a tensor or several.
        inputs: examples of them.
    """
    draw = make_fx(forward, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)
    return clone(draw(*inputs))  # whose code is made when it is first called, after all edits


def result(graph: fx.GraphModule) -> fx.Node:
    """What a graph returns, where that is one value."""
    (node,) = returned(graph)
    return node


def returned(graph: fx.GraphModule) -> list[fx.Node]:
    """What a graph returns."""
    return graph.graph.output_node().all_input_nodes


def inputs_of(graph: fx.GraphModule) -> list[fx.Node]:
    """The inputs of a graph, in order."""
    return list(graph.graph.find_nodes(op="placeholder"))


def calls(graph: fx.GraphModule, *targets: object) -> list[fx.Node]:
    """The nodes that call one of some operators, in order."""
    return [node for node in graph.graph.nodes if node.target in targets]
