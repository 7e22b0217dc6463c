"""Rules for operators that move, select or repeat values: the branches move with the dimension in which they lie.

Where an operator acts on that very dimension, the branches are moved to another one first.
"""

from __future__ import annotations

import math
from typing import Any, cast

from torch import fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import Apart, CannotLiftError, Lifted, Normed, Pieces, Shared, Wide, through_view
from passes.fusion.relayout import avoiding, front
from passes.fusion.rule import Env, Rule, again, along, number, operand, shape_of, wide_operand
from passes.fusion.shape_changes import carry, keeps_last
from passes.graph import operators as ops
from passes.graph.sizes import Size

aten = ops.aten

# views --------------------------------------------------------------------------------------------------------------


def _through(emitter: Emitter, node: fx.Node, env: Env) -> tuple[Wide, int, Size]:
    """The operand and where its branches lie after a change of shape that keeps the order of elements."""
    value = wide_operand(emitter, node, env)
    place = through_view(value.shape, shape_of(node), value.dim, value.outer)
    if place is None:
        value = front(emitter, value)
        place = through_view(value.shape, shape_of(node), value.dim, 1)
    if place is None:
        raise CannotLiftError(f"{node.name} views {list(value.shape)} as {list(shape_of(node))} across the branches")
    return value, *place


def _view(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    value, dim, outer = _through(emitter, node, env)
    wanted = list(cast("list[int | fx.Node]", node.args[1]))
    size = wanted[dim]
    if isinstance(size, fx.Node):
        wanted[dim] = emitter.emit(ops.MULTIPLY, (emitter.node(env[size], node), emitter.count))
    elif size != -1:
        wanted[dim] = size * emitter.count
    plain = fx.map_arg(wanted, lambda n: emitter.node(env[n], node) if n in env else n)
    return Wide(emitter.emit(aten.reshape.default, (value.node, plain)), dim, outer, shape_of(node))


def _unflatten(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Split one dimension into several; if it holds the branches, one of these grows."""
    value = wide_operand(emitter, node, env)
    rank, axis = len(value.shape), number(node, 1) % len(value.shape)
    parts = list(cast("list[int]", node.args[2]))
    if axis == value.place:
        split = through_view((value.shape[axis],), shape_of(node)[axis : axis + len(parts)], -1, value.outer)
        if split is not None:
            dim, outer = split
            if parts[dim] != -1:
                parts[dim] *= emitter.count
            result = emitter.emit(node.target, (value.node, axis, parts))
            return Wide(result, dim - (rank - 1 - axis), outer, shape_of(node))
        value = avoiding(emitter, value, [axis], node)
    dim = value.dim if axis < value.place else value.dim - (len(parts) - 1)
    return Wide(emitter.emit(node.target, (value.node, axis, parts)), dim, value.outer, shape_of(node))


def _flatten(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Merge neighbouring dimensions: what stood before the branches' dimension now stands before the branches."""
    value = wide_operand(emitter, node, env)
    rank = len(value.shape)
    first, last = number(node, 1, 0) % rank, number(node, 2, -1) % rank
    if value.place > last:
        return again(emitter, node, value, env)
    if value.place < first:
        return again(emitter, node, value, env, dim=value.dim + last - first)
    outer = math.prod(value.shape[first : value.place], start=value.outer)
    return again(emitter, node, value, env, dim=first - len(shape_of(node)), outer=outer)


def _unsqueeze(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    value = wide_operand(emitter, node, env)
    place = number(node, 1) % (len(value.shape) + 1)
    return again(emitter, node, value, env, dim=value.dim - 1 if place > value.place else value.dim)


def _squeeze(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    dims = node.args[1] if isinstance(node.args[1], list | tuple) else [node.args[1]]
    value = along(emitter, node, env, cast("list[int]", dims))
    gone = {dim % len(value.shape) for dim in cast("list[int]", dims) if value.shape[dim] == 1}
    behind = sum(place > value.place for place in gone)
    return again(emitter, node, value, env, dim=value.dim + behind)


# orders of dimensions -----------------------------------------------------------------------------------------------


def _transpose(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    value = wide_operand(emitter, node, env)
    rank = len(value.shape)
    first, second = number(node, 1) % rank, number(node, 2) % rank
    swap = {first: second, second: first}
    return again(emitter, node, value, env, dim=swap.get(value.place, value.place) - rank)


def _permute(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    value = wide_operand(emitter, node, env)
    rank = len(value.shape)
    order = [dim % rank for dim in cast("list[int]", node.args[1])]
    return again(emitter, node, value, env, dim=order.index(value.place) - rank)


def _of_shape(rule: Rule) -> Rule:
    """A change of shape leaves gains and shifts of a normalised state alone where the last dimension stays."""

    def lifted(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
        value = env[operand(node)]
        if isinstance(value, Normed) and isinstance(value.value, Shared) and keeps_last(node):
            carried = carry(emitter, node, value.value.node, shape_of(node)[-1], env)
            return Normed(Shared(carried), value.gains, value.shifts)
        return rule(emitter, node, env)

    return lifted


# pieces -------------------------------------------------------------------------------------------------------------


def _dropped(value: Wide, place: int) -> int:
    """The wide dimension, from the right, after dimension `place` is taken out."""
    return value.dim + 1 if place > value.place else value.dim


def _unbind(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    value = along(emitter, node, env, [number(node, 1)])
    place = number(node, 1) % len(value.shape)
    return Pieces(emitter.emit(node.target, (value.node, place)), _dropped(value, place), value.outer)


def _select(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    value = along(emitter, node, env, [number(node, 1)])
    return again(emitter, node, value, env, dim=_dropped(value, number(node, 1) % len(value.shape)))


def _split(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Chunk and split: along another dimension as they are, along the wide one in whole multiples of `outer`."""
    value = wide_operand(emitter, node, env)
    place = number(node, 2) % len(value.shape)
    parts = [piece.shape[place] for piece in node.meta["val"]]
    equal = isinstance(value.outer, int) and value.outer % len(parts) == 0 and len(set(parts)) == 1
    if place == value.place and equal:
        pieces = emitter.emit(aten.split.Tensor, (value.node, parts[0] * emitter.count, place))
        return Pieces(pieces, value.dim, cast("int", value.outer) // len(parts))
    value = avoiding(emitter, value, [place], node)
    args, kwargs = emitter.plain(node, {**env, operand(node): Shared(value.node)})
    return Pieces(emitter.emit(node.target, args, kwargs), value.dim, value.outer)


def _getitem(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    value = env[operand(node)]
    if isinstance(value, Apart):
        return Apart(tuple(emitter.emit(node.target, (whole, node.args[1])) for whole in value.nodes))
    if not isinstance(value, Pieces):
        raise CannotLiftError(f"{node.name} takes a piece of {operand(node).name}, which the branches hold apart")
    return Wide(emitter.emit(node.target, (value.node, node.args[1])), value.dim, value.outer, shape_of(node))


def _one_dimension(place: int, default: int = 0) -> Rule:
    """Slices, softmax, running sums: what acts along one dimension only."""

    def lifted(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
        return again(emitter, node, along(emitter, node, env, [number(node, place, default)]), env)

    return lifted


def _several_dimensions(place: int) -> Rule:
    """Roll and flip: what acts along the listed dimensions."""

    def lifted(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
        return again(emitter, node, along(emitter, node, env, cast("list[int]", node.args[place])), env)

    return lifted


def _pad(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Padding lists two numbers for each of the last dimensions."""
    padded = len(cast("list[int]", node.args[1])) // 2
    return again(emitter, node, along(emitter, node, env, [-1 - i for i in range(padded)]), env)


def _trailing(count: int) -> Rule:
    """Pooling: what acts along the last dimensions."""

    def lifted(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
        return again(emitter, node, along(emitter, node, env, [-1 - i for i in range(count)]), env)

    return lifted


def _reduce(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Mean, sum and largest value along some dimensions."""
    dims = node.args[1] if len(node.args) > 1 else None
    if isinstance(dims, int):
        dims = [dims]
    if not isinstance(dims, list | tuple) or not dims:
        raise CannotLiftError(f"{node.name} ({node.target}) reduces all dimensions, those of the branches too")
    value = along(emitter, node, env, cast("list[int]", dims))
    keeps = bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False))
    gone = {cast("int", dim) % len(value.shape) for dim in dims}
    behind = 0 if keeps else sum(place > value.place for place in gone)
    return again(emitter, node, value, env, dim=value.dim + behind)


RULES: dict[Any, Rule] = {
    **dict.fromkeys(ops.VIEWS, _of_shape(_view)),
    aten.transpose.int: _of_shape(_transpose),
    aten.permute.default: _of_shape(_permute),
    aten.unflatten.int: _unflatten,
    aten.flatten.using_ints: _flatten,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.unbind.int: _unbind,
    aten.select.int: _select,
    aten.chunk.default: _split,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    ops.GETITEM: _getitem,
    aten.slice.Tensor: _one_dimension(1),
    aten.narrow.default: _one_dimension(1),
    aten.cumsum.default: _one_dimension(1),
    **dict.fromkeys(ops.SOFTMAXES, _one_dimension(1)),
    aten.glu.default: _one_dimension(1, -1),
    aten.roll.default: _several_dimensions(2),
    aten.flip.default: _several_dimensions(1),
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    **dict.fromkeys(ops.POOLS_1D, _trailing(1)),
    **dict.fromkeys(ops.POOLS_2D, _trailing(2)),
    **dict.fromkeys(ops.REDUCTIONS, _reduce),
}
