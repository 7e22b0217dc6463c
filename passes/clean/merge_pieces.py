"""Put pieces of a tensor that are concatenated again back into the tensor, and take operands of a concatenation whole.

    cat([x[:, :n], x[:, n:]], 1)  ->  x            stack(unbind(x))  ->  x
    cat([a, b], 1)[:, :n]         ->  a            where a has n of them
    x[:], cat([x])                ->  x

Models that keep two streams side by side (the single blocks of Flux) concatenate them before each block and cut them
apart after it, so that the state of one block is not that of the next.

Cases:
    1. pieces by slice, narrow, select, split, chunk, tensor_split and unbind;
    2. sizes that are known only when the model runs, compared as expressions;
    3. some operands of a concatenation that are neighbouring pieces, the others something else.

Refused: pieces that overlap, leave a gap, are cut with a step, or do not begin and end where the tensor does; a tensor
that does not lie row by row in memory where a later view may rest on that (told with its reason).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import sympy
import torch
from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import descendants, same_shape, tensor_value
from passes.runner import Pass, PassResult, Skip, Stage

aten = ops.aten

_JOINS = frozenset({aten.cat.default, aten.stack.default})
_NEEDS_ORDER = frozenset({aten.view.default, aten._unsafe_view.default, aten.view.dtype, aten.as_strided.default})

Size = Any  # an int or a sympy expression


@dataclass(frozen=True)
class Piece:
    """`source` from `start` to `stop` along `axis`; a piece that was selected has lost that axis."""

    source: fx.Node
    axis: int
    start: Size
    stop: Size
    selected: bool = False

    def follows(self, other: Piece) -> bool:
        """Whether this piece begins where another one of the same tensor ends."""
        alike = (self.source, self.axis, self.selected) == (other.source, other.axis, other.selected)
        return alike and _equal(self.start, other.stop)

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole tensor."""
        return _equal(self.start, 0) and _equal(self.stop, _size(self.source, self.axis))


@dataclass(frozen=True)
class MergePieces(Pass):
    """Replace concatenations of all pieces of a tensor by the tensor, and pieces of a concatenation by its operands."""

    name: ClassVar[str] = "merge-pieces"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("remove-identities",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        matches: list[str] = []
        skipped: list[Skip] = []
        for node in list(module.graph.nodes):
            outcome = _replace(node) if node.op == "call_function" else None
            if isinstance(outcome, Skip):
                skipped.append(outcome)
            elif outcome:
                matches.append(node.name)
        return PassResult(tuple(matches), tuple(skipped))


def _replace(node: fx.Node) -> Skip | bool:
    """Put what a concatenation or a piece really is in the place of it; whether it is anything else."""
    piece = _piece(node)
    if piece is not None and piece.is_whole and not piece.selected:
        node.replace_all_uses_with(piece.source)
        return True
    found = _merged(node) if node.target in _JOINS else None if piece is None else _operand(node, piece)
    if isinstance(found, list):
        node.update_arg(0, found)
        return True
    if found is not None and not _lies_in_rows(found) and _may_be_viewed(node):
        return Skip(node.name, f"{node.name} is {found.name}, which does not lie row by row in memory")
    if found is not None:
        node.replace_all_uses_with(found)
    return found is not None


def _merged(node: fx.Node) -> fx.Node | list[fx.Node] | None:
    """The tensor that a concatenation puts together again, or its operands with such tensors among them."""
    members = list(cast("Sequence[fx.Node]", node.args[0]))
    axis, stacks = _axis(node, 1, 0), node.target == aten.stack.default
    merged: list[fx.Node] = []
    place = 0
    while place < len(members):
        run = _whole_run(members[place:], axis, selected=stacks)
        merged.append(cast("Piece", _piece(members[place])).source if run else members[place])
        place += max(run, 1)
    if merged == members and (len(members) > 1 or stacks):
        return None
    if len(merged) == 1 and _same_value(merged[0], node):
        return merged[0]
    return None if stacks else merged


def _whole_run(members: Sequence[fx.Node], axis: int, *, selected: bool) -> int:
    """How many of the first members are together one whole tensor; 0 if none."""
    last: Piece | None = None
    for count, member in enumerate(members, 1):
        piece = _piece(member)
        if piece is None or piece.axis != axis or piece.selected != selected:
            return 0
        if not (_equal(piece.start, 0) if last is None else piece.follows(last)):
            return 0
        if count > 1 or piece.is_whole:
            piece = Piece(piece.source, axis, 0, piece.stop, selected)
        if piece.is_whole:
            return count
        last = piece
    return 0


def _operand(node: fx.Node, piece: Piece) -> fx.Node | None:
    """The operand of a concatenation that a piece of it is, or None."""
    if piece.source.target not in _JOINS:
        return None
    if (piece.source.target == aten.stack.default) != piece.selected or _axis(piece.source, 1, 0) != piece.axis:
        return None
    start: Size = 0
    for member in cast("Sequence[fx.Node]", piece.source.args[0]):
        stop = start + (1 if piece.selected else _size(member, piece.axis))
        if _equal(start, piece.start) and _equal(stop, piece.stop):
            return member if _same_value(member, node) else None
        start = stop
    return None


# ---------------------------------------------------------------------------------------------------------- pieces


def _piece(node: fx.Node) -> Piece | None:
    """What part of which tensor a node is, or None; a piece of a piece is one of the tensor."""
    piece = _direct_piece(node)
    outer = None if piece is None else _piece(piece.source)
    if piece is None or outer is None or outer.selected or outer.axis != piece.axis:
        return piece
    return replace(piece, source=outer.source, start=outer.start + piece.start, stop=outer.start + piece.stop)


def _direct_piece(node: fx.Node) -> Piece | None:
    if node.target == ops.GETITEM:
        several, number = node.args
        read = _SEVERAL.get(several.target) if isinstance(several, fx.Node) else None
        return None if read is None else read(cast("Any", several), cast("int", number))
    if node.target == aten.slice.Tensor:
        return _slice(node)
    if node.target == aten.narrow.default:
        source, axis = cast("fx.Node", node.args[0]), _axis(node, 1, 0)
        start = _wrapped(_expression(node.args[2]), source, axis)
        return None if start is None else Piece(source, axis, start, start + _size(node, axis))
    if node.target == aten.select.int:
        source = cast("fx.Node", node.args[0])
        axis = cast("int", node.args[1]) % cast("torch.Tensor", tensor_value(source)).ndim
        start = _wrapped(_expression(node.args[2]), source, axis)
        return None if start is None else Piece(source, axis, start, start + 1, selected=True)
    return None


def _slice(node: fx.Node) -> Piece | None:
    source, axis = cast("fx.Node", node.args[0]), _axis(node, 1, 0)
    begin, end, step = (node.args[i] if len(node.args) > i else None for i in (2, 3, 4))
    if step not in (None, 1):
        return None
    size = _size(source, axis)
    start = 0 if begin is None else _wrapped(_expression(begin), source, axis)
    stop = size if end is None or end == sys.maxsize else _wrapped(_expression(end), source, axis)
    if start is None or stop is None:
        return None
    # the operator cuts what is too long, and its example value knows the length
    length = _size(node, axis)
    if not _equal(stop - start, length):
        if not _equal(start + length, size):
            return None
        stop = size
    return Piece(source, axis, start, stop)


def _unbound(several: fx.Node, number: int) -> Piece:
    axis = _axis(several, 1, 0)
    start = number % len(several.meta["val"])
    return Piece(cast("fx.Node", several.args[0]), axis, start, start + 1, selected=True)


def _split(several: fx.Node, number: int) -> Piece:
    axis = _axis(several, 2, 0)
    sizes = [_expression(part.shape[axis]) for part in several.meta["val"]]
    number %= len(sizes)
    start = sum(sizes[:number])
    return Piece(cast("fx.Node", several.args[0]), axis, start, start + sizes[number])


_SEVERAL: dict[Any, Callable[[fx.Node, int], Piece]] = {
    aten.unbind.int: _unbound,
    aten.chunk.default: _split,
    aten.split.Tensor: _split,
    aten.split.sizes: _split,
    aten.split_with_sizes.default: _split,
    aten.tensor_split.sections: _split,
    aten.tensor_split.indices: _split,
}


def _axis(node: fx.Node, place: int, default: int) -> int:
    """The axis that a node names, counted from the left."""
    axis = node.args[place] if len(node.args) > place else node.kwargs.get("dim", default)
    source = node if node.target == aten.stack.default else node.all_input_nodes[0]
    value = tensor_value(source)
    return cast("int", axis) % (1 if value is None else value.ndim)


def _size(node: fx.Node, axis: int) -> Size:
    return _expression(cast("torch.Tensor", tensor_value(node)).shape[axis])


def _expression(value: object) -> Size:
    """A number, or the expression behind a size that is known only when the model runs."""
    value = value.meta.get("val") if isinstance(value, fx.Node) else value
    return value.node.expr if isinstance(value, torch.SymInt) else value


def _wrapped(place: Size, source: fx.Node, axis: int) -> Size | None:
    """A place counted from the left, or None where its sign is not known."""
    negative = place < 0 if isinstance(place, int) else getattr(place, "is_negative", None)
    if negative is None:
        return None
    return place + _size(source, axis) if negative else place


def _equal(left: Size, right: Size) -> bool:
    return bool(left == right or sympy.simplify(left - right) == 0)


def _may_be_viewed(node: fx.Node) -> bool:
    """Whether an operator that needs an order in memory comes later; a captured graph has reshapes for views."""
    return any(later.target in _NEEDS_ORDER for later in descendants([node]))


def _lies_in_rows(node: fx.Node) -> bool:
    """Whether a tensor is contiguous, without fixing any size."""
    value = cast("torch.Tensor", tensor_value(node))
    expected: Size = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        if _expression(size) != 1 and not _equal(_expression(stride), expected):
            return False
        expected = expected * _expression(size)
    return True


def _same_value(left: fx.Node, right: fx.Node) -> bool:
    ours, theirs = tensor_value(left), tensor_value(right)
    return ours is not None and theirs is not None and ours.dtype == theirs.dtype and same_shape(ours, theirs)
