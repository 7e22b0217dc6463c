"""Other spellings of views, orders of dimensions, joins and pieces.

Cases:
    1. a shape taken from another tensor: reshape_as, view_as, expand_as, type_as, broadcast_to;
    2. an order of dimensions: t, T, mT, H, adjoint, movedim, moveaxis -> transpose, permute;
    3. ravel, squeeze of all dimensions of size 1, tile;
    4. joins: hstack, vstack, dstack, column_stack -> cat, stack;
    5. pieces of sizes known when the model is captured: tensor_split, hsplit, vsplit, dsplit -> split_with_sizes;
    6. index_select -> index, take_along_dim -> gather.

Left as they are: joins of tensors without a dimension, pieces whose sizes are known only when the model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import fx

from passes.clean.synonyms import Spelling
from passes.graph.dataflow import tensor_value
from passes.graph.operators import aten
from passes.graph.replacing import Replacing, arguments, rank_of, size_texts


def _source(node: fx.Node) -> fx.Node:
    return cast("fx.Node", node.args[0])


def _like(target: Any) -> Spelling:
    """The shape of another tensor as numbers and sizes of inputs."""

    def spelled(place: Replacing, node: fx.Node) -> fx.Node:
        return place.emit(target, _source(node), place.sizes(cast("fx.Node", node.args[1])))

    return spelled


def _broadcast(place: Replacing, node: fx.Node) -> fx.Node:
    return place.emit(aten.expand.default, *node.args)


def _type_as(place: Replacing, node: fx.Node) -> fx.Node | None:
    value, source = tensor_value(node), tensor_value(_source(node))
    if value is None or source is None or value.device != source.device:
        return None
    return place.emit(aten.to.dtype, _source(node), value.dtype)


# orders -------------------------------------------------------------------------------------------------------------


def _last_two(place: Replacing, node: fx.Node) -> fx.Node | None:
    """MT and, for real numbers, mH and adjoint."""
    value = tensor_value(node)
    if value is None or (value.is_complex() and node.target != aten.mT.default):
        return None
    return place.emit(aten.transpose.int, _source(node), -2, -1)


def _reversed(place: Replacing, node: fx.Node) -> fx.Node | None:
    """t, T and, for real numbers, H: all dimensions in reverse."""
    value = tensor_value(node)
    if value is None or value.is_complex():
        return None
    return place.permuted(_source(node), range(value.ndim)[::-1])


def _movedim(place: Replacing, node: fx.Node) -> fx.Node:
    rank = rank_of(node)
    sources, goals = ([dim % rank for dim in _list(argument)] for argument in node.args[1:3])
    rest = iter(dim for dim in range(rank) if dim not in sources)
    moved = dict(zip(goals, sources, strict=True))
    return place.permuted(_source(node), [moved[dim] if dim in moved else next(rest) for dim in range(rank)])


def _list(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _ravel(place: Replacing, node: fx.Node) -> fx.Node:
    return place.emit(aten.reshape.default, _source(node), [-1])


def _squeeze(place: Replacing, node: fx.Node) -> fx.Node:
    ones = [dim for dim, size in enumerate(size_texts(_source(node))) if size == "1"]
    return place.emit(aten.squeeze.dims, _source(node), ones) if ones else _source(node)


def _tile(place: Replacing, node: fx.Node) -> fx.Node:
    times = cast("list[Any]", node.args[1])
    return place.emit(aten.repeat.default, _source(node), [1] * (rank_of(_source(node)) - len(times)) + list(times))


# joins and pieces ---------------------------------------------------------------------------------------------------


def _stacked(least: int, join: int, new: int) -> Spelling:
    """Tensors of `least` dimensions or more joined along `join`, vectors on a new dimension `new`."""

    def spelled(place: Replacing, node: fx.Node) -> fx.Node | None:
        parts = cast("list[fx.Node]", node.args[0])
        ranks = {rank_of(part) for part in parts}
        if min(ranks) >= least:
            return place.emit(aten.cat.default, list(parts), join)
        return place.emit(aten.stack.default, list(parts), new) if ranks == {1} else None

    return spelled


def _hstack(place: Replacing, node: fx.Node) -> fx.Node | None:
    parts = cast("list[fx.Node]", node.args[0])
    least = min(rank_of(part) for part in parts)
    return place.emit(aten.cat.default, list(parts), min(least - 1, 1)) if least else None


def _dstack(place: Replacing, node: fx.Node) -> fx.Node | None:
    parts = cast("list[fx.Node]", node.args[0])
    return place.emit(aten.cat.default, list(parts), 2) if min(rank_of(part) for part in parts) >= 3 else None


def _pieces(dim: int | None) -> Spelling:
    """tensor_split along its own dimension, or a spelling of it along `dim`; hsplit of a vector is along 0."""

    def spelled(place: Replacing, node: fx.Node) -> fx.Node | None:
        rank = rank_of(_source(node))
        along = cast("int", arguments(node)["dim"]) % rank if dim is None else min(dim, rank - 1)
        sizes = [piece.shape[along] for piece in cast("Sequence[Any]", node.meta["val"])]
        if not all(isinstance(size, int) for size in sizes):
            return None
        return place.emit(aten.split_with_sizes.default, _source(node), sizes, along)

    return spelled


def _index_select(place: Replacing, node: fx.Node) -> fx.Node | None:
    index = cast("fx.Node", node.args[2])
    rank = rank_of(_source(node))
    if rank_of(index) != 1 or not rank:
        return None
    return place.emit(aten.index.Tensor, _source(node), [None] * (cast("int", node.args[1]) % rank) + [index])


def _take_along(place: Replacing, node: fx.Node) -> fx.Node | None:
    source, index, dim = _source(node), cast("fx.Node", node.args[1]), arguments(node)["dim"]
    if dim is None:
        return None
    along = cast("int", dim) % rank_of(source)
    left, right = ([*sizes[:along], *sizes[along + 1 :]] for sizes in (size_texts(source), size_texts(index)))
    if left != right:
        return None
    return place.emit(aten.gather.default, source, along, index)


SPELLINGS: dict[object, Spelling] = {
    aten.reshape_as.default: _like(aten.reshape.default),
    aten.view_as.default: _like(aten.reshape.default),
    aten.expand_as.default: _like(aten.expand.default),
    aten.broadcast_to.default: _broadcast,
    aten.type_as.default: _type_as,
    aten.mT.default: _last_two,
    aten.mH.default: _last_two,
    aten.adjoint.default: _last_two,
    aten.t.default: _reversed,
    aten.numpy_T.default: _reversed,
    aten.matrix_H.default: _reversed,
    aten.movedim.int: _movedim,
    aten.movedim.intlist: _movedim,
    aten.moveaxis.int: _movedim,
    aten.moveaxis.intlist: _movedim,
    aten.ravel.default: _ravel,
    aten.squeeze.default: _squeeze,
    aten.tile.default: _tile,
    aten.hstack.default: _hstack,
    aten.vstack.default: _stacked(2, 0, 0),
    aten.column_stack.default: _stacked(2, 1, 1),
    aten.dstack.default: _dstack,
    aten.tensor_split.sections: _pieces(None),
    aten.tensor_split.indices: _pieces(None),
    aten.hsplit.int: _pieces(1),
    aten.hsplit.array: _pieces(1),
    aten.vsplit.int: _pieces(0),
    aten.vsplit.array: _pieces(0),
    aten.dsplit.int: _pieces(2),
    aten.dsplit.array: _pieces(2),
    aten.index_select.default: _index_select,
    aten.take_along_dim.default: _take_along,
}
