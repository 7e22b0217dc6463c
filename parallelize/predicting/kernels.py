"""The kernels that PyTorch launches for a program, in a CUDA graph: as a rule one for each operator.

    products      linear, addmm, mm, bmm, matmul, an einsum of two operands; a bias is added in the same kernel
                  (cuBLASLt), baddbmm copies it first, and a linear copies what does not lie in rows
    convolutions  as the product of patches, one for each group; their bias comes behind
    attention     one fused kernel
    norms         norms, softmaxes, sums, means: whatever reduces; layer_norm and rms_norm copy rows that lie apart
    recurrences   one product for all inputs of a layer and direction, then for each step a product and a pointwise one
    views         none; where the layout forbids a view, a copy, as in a reshape of a transposed tensor
    the rest      one kernel that reads its inputs and writes its outputs

Numbers are counted in one precision, whatever the program was captured in; integers as they are. Refused: operators
that hold a body (`cond`, `while_loop`), as how often it runs is known only then, and sizes that only the data tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import fx

from parallelize.models.program import Program
from parallelize.predicting.bound_shapes import BoundShapes, Value
from parallelize.predicting.kernel import WIDTHS, Kernel, Kernels, Kind, Precision
from passes.errors import ParallelizeError
from passes.graph import operators as ops
from passes.graph.dataflow import carries_tensors, tensor_inputs

aten = ops.aten

_TABLES = frozenset({aten.embedding.default, aten.index_select.default, aten.index.Tensor, aten.gather.default})
_MOVES = _TABLES | ops.COPIES | {aten.cat.default, aten.stack.default}
_REDUCERS = ops.NORMS | ops.SOFTMAXES | ops.REDUCTIONS | {aten.log_softmax.int, aten.instance_norm.default}
_REDUCING = frozenset({"sum", "mean", "amax", "amin", "var", "std", "argmax", "argmin", "cumsum", "logsumexp", "topk"})
_RESHAPES = ops.VIEWS | {aten.flatten.using_ints, aten.unflatten.int, aten.reshape_as.default}
_CASTS = ("aten.to.", "aten._to_copy.", "aten.type_as.")
_GATES = {"gru": 3, "lstm": 4, "rnn_tanh": 1, "rnn_relu": 1}


def kernels(program: Program, sizes: Mapping[str, int], precision: Precision) -> Kernels:
    """The kernels of one call.

    Args:
        program: captured, rewritten and fused.
        sizes: of its free dimensions, such as {"batch": 1}.
        precision: of its floating-point numbers.

    Raises:
        ParallelizeError: an operator whose kernels are not known before it runs.
    """
    listing = _Listing(BoundShapes(program, sizes), WIDTHS[precision])
    nodes = [node for node in program.module.graph.nodes if node.op == "call_function" and carries_tensors(node)]
    return Kernels.of((kernel for node in nodes for kernel in listing.launched(node)), precision)


@dataclass(frozen=True)
class _Listing:
    """What operators launch, for given sizes and bytes of a floating-point number."""

    shapes: BoundShapes
    width: int

    def launched(self, node: fx.Node) -> Iterator[Kernel]:
        """The kernels of one operator."""
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise ParallelizeError(
                f"The kernels of node {node.name!r}, a {node.target}, depend on the data.",
                "Measure the network with `parallelize bench`.",
            )
        known = _KNOWN.get(node.target)
        if known is not None:
            return known(self, node)
        if node.target in _RESHAPES:
            return self._reshape(node)
        nothing = node.target == ops.GETITEM or getattr(node.target, "is_view", False) or self._changes_nothing(node)
        return iter(() if nothing else (self._kernel(node, self._kind(node)),))

    def product(self, node: fx.Node) -> Iterator[Kernel]:
        """(..., m, k) @ (k, n), or with a batch on both sides."""
        first = 1 if node.target in (aten.addmm.default, aten.baddbmm.default) else 0
        left, right = (self.shapes.argument(node, place) for place in (first, first + 1))
        out = self.shapes.value(node)
        rows = (left.count // max(left.shape[-1], 1), left.shape[-1])
        if node.target == ops.LINEAR and not left.views_as(rows):
            yield self._copy(left)
        if node.target == aten.baddbmm.default:
            yield self._copy(out)
        if node.target != ops.LINEAR and len(right.shape) > 2:
            yield self._kernel(node, "product", prod(out.shape[:-2]), *out.shape[-2:], left.shape[-1])
            return
        columns = out.shape[-1] if len(right.shape) == 2 else 1
        yield self._kernel(node, "product", 1, out.count // max(columns, 1), columns, left.shape[-1])

    def contraction(self, node: fx.Node) -> Iterator[Kernel]:
        """An einsum of two operands is a batched product; another one reads and writes."""
        equation, operands = str(node.args[0]).replace(" ", ""), cast("list[fx.Node]", node.args[1])
        if len(operands) != 2 or "." in equation or "->" not in equation:
            yield self._kernel(node, "norm")
            return
        parts = equation.replace("->", ",").split(",")
        size: dict[str, int] = {}
        for letters, operand in zip(parts, operands, strict=False):
            size |= dict(zip(letters, self.shapes.value(operand).shape, strict=True))
        left, right, out = map(set, parts)
        groups = (left & right & out, left & out - right, right & out - left, left & right - out)
        yield self._kernel(node, "product", *(prod(size[letter] for letter in group) for group in groups))

    def convolution(self, node: fx.Node) -> Iterator[Kernel]:
        """Each output is a product of a patch."""
        weight, out = self.shapes.argument(node, 1), self.shapes.value(node)
        channels = out.shape[1]
        groups = max(self.shapes.argument(node, 0).shape[1] // weight.shape[1], 1)
        rows = out.count // max(channels, 1)
        yield self._kernel(node, "convolution", groups, rows, channels // groups, prod(weight.shape[1:]))
        if len(node.args) > 2 and node.args[2] is not None:
            yield Kernel("pointwise", (2 * out.count + channels) * self.width)

    def attention(self, node: fx.Node) -> Iterator[Kernel]:
        """softmax(q k^T) v for each sequence and head."""
        *outer, rows, inner = self.shapes.argument(node, 0).shape
        yield self._kernel(node, "attention", prod(outer), rows, self.shapes.argument(node, 1).shape[-2], inner)

    def normalisation(self, node: fx.Node) -> Iterator[Kernel]:
        """Rows that do not lie one behind another are copied first."""
        data = self.shapes.argument(node, 0)
        if not data.is_contiguous:
            yield self._copy(data)
        yield self._kernel(node, "norm")

    def recurrence(self, node: fx.Node) -> Iterator[Kernel]:
        """The steps of a recurrence wait for each other."""
        *_, layers, _dropout, _train, both, batch_first = node.args
        directions = 2 if both else 1
        data = self.shapes.argument(node, 0)
        samples, steps = data.shape[:2] if batch_first else data.shape[1::-1]
        hidden = self.shapes.value(node).shape[-1] // directions
        gates = _GATES[str(node.target).split(".")[1]] * hidden
        for layer in range(cast("int", layers)):
            width = directions * hidden if layer else data.shape[-1]
            step = (
                self._matrix(samples, gates, hidden),
                Kernel("pointwise", samples * (gates + 2 * hidden) * self.width),
            )
            for _ in range(directions):
                yield self._matrix(samples * steps, gates, width)
                yield from step * steps

    def contiguous(self, node: fx.Node) -> Iterator[Kernel]:
        """A copy of what does not lie in its order."""
        if not self.shapes.argument(node, 0).is_contiguous:
            yield self._kernel(node, "copy")

    def _reshape(self, node: fx.Node) -> Iterator[Kernel]:
        """Nothing where the other shape is a view."""
        if not self.shapes.argument(node, 0).views_as(self.shapes.value(node).shape):
            yield self._kernel(node, "copy")

    def _changes_nothing(self, node: fx.Node) -> bool:
        """Whether a cast is to the dtype that is there; floating-point dtypes are all of one precision here."""
        if not str(node.target).startswith(_CASTS):
            return False
        before, after = self.shapes.argument(node, 0).dtype, self.shapes.value(node).dtype
        return before == after or (before.is_floating_point and after.is_floating_point)

    def _kind(self, node: fx.Node) -> Kind:
        """Of an operator that is no product; one that reads in another order than it writes is a copy."""
        name = str(node.target).split(".")[1].strip("_") if "." in str(node.target) else ""
        if node.target in _REDUCERS or name in _REDUCING:
            return "norm"
        out = self.shapes.value(node)
        read = [value for source in tensor_inputs(node) for value in self.shapes.values(source)]
        in_order = all(value.order == out.order for value in read if value.shape == out.shape)
        return "pointwise" if in_order and node.target not in _MOVES else "copy"

    def _matrix(self, rows: int, columns: int, inner: int) -> Kernel:
        moved = rows * columns + rows * inner + columns * inner
        return Kernel("product", moved * self.width, 1, rows, columns, inner)

    def _copy(self, value: Value) -> Kernel:
        return Kernel("copy", 2 * self._bytes(value))

    def _kernel(self, node: fx.Node, kind: Kind, *sizes: int) -> Kernel:
        written = sum(self._bytes(value) for value in self.shapes.values(node))
        if node.target in _TABLES:  # of which only the rows are read that come out
            return Kernel(kind, 2 * written, *sizes)
        sources = dict.fromkeys(tensor_inputs(node))
        read = sum(self._bytes(value) for source in sources for value in self.shapes.values(source))
        return Kernel(kind, read + written, *sizes)

    def _bytes(self, value: Value) -> int:
        return value.distinct * (self.width if value.dtype.is_floating_point else value.dtype.itemsize)


_KNOWN: dict[Any, Callable[[_Listing, fx.Node], Iterator[Kernel]]] = {
    **dict.fromkeys(ops.LINEARS | ops.MATRIX_PRODUCTS, _Listing.product),
    **dict.fromkeys(ops.CONVOLUTIONS, _Listing.convolution),
    **dict.fromkeys(ops.RECURRENCES, _Listing.recurrence),
    **dict.fromkeys(ops.ROW_NORMS, _Listing.normalisation),
    aten.einsum.default: _Listing.contraction,
    aten.contiguous.default: _Listing.contiguous,
    ops.ATTENTION: _Listing.attention,
}
