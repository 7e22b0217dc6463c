"""What a list of summands comes to, computed eagerly: the independent reference for how sums are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from passes.stacks.summands import Call, Summand


def values_of(graph: fx.GraphModule, *inputs: Tensor) -> dict[fx.Node, Any]:
    """The value of every node on some inputs."""
    values: dict[fx.Node, Any] = {}

    class Kept(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            values[node] = super().run_node(node)
            return values[node]

    Kept(graph).run(*inputs)
    return values


def sum_of(summands: Iterable[Summand], values: dict[fx.Node, Any]) -> Tensor:
    """The summands added up."""
    total = torch.zeros((), dtype=torch.float64)
    for summand in summands:
        product = _value(summand.value, values)
        for factor in summand.factors:
            value = _value(factor.value, values)
            product = product / value if factor.inverse else product * value
        total = total + product
    return total


def _value(part: object, values: dict[fx.Node, Any]) -> Any:
    if isinstance(part, fx.Node):
        return values[part]
    if isinstance(part, Call):
        return part.target(*(_value(arg, values) for arg in part.args))
    return [_value(one, values) for one in part] if isinstance(part, (list, tuple)) else part
