"""Shapes and strides of a graph's values in numbers: free dimensions take the sizes that are asked for.

sizes of the inputs -> symbols of the graph -> every shape and stride
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.graph.dataflow import tensors_of


@dataclass(frozen=True)
class Value:
    """One tensor.

    Attributes:
        shape: in numbers.
        strides: in elements.
        dtype: element type.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def distinct(self) -> int:
        """Elements that lie in memory: an expanded dimension repeats one."""
        return prod(size for size, stride in zip(self.shape, self.strides, strict=True) if stride)

    @property
    def order(self) -> tuple[int, ...]:
        """The strides that matter: those of dimensions of more than one element."""
        return tuple(stride for size, stride in zip(self.shape, self.strides, strict=True) if size > 1)

    @property
    def is_contiguous(self) -> bool:
        """Whether elements lie one behind another in their order."""
        return self._empty().is_contiguous()

    def views_as(self, shape: tuple[int, ...]) -> bool:
        """Whether another shape is a view of the same memory, so that nothing is copied."""
        try:
            self._empty().view(shape)
        except RuntimeError:
            return False
        return True

    def _empty(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")


class BoundShapes:
    """The values of a program for given sizes.

    Args:
        program: its free dimensions have names.
        sizes: by those names; others get the size that `TensorSpec.sizes` gives them.
    """

    def __init__(self, program: Program, sizes: Mapping[str, int]) -> None:
        self._symbols: dict[Any, int] = {}
        for spec, node in zip(program.inputs, program.module.graph.find_nodes(op="placeholder"), strict=True):
            for size, number in zip(node.meta["val"].shape, spec.sizes(sizes), strict=True):
                if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                    self._symbols[size.node.expr] = sympy.Integer(number)
        self._numbers: dict[Any, int] = {}

    def values(self, node: fx.Node) -> Iterator[Value]:
        """The tensors that a node computes.

        Raises:
            ParallelizeError: one has a size that only the data tell.
        """
        for tensor in tensors_of(node):
            shape = tuple(self._number(size, node) for size in tensor.shape)
            strides = tuple(self._number(stride, node) for stride in tensor.stride())
            yield Value(shape, strides, tensor.dtype)

    def value(self, node: fx.Node) -> Value:
        """The first of them."""
        return next(self.values(node))

    def argument(self, node: fx.Node, place: int) -> Value:
        """What a node reads as its argument in that place."""
        source = node.args[place]
        assert isinstance(source, fx.Node)
        return self.value(source)

    def _number(self, size: int | torch.SymInt, node: fx.Node) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression not in self._numbers:
            self._numbers[expression] = self._evaluate(expression, node)
        return self._numbers[expression]

    def _evaluate(self, expression: sympy.Expr, node: fx.Node) -> int:
        number = expression.xreplace(self._symbols)
        if not number.is_number:
            raise ParallelizeError(
                f"Node {node.name!r} has the size {expression}, which only the data tell.",
                "Its kernels have no size before it runs; measure it with `parallelize bench`.",
            )
        return int(number)
