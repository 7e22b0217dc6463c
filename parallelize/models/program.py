"""A **Program**: a captured model as one flat ATen graph, and what its inputs and outputs look like."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from parallelize.data.tensor_spec import TensorSpec
from passes.errors import PassError


@dataclass(frozen=True, eq=False)
class Original:
    """The user's module, to be called with the inputs of the program that was captured from it.

    Attributes:
        module: what was captured.
        leaves: of its example arguments; tensors stand for where inputs go.
        structure: of the arguments.
    """

    module: nn.Module
    leaves: tuple[Any, ...]
    structure: pytree.TreeSpec

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        """The tensors that the module returns, None where it does not run on these inputs."""
        given = iter([value.clone() for value in inputs])
        leaves = [next(given, leaf) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        try:
            with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
                result = self.module(*args, **kwargs)
        except Exception:  # noqa: BLE001  (the user's code may raise anything)
            return None
        return tuple(leaf for leaf in pytree.tree_leaves(plain(result)) if isinstance(leaf, Tensor))


@dataclass(frozen=True)
class Program:
    """A captured model.

    Attributes:
        module: the graph. `get_attr` nodes (parameters, buffers, constants) come first, then a placeholder for each
            input, then calls of ATen operations; every node has its value's shape and dtype in `meta["val"]`.
        inputs: what the placeholders take, in their order.
        outputs: the tensors that the graph returns, flattened.
        origin: what the user called the model.
        original: the user's module where it is at hand and nothing has checked the graph against it yet.
    """

    module: fx.GraphModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    origin: str
    original: Original | None = field(default=None, compare=False, repr=False)

    def shape(self, value: Tensor) -> tuple[int | str, ...]:
        """The shape of a node's value, free dimensions by the names that the inputs give them."""
        labels = Labels()
        for spec, node in zip(self.inputs, self.module.graph.find_nodes(op="placeholder"), strict=True):
            words = {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
            labels.choose(node.meta["val"], words)
        return labels.spec("", value).shape

    def flat_outputs(self, result: object) -> tuple[Tensor, ...]:
        """The tensors in what the graph, or the model it came from, returned, in the order of `outputs`.

        Raises:
            PassError: `result` has another number of tensors than the program has outputs.
        """
        tensors = tuple(leaf for leaf in pytree.tree_leaves(plain(result)) if isinstance(leaf, Tensor))
        if len(tensors) != len(self.outputs):
            raise PassError(
                f"{self.origin} returned {len(tensors)} tensors where {len(self.outputs)} were captured.",
                "Please report this with the model and the plan.",
            )
        return tensors


def original_of(
    module: nn.Module, leaves: Sequence[Any], structure: pytree.TreeSpec, inputs: Sequence[TensorSpec]
) -> Original | None:
    """The module to check the program against, where the program's inputs are its tensors in their order."""
    named, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(leaves), structure))
    tensors = [(str(getattr(path[-1], "key", "")), leaf) for path, leaf in named if isinstance(leaf, Tensor)]
    if len(tensors) != len(inputs):
        return None
    names = {spec.name for spec in inputs}
    for (name, tensor), spec in zip(tensors, inputs, strict=True):
        if tensor.dtype != spec.dtype or tensor.ndim != len(spec.shape) or (name in names and name != spec.name):
            return None
    return Original(module, tuple(leaves), structure)


class Labels:
    """Names for the symbols that stand for free dimensions; one symbol has one name everywhere."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}

    def choose(self, value: Tensor, dims: Mapping[int, str]) -> None:
        """Take the user's names for the dimensions of one input; the first name of a symbol stays."""
        for axis, name in dims.items():
            size = value.shape[axis]
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                self.names.setdefault(size.node.expr, name)

    def spec(self, name: str, value: Tensor) -> TensorSpec:
        """The spec of one input or output."""
        return TensorSpec(name, tuple(self._size(size, axis) for axis, size in enumerate(value.shape)), value.dtype)

    def _size(self, size: int | torch.SymInt, axis: int) -> int | str:
        if not isinstance(size, torch.SymInt):
            return int(size)
        expression = size.node.expr
        if expression.is_number:
            return int(expression)
        for symbol in sorted(expression.free_symbols, key=str):
            if symbol not in self.names:
                self.names[symbol] = "batch" if axis == 0 else unique(f"dim_{axis}", tuple(self.names.values()))
        return str(expression.xreplace({symbol: sympy.Symbol(name) for symbol, name in self.names.items()}))


def plain(value: Any) -> Any:
    """Dataclasses that pytree does not know, as dictionaries; anything else as it is."""

    def leaf(item: Any) -> Any:
        if not is_dataclass(item) or isinstance(item, type):
            return item
        return {field.name: plain(getattr(item, field.name)) for field in fields(item)}

    return pytree.tree_map(leaf, value)


def is_unnamed(output: str) -> bool:
    """Whether an output has no name of its own, but one by its place."""
    return re.fullmatch(r"output(_\d+)?", output) is not None


def unique(name: str, taken: Sequence[str]) -> str:
    """The name, with a number behind it where it is taken."""
    if name not in taken:
        return name
    return next(other for number in range(1, 10**6) if (other := f"{name}_{number}") not in taken)
