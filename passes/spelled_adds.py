"""Sums that are x + something exactly, however they are written.

    root = sum_i c_i v_i          =  x + (sum of the others + (c_x - 1) x)

A root is read as a list of **summands**, each a value times factors. One of them is the skip: a value of the sum's
shape that another summand is computed from. What is left is what the term adds.

Cases:
    1. sub, rsub, add with `alpha`, lerp, addcmul, addcdiv, addmm, baddbmm;
    2. a sum or mean over tensors that were stacked, or concatenated and viewed apart again;
    3. a skip that is scaled by a number, a stored factor or a gate, negated or copied: 0.9 x + f, (1 - t) x + t f;
    4. an add in a wider type between casts: rounding the exact sum of two narrow numbers once or twice is the same;
    5. what is added is smaller than the state and broadcast over it;
    6. sums inside sums: (x - f) - g.

Refused: a copy of the state that lies otherwise in memory, because what reads the sum may rest on that.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import fx

from passes import operators as ops
from passes.dataflow import region_between, same_shape, tensor_value

aten = ops.aten

_ADDS = ops.ADDS | {aten.sub.Tensor, operator.sub, aten.rsub.Tensor}
_CASTS = frozenset({aten.to.dtype, aten._to_copy.default})
_TIMES = frozenset({aten.mul.Tensor, aten.mul.Scalar, operator.mul})
_OVER = frozenset({aten.div.Tensor, aten.div.Scalar, operator.truediv})
_STACKED_SUMS = frozenset({aten.sum.dim_IntList, aten.mean.dim})
# of an add of two narrow numbers in a type so wide that rounding twice cannot differ from rounding once
_WIDE_ENOUGH = {
    torch.float16: (torch.float32, torch.float64),
    torch.bfloat16: (torch.float32, torch.float64),
    torch.float32: (torch.float64,),
}


@dataclass(frozen=True)
class Call:
    """An operator that is part of a sum written as one node, such as the product of an addmm."""

    target: Any
    args: tuple[Any, ...]


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
        base = (self.value,) if isinstance(self.value, fx.Node) else self.value.args
        return tuple(node for node in (*base, *(f.value for f in self.factors)) if isinstance(node, fx.Node))


@dataclass(frozen=True)
class SpelledAdd:
    """A residual add in another spelling than add(x, f).

    Attributes:
        skip: the state x.
        rest: what is added to it; their sum is the term's contribution.
        sums: nodes of sums inside the sum.
        scaled: whether the skip has a factor of its own.
        broadcast: whether no summand of `rest` has the state's shape.
    """

    skip: fx.Node
    rest: tuple[Summand, ...]
    sums: tuple[fx.Node, ...]
    scaled: bool
    broadcast: bool

    def described(self, node: fx.Node) -> str:
        """How `node` writes the sum, as a sentence."""
        added = next((read.name for summand in self.rest for read in summand.reads if read is not self.skip), "")
        alpha = node.kwargs.get("alpha", 1)
        if alpha != 1:
            return f"{node.name} adds {alpha} times {added} (alpha), not {added} itself"
        if self.broadcast:
            return f"{node.name} broadcasts {added} over the state {self.skip.name}"
        if self.scaled:
            return f"{node.name} scales the state {self.skip.name} that it adds to"
        return f"{node.name} ({node.target}) adds to the state {self.skip.name} without being an add"


def spelled_add(root: fx.Node, place: Mapping[fx.Node, int]) -> SpelledAdd | None:
    """The sum that `root` writes as x + something, or None where it is no such sum, or a plain add(x, f)."""
    total = tensor_value(root)
    if root.op != "call_function" or total is None or not total.is_floating_point():
        return None
    summands = _summands(root)
    if len(summands) < 2:
        return None
    inside = (cast("fx.Node", root.args[0]),) if root.target in _CASTS else ()
    found = _with_skip(root, summands, inside, place)
    if found is not None:
        return found
    flat, sums = _flattened(summands)
    return _with_skip(root, flat, (*inside, *sums), place) if sums else None


def _with_skip(
    root: fx.Node, summands: Sequence[Summand], sums: tuple[fx.Node, ...], place: Mapping[fx.Node, int]
) -> SpelledAdd | None:
    """The sum with the state taken out: what most other summands are computed from, with the fewest factors."""
    options = []
    for number, summand in enumerate(summands):
        others = [*summands[:number], *summands[number + 1 :]]
        for base in _bases(summand, root):
            skip = cast("fx.Node", base.value)
            readers = sum(_reads(other, skip, place) for other in others) if _dtype(skip) == _dtype(root) else 0
            options.append((-readers, len(base.factors), number, base))
    readers, _, number, base = min(options, key=lambda option: option[:3], default=(0, 0, 0, summands[0]))
    if not readers:
        return None
    rest = (*summands[:number], *summands[number + 1 :], *_without_one(base))
    whole = any(_has_shape(summand, root) for summand in rest)
    return SpelledAdd(cast("fx.Node", base.value), rest, sums, bool(base.factors), not whole)


def _dtype(node: fx.Node) -> torch.dtype | None:
    value = tensor_value(node)
    return None if value is None else value.dtype


def _reads(summand: Summand, skip: fx.Node, place: Mapping[fx.Node, int]) -> bool:
    positions = cast("dict[fx.Node, int]", place)
    return any(read is not skip and region_between(skip, read, positions) for read in summand.reads)


def _without_one(base: Summand) -> list[Summand]:
    """What a scaled state adds to the state, c x - x, as summands."""
    if not base.factors:
        return []
    first = base.factors[0]
    if len(base.factors) == 1 and isinstance(first.value, fx.Node) and not first.inverse:
        gate = _complement(first.value)
        less = (Factor(Call(aten.sub.Tensor, (first.value, 1))),) if gate is None else (Factor(-1.0), Factor(gate))
        return [Summand(base.value, less)]
    numbers = [f.value for f in base.factors if isinstance(f.value, (int, float))]
    if len(numbers) < len(base.factors):
        return [base, Summand(base.value, (Factor(-1.0),))]
    product = 1.0
    for number in numbers:
        product *= number
    return [Summand(base.value, (Factor(product - 1),))] if product != 1 else []


def _complement(node: fx.Node) -> fx.Node | None:
    """The gate t of a factor 1 - t."""
    is_complement = node.target == aten.rsub.Scalar and node.args[1:] == (1,) and not node.kwargs
    return cast("fx.Node", node.args[0]) if is_complement else None


def _bases(summand: Summand, root: fx.Node) -> Iterator[Summand]:
    """The summand as a tensor of the sum's shape times factors: as it is, then with scales and copies undone."""
    pending = [summand]
    while pending:
        current = pending.pop()
        node = current.value
        if not isinstance(node, fx.Node) or node.op == "get_attr" or not _has_shape(current, root):
            continue
        yield current
        pending.extend(_undone(current, node))


def _undone(summand: Summand, node: fx.Node) -> Iterator[Summand]:
    source = node.args[0] if node.args else None
    if node.op != "call_function" or not isinstance(source, fx.Node):
        return
    if node.target in ops.COPIES and _lies_alike(source, node):
        yield replace(summand, value=source)
    elif node.target == aten.neg.default:
        yield replace(summand, value=source).times(-1.0)
    elif node.target in _TIMES:
        other = node.args[1]
        yield replace(summand, value=source).times(cast("Any", other))
        if isinstance(other, fx.Node):
            yield replace(summand, value=other).times(Factor(source))
    elif node.target in _OVER and not node.kwargs:
        yield replace(summand, value=source).times(Factor.one_over(cast("Any", node.args[1])))


def _lies_alike(source: fx.Node, copy: fx.Node) -> bool:
    left, right = tensor_value(source), tensor_value(copy)
    return left is not None and right is not None and list(map(str, left.stride())) == list(map(str, right.stride()))


def _has_shape(summand: Summand, root: fx.Node) -> bool:
    """Whether a summand has the shape of the sum, without its factors; a product always counts."""
    if isinstance(summand.value, Call):
        return True
    value, total = tensor_value(summand.value), tensor_value(root)
    return value is not None and total is not None and value.is_floating_point() and same_shape(value, total)


def _flattened(summands: Sequence[Summand]) -> tuple[list[Summand], tuple[fx.Node, ...]]:
    """The summands with sums that nothing else reads written out, and those sums."""
    flat: list[Summand] = []
    sums: list[fx.Node] = []
    for summand in summands:
        node = summand.value
        inner = _summands(node) if isinstance(node, fx.Node) and len(node.users) == 1 else []
        if len(inner) < 2 or not isinstance(node, fx.Node):
            flat.append(summand)
            continue
        below, deeper = _flattened(inner)
        flat.extend(part.times(*summand.factors) for part in below)
        sums.extend((node, *deeper))
    return flat, tuple(sums)


# ---------------------------------------------------------------------------------------------- what a node adds up


def _summands(node: fx.Node) -> list[Summand]:
    """What a node adds up; empty if it is no sum of tensors."""
    if node.op != "call_function":
        return []
    if node.target in _ADDS:
        return _sum_of_two(node)
    if node.target in _STACKED_SUMS:
        return _stacked(node)
    if node.target in _CASTS:
        return _between_casts(node)
    read = _READERS.get(node.target)
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
    value = tensor_value(stack)
    axis = cast("int", axes[0]) % value.ndim if value is not None and value.ndim else None
    stack, weights = _weighted(stack, axis)
    members = _members(stack)
    if axis is None or members is None or members[1] != axis or len(members[0]) < 2:
        return []
    scale = 1 / len(members[0]) if node.target == aten.mean.dim else 1.0
    if weights is None:
        return [Summand(member).times(scale) for member in members[0]]
    each = [Factor(Call(aten.select.int, (weights, axis, number))) for number in range(len(members[0]))]
    return [Summand(member).times(weight, scale) for member, weight in zip(members[0], each, strict=True)]


def _weighted(stack: fx.Node, axis: int | None) -> tuple[fx.Node, fx.Node | None]:
    """A stack and the weights of its members where it is multiplied by one for each."""
    if stack.target not in _TIMES or axis is None:
        return stack, None
    left, right = stack.args[:2]
    for node, weights in ((left, right), (right, left)):
        value = tensor_value(weights) if isinstance(weights, fx.Node) else None
        whole = tensor_value(stack)
        if value is None or whole is None or value.ndim != whole.ndim or not isinstance(node, fx.Node):
            continue
        if all(str(size) == str(whole.shape[axis] if place == axis else 1) for place, size in enumerate(value.shape)):
            return node, cast("fx.Node", weights)
    return stack, None


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
    return _viewed_apart(stack)


def _viewed_apart(view: fx.Node) -> tuple[list[fx.Node], int] | None:
    """The members of cat([a, b], axis) where a view makes an axis of its own of them."""
    source = view.args[0] if view.target in ops.VIEWS else None
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
    source = node.args[0] if isinstance(node, fx.Node) and node.target in _CASTS else None
    value = tensor_value(source) if isinstance(source, fx.Node) else None
    return cast("fx.Node", source) if value is not None and value.dtype == dtype else None


_READERS: dict[Any, Callable[[fx.Node], list[Summand]]] = {
    aten.lerp.Scalar: _lerp,
    aten.lerp.Tensor: _lerp,
    aten.addcmul.default: _addcmul,
    aten.addcdiv.default: _addcmul,
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _addmm,
}
