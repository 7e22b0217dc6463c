"""One shape for the state: a residual sum on a reshaped or transposed state becomes a sum on the state itself.

    view(add(reshape(x), f), sizes of x)  ->  add(x, reshape(f, sizes of x))
    transpose(sub(transpose(x), f))       ->  sub(x, transpose(f))

Some models (OPT) flatten batch and tokens before an MLP and undo it after the residual add, so that the state changes
its shape twice in each block; others add on channels first. A sum is elementwise: both forms have the same bits.
Refused: a sum that something reads in the other shape too, because both shapes are needed then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import positions, region_between, same_shape, tensor_value
from passes.runner import Pass, PassResult, Skip, Stage

aten = ops.aten

_SUMS = ops.ADDS | {aten.sub.Tensor, aten.rsub.Tensor}
_VIEWS = ops.VIEWS | {
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.view_as.default,
    aten.reshape_as.default,
}
_REORDERS = frozenset({aten.transpose.int, aten.permute.default})


@dataclass(frozen=True)
class KeepStateShape(Pass):
    """Move sums between a change of a tensor's shape and the one that undoes it to the tensor itself."""

    name: ClassVar[str] = "keep-state-shape"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        matches, skipped = [], []
        place = positions(module.graph)
        for node in list(module.graph.nodes):
            found = _sum_on_moved_state(node, place)
            if found is None:
                continue
            state, number = found
            total = cast("fx.Node", node.args[0])
            if len(total.users) > 1:
                skipped.append(Skip(total.name, f"{total.name} is read in the shape of {state.name} and in its own"))
                continue
            _rewrite(module, node, state, number)
            matches.append(total.name)
        return PassResult(tuple(matches), tuple(skipped))


def _sum_on_moved_state(undo: fx.Node, place: dict[fx.Node, int]) -> tuple[fx.Node, int] | None:
    """The tensor whose shape `undo` restores, and its place in the sum before; None where `undo` restores nothing.

    What else is added is computed from that tensor: it is the state, and not what a term adds to another one.
    """
    total = undo.args[0] if undo.op == "call_function" and undo.target in _VIEWS | _REORDERS else None
    if not isinstance(total, fx.Node) or total.target not in _SUMS:
        return None
    for number, moved in enumerate(total.args[:2]):
        other = total.args[1 - number]
        if not isinstance(moved, fx.Node) or not isinstance(other, fx.Node) or not _undoes(undo, moved):
            continue
        state = moved.args[0]
        if not isinstance(state, fx.Node) or not _same(moved, other) or not _same(state, undo):
            continue
        if state not in place or other not in place or region_between(state, other, place):
            return state, number
    return None


def _undoes(undo: fx.Node, moved: fx.Node) -> bool:
    """Whether two changes of shape are none where the shapes before and after agree."""
    if undo.target in _VIEWS:
        return moved.target in _VIEWS
    if moved.target not in _REORDERS or len(moved.users) > 1:  # what the term reads too is the state, in that order
        return False
    first, second = _order(moved), _order(undo)
    return [first[axis] for axis in second] == list(range(len(first)))


def _order(node: fx.Node) -> list[int]:
    """For each axis of the result the axis that it was."""
    value = tensor_value(node)
    assert value is not None
    if node.target == aten.permute.default:
        return [axis % value.ndim for axis in cast("list[int]", node.args[1])]
    left, right = (cast("int", axis) % value.ndim for axis in node.args[1:3])
    order = list(range(value.ndim))
    order[left], order[right] = right, left
    return order


def _same(left: fx.Node, right: fx.Node) -> bool:
    a, b = tensor_value(left), tensor_value(right)
    return a is not None and b is not None and a.dtype == b.dtype and same_shape(a, b)


def _rewrite(module: fx.GraphModule, undo: fx.Node, state: fx.Node, place: int) -> None:
    total = undo.args[0]
    assert isinstance(total, fx.Node)
    other = cast("fx.Node", total.args[1 - place])
    with module.graph.inserting_before(undo):
        if undo.target in ops.VIEWS:
            moved = module.graph.call_function(aten.reshape.default, (other, *undo.args[1:]))
        elif undo.target in _VIEWS:  # of another name; not all of them take what lies otherwise in memory
            moved = module.graph.call_function(aten.reshape_as.default, (other, state))
        else:
            moved = module.graph.call_function(undo.target, (other, *undo.args[1:]))  # type: ignore[arg-type]
        operands = (state, moved) if place == 0 else (moved, state)
        written = module.graph.call_function(total.target, operands, dict(total.kwargs))  # type: ignore[arg-type]
    for node, origin in ((moved, other), (written, total)):
        node.meta.update(origin.meta)
        node.meta["val"] = undo.meta["val"]
    undo.replace_all_uses_with(written)
