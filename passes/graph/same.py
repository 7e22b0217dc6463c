"""When two graphs are the same, node by node, and so compute the same without being run."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from passes.graph.equal_calls import key_of


def is_same(first: fx.GraphModule, second: fx.GraphModule) -> bool:
    """Whether both call the same operators on the same values in the same order, and read the very same tensors."""
    if len(first.graph.nodes) != len(second.graph.nodes):
        return False
    places: tuple[dict[fx.Node, str], dict[fx.Node, str]] = ({}, {})
    for number, pair in enumerate(zip(first.graph.nodes, second.graph.nodes, strict=True)):
        keys = [_key(node, module, known) for node, module, known in zip(pair, (first, second), places, strict=True)]
        if keys[0] != keys[1]:
            return False
        for node, known in zip(pair, places, strict=True):
            known[node] = f"%{number}"
    return True


def _key(node: fx.Node, module: fx.GraphModule, places: dict[fx.Node, str]) -> Any:
    target = id(operator.attrgetter(str(node.target))(module)) if node.op == "get_attr" else node.target
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), places.__getitem__)
    return key_of((node.op, target), args, kwargs)
