"""Rules for operators that pick or put values at places which a tensor names.

Cases:
    1. one or several dimensions indexed by tensors that the branches share;
    2. gather and scatter, whose index is as large as the values beside the dimension that it names: the index of each
       branch lies where its values lie;
    3. values added, copied or filled in along a dimension at places that the branches share; a slice or a row put in;
    4. tables of rows: of each branch at the same places, the tables stand side by side; at places that differ, one
       stands below the other and each branch looks into its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import CannotLiftError, Lifted, Shared, Stored, Wide
from passes.fusion.relayout import expanded, materialised, moved, on_an_axis, unstacked
from passes.fusion.rule import Env, Rule, along, number, operand, shape_of, wide_operand
from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value

aten = ops.aten


def _index(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Dimensions indexed by tensors that the branches share; apart from each other, what is picked comes first."""
    indices = cast("list[fx.Node | None]", node.args[1])
    places = [place for place, index in enumerate(indices) if index is not None]
    picked = [index for index in indices if index is not None]
    for index in picked:
        env = {**env, index: _same(node, index, env[index])}
        value = tensor_value(index)
        if value is None or value.dtype in (torch.bool, torch.uint8):
            raise CannotLiftError(f"{node.name} indexes by the mask {index.name}, whose size only the data tell")
    source = along(emitter, node, env, places)
    new = max(len(shape_of(index)) for index in picked)
    ahead = sum(place < source.place for place in places)
    together = places == list(range(places[0], places[0] + len(places)))
    added = new if ahead or not together else 0
    place = source.place - ahead + added
    args, kwargs = emitter.plain(node, {**env, operand(node): Shared(source.node)})
    return Wide(emitter.emit(node.target, args, kwargs), place - len(shape_of(node)), source.outer, shape_of(node))


def _same(node: fx.Node, index: fx.Node, value: Lifted) -> Shared:
    """An index that all branches share, be it stored for each of them."""
    if isinstance(value, Shared):
        return value
    if isinstance(value, Stored) and all(torch.equal(value.tensors[0], other) for other in value.tensors):
        return Shared(index)
    raise CannotLiftError(f"{node.name} indexes by {index.name}, which differs between the branches")


def _beside(emitter: Emitter, node: fx.Node, env: Env, places: Sequence[int], dim: int) -> dict[fx.Node, Wide]:
    """Operands of one rank, all with their branches in one dimension other than `dim`, which is as large in each."""
    sources = [operand(node, place) for place in places]
    shapes = [shape_of(source) for source in sources]
    free = [place for place in range(len(shapes[0])) if place != dim % len(shapes[0])]
    fits = [place for place in free if len({shape[place] for shape in shapes}) == 1]
    if not fits:
        raise CannotLiftError(f"{node.name} ({node.target}) picks from only a part of {sources[0].name}")
    values = [materialised(emitter, env[source], source, shape_of(source)) for source in sources]
    lying = [value.layout for value in values if isinstance(value, Wide) and value.place in fits]
    layout = lying[0] if lying else (fits[0] - len(shapes[0]), 1)
    nodes: dict[fx.Node, Wide] = {}
    for source, value in zip(sources, values, strict=True):
        wide = expanded(emitter, value, shape_of(source), *layout) if isinstance(value, Shared) else value
        if not isinstance(wide, Wide):
            wide = wide_operand(emitter, node, {**env, source: wide}, node.args.index(source))
        nodes[source] = moved(emitter, wide, *layout)
    return nodes


def _placed(*places: int) -> Rule:
    """gather, scatter and what puts values in along a dimension: the operands at `places` hold the branches alike."""

    def lifted(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
        nodes = _beside(emitter, node, env, places, number(node, 1))
        for source in (arg for arg in node.args if isinstance(arg, fx.Node) and arg not in nodes):
            env = {**env, source: _same(node, source, env[source])}
        return _put(emitter, node, nodes, env)

    return lifted


def _put(emitter: Emitter, node: fx.Node, nodes: Mapping[fx.Node, Wide], env: Env) -> Wide:
    """The operator on wide operands that all lie alike."""
    wide = {source: Shared(value.node) for source, value in nodes.items()}
    args, kwargs = emitter.plain(node, {**env, **wide})
    return Wide(emitter.emit(node.target, args, kwargs), *nodes[operand(node)].layout, shape_of(node))


def _slice_scatter(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    return _put(emitter, node, _beside(emitter, node, env, (0, 1), number(node, 2)), env)


def _embedding(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Rows of a table: the last dimension is the table's, the others are those of the places."""
    table, places = env[operand(node)], env[operand(node, 1)]
    result, rank = shape_of(node), len(shape_of(node))
    if isinstance(places, Shared) and isinstance(table, Stored):
        weight = emitter.store("table", lambda: torch.cat(table.tensors, 1))
        return Wide(emitter.emit(node.target, (weight, places.node)), -1, 1, result)
    if isinstance(table, Shared):
        wide = wide_operand(emitter, node, env, 1)
        return Wide(emitter.emit(node.target, (table.node, wide.node)), wide.dim - 1, wide.outer, result)
    if not isinstance(table, Stored):
        raise CannotLiftError(f"{node.name} looks into {operand(node).name}, which is no parameter")
    axis = on_an_axis(emitter, materialised(emitter, places, node, shape_of(operand(node, 1))), rank - 1, node)
    weight = emitter.store("table", lambda: torch.cat(table.tensors))
    rows = len(table.tensors[0])
    shift = torch.arange(emitter.count, device=table.tensors[0].device).mul(rows).reshape(-1, *([1] * (rank - 1)))
    own = emitter.emit(aten.add.Tensor, (axis, emitter.store("rows", lambda: shift)))
    return unstacked(emitter, emitter.emit(node.target, (weight, own)), result)


RULES: dict[Any, Rule] = {
    aten.index.Tensor: _index,
    aten.gather.default: _placed(0, 2),
    **dict.fromkeys((aten.scatter.src, aten.scatter_add.default, aten.scatter_reduce.two), _placed(0, 2, 3)),
    aten.scatter.value: _placed(0, 2),
    **dict.fromkeys((aten.index_add.default, aten.index_copy.default), _placed(0, 3)),
    aten.index_fill.int_Scalar: _placed(0),
    aten.slice_scatter.default: _slice_scatter,
    aten.embedding.default: _embedding,
}
