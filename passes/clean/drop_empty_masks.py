"""Take away attention masks that mask nothing.

    attention(q, k, v, mask = (arange(n) >= 0).expand(b, 1, n, n))  ->  attention(q, k, v)
    scores + where(True, 0, -inf)                                   ->  scores

Models build such masks where none was given to them. They keep attention from the kernels that are made for it, and
their shape arithmetic waits in every ONNX file.

Cases: a mask of booleans that are all true, or of numbers that are all 0, for every size of the free dimensions: filled
tensors, stored masks, comparisons of an arange with a number below it, and what views, conversions, `where`, `and` and
`not` make of these. Refused, with its reason: zeros that also widen the sum they are added to. A mask that may hide
something is no case for this pass.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from passes.graph.dataflow import same_shape, tensor_value
from passes.graph.operators import ADDS, ATTENTION, COPIES, VIEWS
from passes.graph.parameters import is_learned, read_parameter
from passes.runner import Pass, PassResult, Skip, Stage

aten = torch.ops.aten
Number = bool | int | float

_MASK = 3  # place of the mask among the arguments of attention
_SAME_ELEMENTS = (
    VIEWS
    | COPIES
    | {
        aten.expand.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.permute.default,
        aten.transpose.int,
        aten.slice.Tensor,
        aten.alias.default,
    }
)
_CASTS = frozenset({aten.to.dtype, aten._to_copy.default, aten.to.device})
_FILLS = {
    **dict.fromkeys((aten.ones.default, aten.ones_like.default, aten.new_ones.default), 1),
    **dict.fromkeys((aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default), 0),
}
_FILLED = {aten.full.default: 1, aten.full_like.default: 1, aten.new_full.default: 2}  # place of the number
_COMPARISONS = {aten.ge.Scalar: operator.ge, aten.gt.Scalar: operator.gt}
_ANDS = frozenset({aten.logical_and.default, aten.bitwise_and.Tensor, aten.__and__.Tensor})
_NOTS = frozenset({aten.logical_not.default, aten.bitwise_not.default})
_CHOICES = frozenset({aten.where.self, aten.where.Scalar, aten.where.ScalarSelf, aten.where.ScalarOther})
_FIRST = {aten.arange.default: None, aten.arange.start: 0, aten.arange.start_step: 0}  # place of the first number


@dataclass(frozen=True)
class DropEmptyMasks(Pass):
    """Take away attention masks that mask nothing, and zeros added to scores."""

    name: ClassVar[str] = "drop-empty-masks"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("fold-constants",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        matches, skipped = [], []
        elements = _Elements(module)
        for node in list(module.graph.nodes):
            mask = _mask(node)
            if mask is not None and _hides_nothing(mask, elements):
                _unmask(node)
                matches.append(node.name)
            elif node.target in ADDS and (zero := _added_zero(node, elements)) is not None:
                other = node.args[1 - zero]
                if not _same(node, other):
                    skipped.append(Skip(node.name, f"{node.name} adds zeros that widen the sum"))
                    continue
                node.replace_all_uses_with(other)
                module.graph.erase_node(node)
                matches.append(node.name)
        return PassResult(tuple(matches), tuple(skipped))


def _mask(node: fx.Node) -> fx.Node | None:
    """The mask that an attention reads."""
    if node.target != ATTENTION:
        return None
    mask = node.args[_MASK] if len(node.args) > _MASK else node.kwargs.get("attn_mask")
    return mask if isinstance(mask, fx.Node) else None


def _hides_nothing(mask: fx.Node, elements: _Elements) -> bool:
    """Whether true, of booleans, or zero, of numbers."""
    value = tensor_value(mask)
    return value is not None and elements.all_equal(mask) == (value.dtype == torch.bool)


def _unmask(node: fx.Node) -> None:
    if len(node.args) > _MASK:
        node.update_arg(_MASK, None)
    else:
        node.update_kwarg("attn_mask", None)


def _added_zero(node: fx.Node, elements: _Elements) -> int | None:
    """The place of the operand that is all zero, if a tensor is the other one."""
    if len(node.args) != 2 or node.kwargs or not all(isinstance(arg, fx.Node) for arg in node.args):
        return None
    return next((place for place in (1, 0) if elements.all_equal(node.args[place]) == 0), None)  # type: ignore[arg-type]


def _same(node: fx.Node, other: object) -> bool:
    """Whether the sum has the shape and dtype of the operand that would be left."""
    total, rest = tensor_value(node), tensor_value(other) if isinstance(other, fx.Node) else None
    return total is not None and rest is not None and same_shape(total, rest) and total.dtype == rest.dtype


class _Elements:
    """What is known of the elements of tensors without running the graph; each node is looked at once."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._known: dict[fx.Node, Number | None] = {}

    def all_equal(self, node: fx.Node) -> Number | None:
        """The number that all elements are, if that is known."""
        if node not in self._known:
            self._known[node] = None  # a graph has no cycles; this is for the reader of a debugger
            self._known[node] = self._find(node)
        return self._known[node]

    def _find(self, node: fx.Node) -> Number | None:
        if node.op == "get_attr":
            return self._stored(node)
        if node.op != "call_function" or tensor_value(node) is None:
            return None
        if node.target in _SAME_ELEMENTS:
            return self._of(node.args[0])
        if node.target in _CASTS:
            return _cast(self._of(node.args[0]), node)
        if node.target in _FILLS:
            return _cast(_FILLS[node.target], node)
        if node.target in _FILLED:
            number = node.args[_FILLED[node.target]]
            return _cast(number if isinstance(number, (bool, int, float)) else None, node)
        return self._logic(node)

    def _logic(self, node: fx.Node) -> Number | None:
        """Comparisons, and what combines them."""
        if node.target in _COMPARISONS:
            least, bound = self._least(node.args[0]), node.args[1]
            if least is None or not isinstance(bound, (int, float)):
                return None
            return True if _COMPARISONS[node.target](least, bound) else None
        if node.target in _ANDS:
            return True if all(self._of(arg) is True for arg in node.args) else None
        if node.target in _NOTS:
            value = self._of(node.args[0])
            return not value if isinstance(value, bool) else None
        if node.target in _CHOICES:
            chosen = self._of(node.args[0])
            return None if chosen is None else _cast(self._of(node.args[1 if chosen else 2]), node)
        return None

    def _of(self, value: object) -> Number | None:
        if isinstance(value, fx.Node):
            return self.all_equal(value)
        return value if isinstance(value, (bool, int, float)) else None

    def _stored(self, node: fx.Node) -> Number | None:
        """Of a buffer; a parameter may be trained to be something else."""
        if tensor_value(node) is None or is_learned(self._module, node):
            return None
        tensor = read_parameter(self._module, node)
        if tensor.numel() == 0 or not bool((tensor == tensor.reshape(-1)[0]).all()):
            return None
        number: Number = tensor.reshape(-1)[0].item()
        return number

    def _least(self, value: object) -> Number | None:
        """A number that no element is below."""
        if not isinstance(value, fx.Node):
            return None
        if value.target in _SAME_ELEMENTS:
            return self._least(value.args[0])
        if value.target in _FIRST and _is_wide(value):
            place = _FIRST[value.target]
            first = 0 if place is None else value.args[place]
            step = value.args[2] if value.target == aten.arange.start_step and len(value.args) > 2 else 1
            return first if isinstance(first, int) and isinstance(step, int) and step > 0 else None
        return self._least_stored(value)

    def _least_stored(self, node: fx.Node) -> Number | None:
        if node.op != "get_attr" or tensor_value(node) is None or is_learned(self._module, node):
            return None
        tensor: Tensor = read_parameter(self._module, node)
        if tensor.numel() == 0 or tensor.is_complex():
            return None
        least: Number = tensor.double().min().item()
        return least


def _is_wide(node: fx.Node) -> bool:
    """Whether the numbers of an arange do not wrap, whatever its length."""
    value = tensor_value(node)
    return value is not None and value.dtype in (torch.int32, torch.int64)


def _cast(number: Number | None, node: fx.Node) -> Number | None:
    """The number in the dtype of the node's value, rounded and cut off as that does."""
    value = tensor_value(node)
    if number is None or value is None or value.dtype.is_complex:
        return None
    wide = torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None)
    cast: Number = wide.to(value.dtype).item()
    return cast
