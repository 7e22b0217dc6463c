"""What a graph returns, flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree


def flat_leaves(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes that the graph's output returns, flattened."""
    output = next(node for node in reversed(module.graph.nodes) if node.op == "output")
    return [leaf for leaf in pytree.tree_leaves(output.args) if isinstance(leaf, fx.Node)]


def flat_outputs(module: fx.GraphModule, inputs: Sequence[Any]) -> list[Tensor]:
    """Run the graph on flat inputs; the tensors of its output in order."""
    with torch.no_grad():
        outputs = fx.Interpreter(module).run(*inputs, enable_io_processing=False)
    return [leaf.detach() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
