"""A graph on another device, with all that it holds and makes."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx


def on_device(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """The module with its tensors on `device`, detached; the tensors that a captured graph makes are made there too."""
    targets = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    attributes = {target: _placed(operator.attrgetter(target)(module), device) for target in targets}
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        made = copied[node] = graph.node_copy(node, copied.__getitem__)
        if node.op == "call_function":
            made.args, made.kwargs = fx.node.map_aggregate(
                (made.args, made.kwargs), lambda value: device if isinstance(value, torch.device) else value
            )
    return fx.GraphModule(attributes, graph)


def held(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor that is not trained, on `device`; copied only where it must be."""
    return tensor.detach().to(device, copy=tensor.is_inference())


def _placed(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return held(value, device)
    return copy.deepcopy(value).to(device) if isinstance(value, torch.nn.Module) else value
