"""Sums that are x + something exactly, however they are written.

    root = sum_i c_i v_i          =  x + (sum of the others + (c_x - 1) x)

A root is read as a list of **summands**, each a value times factors. One of them is the skip: a value of the sum's
shape that another summand is computed from. What is left is what the term adds.

Cases:
    1. operators that add up (`passes.stacks.summands`);
    2. a skip that is scaled by a number, a stored factor or a gate, negated or copied: 0.9 x + f, (1 - t) x + t f;
    3. what is added is smaller than the state and broadcast over it;
    4. sums inside sums, multiples of one value collected: (x - f) - g, lerp(x, x + f, t) = x + t f,
       m (x + f) + (1 - m) x = x + m f.

Refused: a copy of the state that lies otherwise in memory, because what reads the sum may rest on that.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import region_between, same_shape, tensor_value
from passes.stacks.summands import CASTS, TIMES, Call, Factor, Summand, chosen_sum, summands_of

aten = ops.aten

_OVER = frozenset({aten.div.Tensor, aten.div.Scalar, operator.truediv})


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
    """The sum that `root` writes as x + something, or None where it is no such sum."""
    total = tensor_value(root)
    if root.op != "call_function" or total is None or not total.is_floating_point():
        return None
    summands = summands_of(root)
    if len(summands) < 2:
        return None
    chosen = chosen_sum(root) or (root.args[0] if root.target in CASTS else None)
    inside = (chosen,) if isinstance(chosen, fx.Node) else ()
    flat, sums = _flattened(summands)
    collected = _collected(flat)
    if len(collected) < len(flat):
        found = _with_skip(root, collected, (*inside, *sums), place) if len(collected) > 1 else None
        return found or _with_skip(root, summands, inside, place)
    found = _with_skip(root, summands, inside, place)
    return found or (_with_skip(root, flat, (*inside, *sums), place) if sums else None)


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
            options.append((-readers, len(base.factors), place[skip], number, base))
    readers, _, _, number, base = min(options, key=lambda option: option[:4], default=(0, 0, 0, 0, summands[0]))
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
    elif node.target in TIMES:
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
    """The summands with sums that nothing else reads written out, also those with a factor, and those sums."""
    flat: list[Summand] = []
    sums: list[fx.Node] = []
    for summand in summands:
        inner = _inner_sum(summand)
        if inner is None:
            flat.append(summand)
            continue
        node = cast("fx.Node", inner.value)
        below, deeper = _flattened(summands_of(node))
        flat.extend(part.times(*inner.factors) for part in below)
        sums.extend((node, *deeper))
    return flat, tuple(sums)


def _inner_sum(summand: Summand) -> Summand | None:
    """The summand as a sum times factors; None where it is no sum, or something else reads that."""
    node = summand.value
    if not isinstance(node, fx.Node) or len(node.users) > 1:
        return None
    for part in (summand, *_undone(summand, node)):
        inner = part.value
        if isinstance(inner, fx.Node) and len(inner.users) == 1 and len(summands_of(inner)) > 1:
            return part
    return None


def _collected(summands: Sequence[Summand]) -> list[Summand]:
    """Multiples of one value as one summand, t x + (1 - t) x as x, and what cancels out left out."""
    groups: dict[object, list[Summand]] = {}
    values = Counter(summand.value for summand in summands)
    for summand in (_as_multiple(summand, values) for summand in summands):
        rest = Counter(factor for factor in summand.factors if not isinstance(factor.value, (int, float)))
        groups.setdefault((summand.value, frozenset(rest.items())), []).append(summand)
    collected = [one for group in groups.values() for one in (group if len(group) == 1 else _together(group))]
    for number, left in enumerate(collected):
        for other in range(number + 1, len(collected)):
            common = _of_both_gates(left, collected[other])
            if common is not None:
                return _collected(
                    [*collected[:number], common, *collected[number + 1 : other], *collected[other + 1 :]]
                )
    return collected


def _as_multiple(summand: Summand, values: Mapping[fx.Node | Call, int]) -> Summand:
    """A product as a multiple of a value that is another summand, where one of its factors is."""
    node = summand.value
    parts = _undone(summand, node) if isinstance(node, fx.Node) and values[node] == 1 else ()
    return next((part for part in parts if part.value in values), summand)


def _together(multiples: Sequence[Summand]) -> list[Summand]:
    """The sum of multiples of one value, nothing where they cancel out."""
    numbers = [[f.value for f in one.factors if isinstance(f.value, (int, float))] for one in multiples]
    total = math.fsum(math.prod(each) for each in numbers)
    plain = tuple(f for f in multiples[0].factors if not isinstance(f.value, (int, float)))
    return [Summand(multiples[0].value, plain).times(total)] if total else []


def _of_both_gates(left: Summand, right: Summand) -> Summand | None:
    """V of t v and (1 - t) v."""
    ours, theirs = Counter(left.factors), Counter(right.factors)
    mine, other = list((ours - theirs).elements()), list((theirs - ours).elements())
    if left.value != right.value or len(mine) != 1 or len(other) != 1 or mine[0].inverse or other[0].inverse:
        return None
    first, second = mine[0].value, other[0].value
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return None
    are_complements = _complement(first) is second or _complement(second) is first
    return Summand(left.value, tuple((ours & theirs).elements())) if are_complements else None
