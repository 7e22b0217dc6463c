"""What one operator adds up, as a list of **summands**: values times factors.

    lerp(x, f, w)  =  x + w f - w x        stack([x, f]).mean(0)  =  x / 2 + f / 2

Cases:
    1. add, sub, rsub, lerp, addcmul, addcdiv, addmm, baddbmm;
    2. a sum, a mean or a product with weights over an axis along which tensors were stacked, or concatenated and viewed
       apart again;
    3. an add in a wider type between casts: rounding the exact sum of two narrow numbers once or twice is the same;
    4. a value put in some places of another one: index_add, scatter_add, index_put that accumulates, and a choice
       between a sum and one of its summands.

Anything else adds up nothing: an empty list.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import same_shape, tensor_value

aten = ops.aten

TIMES = frozenset({aten.mul.Tensor, aten.mul.Scalar, operator.mul})
CASTS = frozenset({aten.to.dtype, aten._to_copy.default})

_ADDS = ops.ADDS | {aten.sub.Tensor, operator.sub, aten.rsub.Tensor}
# of an add of two narrow numbers in a type so wide that rounding twice cannot differ from rounding once
_WIDE_ENOUGH = {
    torch.float16: (torch.float32, torch.float64),
    torch.bfloat16: (torch.float32, torch.float64),
    torch.float32: (torch.float64,),
}


@dataclass(frozen=True)
class Call:
    """An operator that is part of a sum written as one node, such as the product of an addmm; it may read others."""

    target: Any
    args: tuple[Any, ...]


def nodes_of(value: object) -> Iterator[fx.Node]:
    """The nodes in an argument, those that calls in it read included."""
    if isinstance(value, fx.Node):
        yield value
    for part in value.args if isinstance(value, Call) else value if isinstance(value, (list, tuple)) else ():
        yield from nodes_of(part)


@dataclass(frozen=True)
class Factor:
    """`value`, or one divided by it."""

    value: fx.Node | Call | float
    inverse: bool = False

    @classmethod
    def one_over(cls, value: fx.Node | float) -> Factor:
        """1 / value."""
        return cls(value, inverse=True) if isinstance(value, fx.Node) else cls(1 / value)


@dataclass(frozen=True)
class Summand:
    """A value times factors."""

    value: fx.Node | Call
    factors: tuple[Factor, ...] = ()

    def times(self, *factors: Factor | fx.Node | float) -> Summand:
        """The summand with more factors; those that are one are left out."""
        more = (factor if isinstance(factor, Factor) else Factor(factor) for factor in factors)
        return replace(self, factors=(*self.factors, *(f for f in more if f.value != 1)))

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        """The nodes that it is computed from directly."""
        return tuple(node for part in (self.value, *(f.value for f in self.factors)) for node in nodes_of(part))

    @property
    def whole(self) -> fx.Node | Call:
        """The value with its factors as one."""
        value = self.value
        for factor in self.factors:
            value = Call(aten.div.Tensor if factor.inverse else aten.mul.Tensor, (value, factor.value))
        return value


def summands_of(node: fx.Node) -> list[Summand]:
    """What a node adds up; empty if it is no sum of tensors."""
    read = _READERS.get(node.target) if node.op == "call_function" else None
    return [] if read is None else read(node)


def _sum_of_two(node: fx.Node) -> list[Summand]:
    left, right = node.args[0], node.args[1]
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or left is right:
        return []
    if tensor_value(left) is None or tensor_value(right) is None:
        return []
    alpha = float(cast("float", node.kwargs.get("alpha", 1)))
    if node.target in ops.ADDS:
        return [Summand(left), Summand(right).times(alpha)]
    if node.target == aten.rsub.Tensor:
        return [Summand(right), Summand(left).times(-alpha)]
    return [Summand(left), Summand(right).times(-alpha)]


def _lerp(node: fx.Node) -> list[Summand]:
    start, end, weight = (cast("Any", arg) for arg in node.args)
    return [Summand(start), Summand(end).times(weight), Summand(start).times(-1.0, weight)]


def _addcmul(node: fx.Node) -> list[Summand]:
    start, left, right = (cast("fx.Node", arg) for arg in node.args)
    scale = float(cast("float", node.kwargs.get("value", 1)))
    factor = Factor.one_over(right) if node.target == aten.addcdiv.default else Factor(right)
    return [Summand(start), Summand(left).times(factor, scale)]


def _addmm(node: fx.Node) -> list[Summand]:
    start, left, right = (cast("fx.Node", arg) for arg in node.args)
    value, total = tensor_value(start), tensor_value(node)
    if value is None or total is None or not same_shape(value, total):
        return []
    alpha, beta = (float(cast("float", node.kwargs.get(name, 1))) for name in ("alpha", "beta"))
    product = aten.mm.default if node.target == aten.addmm.default else aten.bmm.default
    return [Summand(start).times(beta), Summand(Call(product, (left, right))).times(alpha)]


def _stacked(node: fx.Node) -> list[Summand]:
    """A sum or mean over the axis along which tensors were put together."""
    stack, axes = node.args[0], node.args[1] if len(node.args) > 1 else None
    keeps = len(node.args) > 2 and node.args[2]
    if not isinstance(stack, fx.Node) or not isinstance(axes, (list, tuple)) or len(axes) != 1 or keeps or node.kwargs:
        return []
    return _over(stack, cast("int", axes[0]), is_mean=node.target == aten.mean.dim)


def _over(stack: fx.Node, dim: int, *, is_mean: bool) -> list[Summand]:
    value = tensor_value(stack)
    if value is None or not value.ndim:
        return []
    axis = dim % value.ndim
    stack, weights = _weighted(stack, axis)
    members = _members(stack)
    if members is None or members[1] != axis or len(members[0]) < 2:
        return []
    scale = 1 / len(members[0]) if is_mean else 1.0
    if weights is None:
        return [Summand(member).times(scale) for member in members[0]]
    place = axis - value.ndim  # from the end: the weights may have fewer axes
    each = [Factor(Call(aten.select.int, (weights, place, number))) for number in range(len(members[0]))]
    return [Summand(member).times(weight, scale) for member, weight in zip(members[0], each, strict=True)]


def _weighted(stack: fx.Node, axis: int) -> tuple[fx.Node, fx.Node | None]:
    """A stack and the weights of its members where it is multiplied by one for each."""
    if stack.target not in TIMES:
        return stack, None
    left, right = stack.args[:2]
    for node, weights in ((left, right), (right, left)):
        value = tensor_value(weights) if isinstance(weights, fx.Node) else None
        whole = tensor_value(stack)
        if value is None or whole is None or not isinstance(node, fx.Node) or value.ndim < whole.ndim - axis:
            continue
        sizes = [1] * (whole.ndim - value.ndim) + list(value.shape)
        if all(str(size) == str(whole.shape[axis] if place == axis else 1) for place, size in enumerate(sizes)):
            return node, cast("fx.Node", weights)
    return stack, None


def _squeezed(node: fx.Node) -> list[Summand]:
    """A sum that keeps its axis, or a product with one column of weights, without that axis."""
    source, value = node.args[0], tensor_value(node)
    dims = node.args[1] if len(node.args) > 1 else None
    dim = dims[0] if isinstance(dims, (list, tuple)) and len(dims) == 1 else dims
    if not isinstance(source, fx.Node) or value is None or not isinstance(dim, int) or len(source.users) > 1:
        return []
    axis = dim % (value.ndim + 1)
    if source.target in (aten.sum.dim_IntList, aten.mean.dim) and source.args[2:] == (True,) and not source.kwargs:
        stack, axes = source.args[:2]
        alike = isinstance(axes, (list, tuple)) and [cast("int", a) % (value.ndim + 1) for a in axes] == [axis]
        return _over(cast("fx.Node", stack), axis, is_mean=source.target == aten.mean.dim) if alike else []
    return _times_column(source) if axis == value.ndim else []


def _times_column(product: fx.Node) -> list[Summand]:
    """matmul(stack, w) or linear(stack, w) of one column, where the stack's members lie along the last axis."""
    is_linear = product.target == ops.LINEAR
    if product.target not in (aten.matmul.default, ops.LINEAR) or product.args[2:] not in ((), (None,)):
        return []
    stack, weights = (cast("fx.Node", arg) for arg in product.args[:2])
    members, matrix, whole = _members(stack), tensor_value(weights), tensor_value(stack)
    if members is None or matrix is None or whole is None or matrix.ndim != 2 or members[1] != whole.ndim - 1:
        return []
    axis = 0 if is_linear else 1
    if str(matrix.shape[axis]) != "1":
        return []
    column = Call(aten.select.int, (weights, axis, 0))
    return [
        Summand(member).times(Factor(Call(aten.select.int, (column, 0, place))))
        for place, member in enumerate(members[0])
    ]


def _members(stack: fx.Node) -> tuple[list[fx.Node], int] | None:
    """The tensors that lie along one new axis of another, and that axis."""
    value = tensor_value(stack)
    if value is None:
        return None
    if stack.target == aten.stack.default:
        axis = cast("int", stack.args[1]) if len(stack.args) > 1 else 0
        return list(cast("list[fx.Node]", stack.args[0])), axis % value.ndim
    if stack.target == aten.cat.default:
        axis = (cast("int", stack.args[1]) if len(stack.args) > 1 else 0) % value.ndim
        parts = cast("list[fx.Node]", stack.args[0])
        if not all(part.target == aten.unsqueeze.default for part in parts):
            return None
        added = {cast("int", part.args[1]) % value.ndim for part in parts}
        return ([cast("fx.Node", part.args[0]) for part in parts], axis) if added == {axis} else None
    return _moved_members(stack) if stack.target == aten.permute.default else _viewed_apart(stack)


def _moved_members(permuted: fx.Node) -> tuple[list[fx.Node], int] | None:
    """The members of a stack of which only the axis of the members was moved."""
    found = _members(cast("fx.Node", permuted.args[0]))
    order = [axis % len(cast("list[int]", permuted.args[1])) for axis in cast("list[int]", permuted.args[1])]
    if found is None or (rest := [axis for axis in order if axis != found[1]]) != sorted(rest):
        return None
    return found[0], order.index(found[1])


def _viewed_apart(view: fx.Node) -> tuple[list[fx.Node], int] | None:
    """The members of cat([a, b], axis) where a view makes an axis of its own of them."""
    source = view.args[0] if view.target in ops.VIEWS | {aten.unflatten.int} else None
    if not isinstance(source, fx.Node) or source.target != aten.cat.default:
        return None
    parts = cast("list[fx.Node]", source.args[0])
    shape, *ours = ([str(size) for size in cast("torch.Tensor", tensor_value(node)).shape] for node in (view, *parts))
    axis = (cast("int", source.args[1]) if len(source.args) > 1 else 0) % len(ours[0])
    alike = all(part == ours[0] for part in ours)
    return (list(parts), axis) if alike and shape == [*ours[0][:axis], str(len(parts)), *ours[0][axis:]] else None


def _between_casts(cast_node: fx.Node) -> list[Summand]:
    """to(add(to(a, wide), to(b, wide)), narrow) where a and b are narrow."""
    total, result = cast_node.args[0], tensor_value(cast_node)
    if not isinstance(total, fx.Node) or total.target not in ops.ADDS | {aten.sub.Tensor} or len(total.users) != 1:
        return []
    wide = tensor_value(total)
    if wide is None or result is None or wide.dtype not in _WIDE_ENOUGH.get(result.dtype, ()):
        return []
    summands = _sum_of_two(total)
    narrow = [_before_cast(summand.value, result.dtype) for summand in summands]
    if not summands or any(source is None for source in narrow):
        return []
    return [replace(s, value=cast("fx.Node", source)) for s, source in zip(summands, narrow, strict=True)]


def _before_cast(node: fx.Node | Call, dtype: torch.dtype) -> fx.Node | None:
    source = node.args[0] if isinstance(node, fx.Node) and node.target in CASTS else None
    value = tensor_value(source) if isinstance(source, fx.Node) else None
    return cast("fx.Node", source) if value is not None and value.dtype == dtype else None


def _put_in(node: fx.Node) -> list[Summand]:
    """The state and what is added to some of its places, the others zero."""
    if node.target == aten.index_put.default and node.args[3:] != (True,):
        return []
    start = cast("fx.Node", node.args[0])
    scale = float(cast("float", node.kwargs.get("alpha", 1)))
    zeros = Call(aten.zeros_like.default, (start,))
    return [Summand(start), Summand(Call(node.target, (zeros, *node.args[1:]))).times(scale)]


def chosen_sum(node: fx.Node) -> fx.Node | None:
    """The sum that a choice takes in some places where it takes one of its summands in the others."""
    if node.target != aten.where.self:
        return None
    for total, other in (node.args[1:], node.args[:0:-1]):
        if isinstance(total, fx.Node) and len(total.users) == 1 and Summand(cast("Any", other)) in summands_of(total):
            return total
    return None


def _chosen(node: fx.Node) -> list[Summand]:
    """where(m, x + f, x) is x and f where m holds, however f is written."""
    total = chosen_sum(node)
    if total is None:
        return []
    mask, first, second = node.args
    start = Summand(cast("fx.Node", second if total is first else first))
    rest = list(summands_of(total))
    rest.remove(start)
    if total is first:
        return [start, *(Summand(Call(aten.where.ScalarOther, (mask, summand.whole, 0))) for summand in rest)]
    return [start, *(Summand(Call(aten.where.ScalarSelf, (mask, 0, summand.whole))) for summand in rest)]


_READERS: dict[Any, Callable[[fx.Node], list[Summand]]] = {
    **dict.fromkeys(_ADDS, _sum_of_two),
    **dict.fromkeys((aten.lerp.Scalar, aten.lerp.Tensor), _lerp),
    **dict.fromkeys((aten.addcmul.default, aten.addcdiv.default), _addcmul),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), _addmm),
    **dict.fromkeys((aten.sum.dim_IntList, aten.mean.dim), _stacked),
    **dict.fromkeys((aten.squeeze.dim, aten.squeeze.dims), _squeezed),
    **dict.fromkeys(CASTS, _between_casts),
    **dict.fromkeys((aten.index_add.default, aten.scatter_add.default, aten.index_put.default), _put_in),
    aten.where.self: _chosen,
}
