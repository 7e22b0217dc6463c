"""Move the branches of a wide value to another place, and put values beside them that lie elsewhere.

    (.., outer * N * inner, ..)  ->  (N, ..)  ->  (.., outer' * N * inner', ..)

A move is exact and costs a transposition, so the emitter counts them, and the search prefers layouts that need none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sympy
import torch
from torch import Tensor, fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import Apart, CannotLiftError, Lifted, Normed, Shared, Stored, Wide, interleave
from passes.graph import operators as ops
from passes.graph.sizes import Size

aten = ops.aten

JOINED = "joined_branches"  # in the `meta` of a concatenation of what has run branch by branch


def unflatten(emitter: Emitter, node: fx.Node, place: int, parts: Sequence[Size]) -> fx.Node:
    """Split dimension `place` into parts, of which one may be known only when the model runs."""
    known = [int(part) if part == int_or_none(part) else -1 for part in parts]
    if known.count(-1) > 1:
        raise CannotLiftError(f"{node.name} has a dimension of {parts}, of which two sizes are free")
    return emitter.emit_once(aten.unflatten.int, (node, place, known))


def int_or_none(size: Size) -> int | None:
    """The size as a number where it is one."""
    if isinstance(size, int):
        return size
    return int(size) if size.is_Integer else None


def divided(size: Size, part: Size) -> Size:
    """`size / part`, an int where it is one."""
    result = sympy.cancel(sympy.sympify(size) / part)
    return int(result) if result.is_Integer else result


def stacked(emitter: Emitter, value: Wide) -> fx.Node:
    """The branches on an axis of their own in front: (N, *shape)."""
    inner = divided(value.shape[value.place], value.outer)
    if value.outer == 1:
        node, axis = unflatten(emitter, value.node, value.place, (emitter.count, inner)), value.place
    else:
        node, axis = unflatten(emitter, value.node, value.place, (value.outer, emitter.count, inner)), value.place + 1
    if axis:
        emitter.moves += 1
        rank = len(value.shape) + (1 if value.outer == 1 else 2)
        node = emitter.emit(aten.permute.default, (node, [axis, *(d for d in range(rank) if d != axis)]))
    return node if value.outer == 1 else flatten(emitter, node, value.place + 1, value.place + 2)


def flatten(emitter: Emitter, node: fx.Node, first: int, last: int) -> fx.Node:
    """Merge neighbouring dimensions."""
    return emitter.emit(aten.flatten.using_ints, (node, first, last))


def unstacked(emitter: Emitter, node: fx.Node, shape: Sequence[Size], dim: int | None = None, outer: Size = 1) -> Wide:
    """The wide value of a stacked one, (N, *shape); in front unless `dim` says where."""
    shape, rank = tuple(shape), len(shape)
    dim = -rank if dim is None else dim
    place = rank + dim
    if outer != 1:
        node = unflatten(emitter, node, place + 1, (outer, divided(shape[place], outer)))
    axis = place if outer == 1 else place + 1  # of the branches, once the rest is counted without them
    if axis:
        emitter.moves += 1
        others = list(range(1, rank + 1 if outer == 1 else rank + 2))
        node = emitter.emit(aten.permute.default, (node, [*others[:axis], 0, *others[axis:]]))
    return Wide(flatten(emitter, node, place, place + (1 if outer == 1 else 2)), dim, outer, shape)


def joined(emitter: Emitter, value: Apart, shape: Sequence[Size], dim: int | None = None) -> Wide:
    """The wide value of branches that were computed one by one; in front unless `dim` says where."""
    dim = -len(shape) if dim is None else dim
    node = emitter.emit_once(aten.cat.default, (list(value.nodes), len(shape) + dim))
    node.meta[JOINED] = True
    return Wide(node, dim, 1, tuple(shape))


def cut(emitter: Emitter, value: Wide) -> tuple[fx.Node, ...]:
    """The value of each branch by itself, cut out of a wide one."""
    inner = divided(value.shape[value.place], value.outer)
    parts = (emitter.count, inner) if value.outer == 1 else (value.outer, emitter.count, inner)
    axis = value.place + len(parts) - 2
    unbound = emitter.emit_once(aten.unbind.int, (unflatten(emitter, value.node, value.place, parts), axis))
    pieces = [emitter.emit_once(ops.GETITEM, (unbound, number)) for number in range(emitter.count)]
    if value.outer == 1:
        return tuple(pieces)
    emitter.moves += emitter.count
    return tuple(emitter.emit_once(aten.flatten.using_ints, (piece, value.place, axis)) for piece in pieces)


def moved(emitter: Emitter, value: Wide, dim: int, outer: Size = 1) -> Wide:
    """The same value with its branches in another place."""
    if value.layout == (dim, outer):
        return value
    return unstacked(emitter, stacked(emitter, value), value.shape, dim, outer)


def front(emitter: Emitter, value: Wide) -> Wide:
    """The same value with its branches in front, as more samples."""
    return moved(emitter, value, -len(value.shape))


def avoiding(emitter: Emitter, value: Wide, places: Collection[int], reader: fx.Node) -> Wide:
    """The same value with its branches outside of the dimensions `places`, counted from the left.

    Raises:
        CannotLiftError: no dimension is left.
    """
    if value.place not in places:
        return value
    rank = len(value.shape)
    free = [place for place in range(rank) if place not in places]
    if not free:
        raise CannotLiftError(f"{reader.name} ({reader.target}) leaves no dimension in which the branches could lie")
    return moved(emitter, value, free[0] - rank)


def expanded(emitter: Emitter, value: Shared, shape: Sequence[Size], dim: int, outer: Size = 1) -> Wide:
    """A value that the branches share, once for each."""
    node = emitter.emit(aten.unsqueeze.default, (value.node, 0))
    node = emitter.emit(aten.expand.default, (node, [emitter.count, *([-1] * len(shape))]))
    return unstacked(emitter, node, shape, dim, outer)


def stacked_parameter(emitter: Emitter, value: Stored, rank: int) -> fx.Node:
    """The branches' parameters as (N, ...) with `rank` dimensions behind the branches."""
    first = value.tensors[0]
    shape = (emitter.count, *([1] * (rank - first.ndim)), *first.shape)
    return emitter.store("parameter", lambda: torch.stack(value.tensors).reshape(shape))


def on_an_axis(emitter: Emitter, value: Lifted, rank: int, reader: fx.Node) -> fx.Node:
    """A value with the branches on an axis of their own in front of `rank` dimensions; shared ones broadcast along it.

    Raises:
        CannotLiftError: the value is in several tensors.
    """
    if isinstance(value, Shared):
        return value.node
    if isinstance(value, Stored):
        return stacked_parameter(emitter, value, rank)
    if isinstance(value, Apart):
        node = emitter.emit_once(aten.stack.default, (list(value.nodes), 0))  # of numbers
        node.meta[JOINED] = True
        return _unsqueezed(emitter, node, rank)
    if not isinstance(value, Wide):
        raise CannotLiftError(f"{reader.name} ({reader.target}) reads a value that the branches hold apart")
    return _unsqueezed(emitter, stacked(emitter, value), rank - len(value.shape))


def _unsqueezed(emitter: Emitter, node: fx.Node, count: int) -> fx.Node:
    """New dimensions right behind that of the branches."""
    for _ in range(count):
        node = emitter.emit(aten.unsqueeze.default, (node, 1))
    return node


def wide_parameter(emitter: Emitter, value: Stored, shape: Sequence[Size], dim: int, outer: Size) -> fx.Node | None:
    """The branches' parameters side by side in `dim` of a value of `shape`, or None where they cannot lie there."""
    size, parts = int_or_none(shape[dim]), int_or_none(outer)
    if size is None or parts is None:
        return None
    return emitter.store("parameter", lambda: interleave([_filled(t, dim, size) for t in value.tensors], dim, parts))


def _filled(tensor: Tensor, dim: int, size: int) -> Tensor:
    """The tensor with `size` values in a dimension where it had one or none."""
    padded = tensor.reshape((*([1] * (-dim - tensor.ndim)), *tensor.shape))
    wanted = [-1] * padded.ndim
    wanted[dim] = size
    return padded.expand(wanted)


def materialised(emitter: Emitter, value: Lifted, node: fx.Node, shape: Sequence[Size]) -> Lifted:
    """A value whose gains and shifts no linear will take: applied, the branches in front.

    So are branches that were computed one by one; what has no dimensions stays apart.
    """
    if isinstance(value, Apart) and shape:
        return joined(emitter, value, shape)
    if not isinstance(value, Normed):
        return value
    if all(vector is None for vector in (*value.gains, *value.shifts)):
        return value.value
    result = value.value.node if isinstance(value.value, Shared) else stacked(emitter, value.value)
    dtype = node.meta["val"].dtype
    for target, vectors, neutral in ((aten.mul.Tensor, value.gains, 1.0), (aten.add.Tensor, value.shifts, 0.0)):
        if all(vector is None for vector in vectors):
            continue
        stored = Stored(_vectors(vectors, neutral, dtype))
        result = emitter.emit(target, (result, stacked_parameter(emitter, stored, len(shape))))
    return unstacked(emitter, result, shape)


def _vectors(vectors: Sequence[Tensor | None], neutral: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    known = next(vector for vector in vectors if vector is not None)
    return tuple(torch.full_like(known, neutral, dtype=dtype) if v is None else v.to(dtype) for v in vectors)
