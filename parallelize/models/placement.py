"""A graph on another device, with all that it holds and makes.

    parameters, constants    move with their storage, so that what overlaps in memory overlaps there too
    operators                that make tensors out of nothing, or name a device, do so on the new one
    example values           name the new device, so that shapes can be propagated there

A program that is on the device already stays the same object.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from parallelize.machine.device import CPU
from parallelize.models.program import Program
from passes.graph.dataflow import tensor_value

Copied = Callable[[Tensor], Tensor]


def placed(program: Program, device: torch.device) -> Program:
    """The program on `device`; the same one where it is there."""
    if _is_on(program.module, device):
        return program
    return replace(program, module=placed_module(program.module, device), original=None)


def placed_module(module: fx.GraphModule, device: torch.device, copied: Copied | None = None) -> fx.GraphModule:
    """A copy of a graph on `device`: parameters stay parameters, nodes keep their names.

    Args:
        module: it is not changed.
        device: where the copy is.
        copied: copies the bytes of a storage to a place of its own there.
    """
    made = moved(module, device, _Storages(device, copied or (lambda data: data.to(device, copy=True))))
    for node in made.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map(lambda value: _example(value, device), node.meta["val"])
    return made.train(module.training)


def on_device(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """A graph to be run on `device`: its tensors are there and detached, its example values are as they were."""
    return moved(module, device, lambda value: held(value, device))


def held(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor that is not trained, on `device`; copied only where it must be."""
    return tensor.detach().to(device, copy=tensor.is_inference())


def stored(module: fx.GraphModule) -> Iterator[Tensor]:
    """The tensors that a graph reads, those in its branches and loops too, whose storages can be copied as bytes."""
    for node in module.graph.find_nodes(op="get_attr"):
        value = operator.attrgetter(str(node.target))(module)
        if isinstance(value, fx.GraphModule):
            yield from stored(value)
        elif isinstance(value, Tensor) and _has_bytes(value):
            yield value


def device_of(module: fx.GraphModule) -> torch.device:
    """Where a graph that is run is: the device of its inputs' example values."""
    values = (tensor_value(node) for node in module.graph.find_nodes(op="placeholder"))
    return next((value.device for value in values if value is not None), CPU)


def _is_on(module: fx.GraphModule, device: torch.device) -> bool:
    here = device_of(module)
    return here.type == device.type and (device.index is None or (here.index or 0) == device.index)


def moved(module: fx.GraphModule, device: torch.device, move: Callable[[Tensor], Tensor]) -> fx.GraphModule:
    """A copy of a graph that reads what `move` makes of its tensors, and makes tensors on `device`."""
    targets = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    attributes = {target: _attribute(operator.attrgetter(target)(module), device, move) for target in targets}
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        made = copied[node] = graph.node_copy(node, copied.__getitem__)
        made.meta = dict(node.meta)
        _place_call(made, device)
    graph._codegen = module.graph._codegen
    return fx.GraphModule(attributes, graph)


def follow(module: fx.GraphModule, device: torch.device) -> None:
    """Let a graph whose tensors were moved to `device` make its own ones there, in its branches and loops too."""
    for node in module.graph.nodes:
        inner = operator.attrgetter(str(node.target))(module) if node.op == "get_attr" else None
        if isinstance(inner, fx.GraphModule):
            follow(inner, device)
        _place_call(node, device)
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map(lambda value: _example(value, device), node.meta["val"])
    module.recompile()


def _place_call(node: fx.Node, device: torch.device) -> None:
    """An operator that names a device, or makes a tensor of nothing, does so on this one."""
    if node.op != "call_function":
        return
    node.args, node.kwargs = fx.node.map_aggregate(
        (node.args, node.kwargs), lambda value: device if isinstance(value, torch.device) else value
    )
    if _makes_tensors(node):
        node.kwargs = {**node.kwargs, "device": device}


def _makes_tensors(node: fx.Node) -> bool:
    """Whether an operator makes a tensor of nothing and leaves open where."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.kwargs.get("device") is not None:
        return False
    if any(tensor_value(source) is not None for source in node.all_input_nodes):
        return False
    return any(argument.name == "device" for argument in node.target._schema.arguments)


def _attribute(value: Any, device: torch.device, move: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, fx.GraphModule):  # a branch, or the body of a loop
        return moved(value, device, move)
    return copy.deepcopy(value).to(device) if isinstance(value, nn.Module) else value


def _example(value: Any, device: torch.device) -> Any:
    """An example value there, its symbols kept; what is no value of the graph's inputs stays."""
    if not isinstance(value, FakeTensor):
        return value
    with torch.no_grad(), value.fake_mode:
        return value.to(device)


def _has_bytes(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized and tensor.numel() > 0


class _Storages:
    """Tensors on a device. Each storage moves once: tensors that share one, such as tied weights, do so there too."""

    def __init__(self, device: torch.device, copied: Copied) -> None:
        self.device, self._copied = device, copied
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}  # by identity; the old one stays, so that its id is its
        self._bytes: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor there; a parameter stays one, which tells what is learned from what is constant."""
        known = self._tensors.get(id(tensor))
        if known is None:
            there = self._view(tensor.detach())
            if isinstance(tensor, nn.Parameter):
                there = nn.Parameter(there, requires_grad=tensor.requires_grad)
            known = self._tensors[id(tensor)] = tensor, there
        return known[1]

    def _view(self, tensor: Tensor) -> Tensor:
        if not _has_bytes(tensor):
            return held(tensor, self.device)
        storage = tensor.untyped_storage()
        if storage._cdata not in self._bytes:
            every = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            self._bytes[storage._cdata] = every, self._copied(every)
        there = self._bytes[storage._cdata][1].untyped_storage()
        made = torch.empty(0, dtype=tensor.dtype, device=self.device)
        return made.set_(there, tensor.storage_offset(), tensor.shape, tensor.stride())
