"""Turn a graph that computes in fp16 or bf16 into one of fp32, so that everything is measured where a CPU can run it.

    y = half(W) half(x)    ->    y = W x        weights, inputs and outputs become fp32, and the model's casts none

The rounding of half precision goes, so the result is not the same; it comes back where the graph is cast as the last
step (`passes.precision.cast_precision`).

Cases:
    1. inputs, outputs, parameters, buffers and constants of half precision become fp32; tied weights stay tied;
    2. a dtype of half precision among the arguments of an operator becomes fp32;
    3. assertions of dtypes are dropped.

Left as it is, with the reason: a graph that reads the bits of a half-precision number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from passes.graph.dataflow import tensor_value
from passes.graph.operators import aten, gemms
from passes.graph.parameters import is_learned, read_parameter, register_parameter
from passes.runner import Pass, PassResult, Skip, Stage

_HALF = (torch.float16, torch.bfloat16)
_ASSERTION = aten._assert_tensor_metadata.default
_BITS = aten.view.dtype


@dataclass(frozen=True)
class WidenPrecision(Pass):
    """Turn a graph of fp16 or bf16 into one of fp32."""

    name: ClassVar[str] = "widen-precision"
    exact: ClassVar[bool] = False
    stage: ClassVar[Stage] = "widen"

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        halves = [node for node in module.graph.nodes if _is_half(node)]
        bits = [node for node in module.graph.nodes if node.target is _BITS]
        bits = [node for node in bits if any(map(_is_half, (node, *node.all_input_nodes)))]
        if bits:
            return PassResult((), tuple(Skip(node.name, f"{node.name} reads the bits of its input") for node in bits))
        stored: dict[object, str] = {}
        for node in halves:
            if node.op == "get_attr":
                node.target = _widened(module, node, stored)
            elif node.op == "placeholder":
                node.meta["val"] = node.meta["val"].to(torch.float32)
        for node in list(module.graph.nodes):
            if node.target is _ASSERTION and not node.users:
                module.graph.erase_node(node)
            elif node.op == "call_function":
                node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _wide)
        return PassResult(tuple(node.name for node in halves))


def half_precision(module: fx.GraphModule) -> torch.dtype | None:
    """The half precision in which a graph computes its first matrix product or convolution of one, if any does."""
    products = (node for node in module.graph.nodes if gemms(node) and _is_half(node))
    return next((node.meta["val"].dtype for node in products), None)


def _is_half(node: fx.Node) -> bool:
    value = tensor_value(node)
    return value is not None and value.dtype in _HALF


def _wide(argument: Any) -> Any:
    return torch.float32 if isinstance(argument, torch.dtype) and argument in _HALF else argument


def _widened(module: fx.GraphModule, node: fx.Node, stored: dict[object, str]) -> str:
    """The name of a stored tensor in fp32; one that lies in the same memory is the same."""
    value = read_parameter(module, node)
    place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride())
    if place not in stored:
        stored[place] = register_parameter(module, "widened", value.float(), learned=is_learned(module, node))
    return stored[place]
