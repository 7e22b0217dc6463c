"""Rules for products: linears, convolutions, matrix products, attention.

shared input     one product with the weights of all branches side by side
private inputs   one batched product, or one convolution with N times the groups; where the weights are the same, one
                 product of all (passes/fusion/rules/tied.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import CannotLiftError, Lifted, Normed, Shared, Stored, Wide, interleave
from passes.fusion.relayout import expanded, flatten, int_or_none, materialised, moved, on_an_axis, stacked, unstacked
from passes.fusion.rule import Env, Rule, in_channels, operand, shape_of, wide_operand
from passes.fusion.rules.tied import is_tied, on_more_samples
from passes.fusion.weights import folded_bias, folded_weight, groups_of, has_bias, stored_parameters
from passes.graph import operators as ops
from passes.graph.convolutions import convolution_settings
from passes.graph.parameters import has_stored_weights
from passes.graph.sizes import Size

aten = ops.aten

HEADS = -3


def _linear(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    source = env[operand(node)]
    columns = emitter.column(node)
    if is_tied(node, env) and len(shape_of(operand(node))) > 1:
        return on_more_samples(emitter, node, env, (-1,))
    if not all(has_stored_weights(other) for other in columns):
        return _computed_linear(emitter, node, env)
    if isinstance(source, Shared) or (isinstance(source, Normed) and isinstance(source.value, Shared)):
        return _wide_linear(emitter, node, source, columns)
    return _batched_linear(emitter, node, env, columns)


def _wide_linear(emitter: Emitter, node: fx.Node, source: Shared | Normed, columns: Sequence[fx.Node]) -> Wide:
    """A linear of a shared input: the rows of all branches side by side."""
    outer, (gains, shifts) = emitter.outers[node], _vectors(emitter, source)

    def weight() -> Tensor:
        folded = [folded_weight(emitter.module, n, gain) for n, gain in zip(columns, gains, strict=True)]
        return interleave(folded, 0, outer)

    def bias() -> Tensor:
        folded = [folded_bias(emitter.module, n, shift) for n, shift in zip(columns, shifts, strict=True)]
        return interleave(folded, 0, outer)

    state = source.value if isinstance(source, Normed) else source
    weight_node = emitter.store("weight", weight)
    bias_node = emitter.store("bias", bias) if has_bias(node, shifts) else None
    result = emitter.emit(ops.LINEAR, (state.node, weight_node, bias_node))
    return Wide(result, -1, outer, shape_of(node))


def _batched_linear(emitter: Emitter, node: fx.Node, env: Env, columns: Sequence[fx.Node]) -> Wide:
    """A linear of private inputs: one batched matrix product, the branches as the batch."""
    source = env[operand(node)]
    gains, shifts = _vectors(emitter, source)
    if isinstance(source, Normed):
        env = {**env, operand(node): source.value}
    value = wide_operand(emitter, node, env)
    rows, back = _rows(emitter, stacked(emitter, value), value.shape)

    def weight() -> Tensor:
        folded = [folded_weight(emitter.module, n, gain) for n, gain in zip(columns, gains, strict=True)]
        return torch.stack([weight.T for weight in folded])

    def bias() -> Tensor:
        folded = [folded_bias(emitter.module, n, shift) for n, shift in zip(columns, shifts, strict=True)]
        return torch.stack(folded)[:, None]

    factors = (rows, emitter.store("weight", weight))
    if has_bias(node, shifts):
        product = emitter.emit(aten.baddbmm.default, (emitter.store("bias", bias), *factors))
    else:
        product = emitter.emit(aten.bmm.default, factors)
    result = shape_of(node)
    wanted = [*back, result[-1]] if back else [-1]  # vectors lie one after another
    return Wide(emitter.emit(aten.reshape.default, (product, wanted)), -len(result), 1, result)


def _computed_linear(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """A linear whose weight is computed when the model runs: a product with the branches on an axis of their own."""
    source, weight = operand(node), operand(node, 1)
    result = shape_of(node)
    if len(result) < 2 or len(shape_of(weight)) != 2:
        raise CannotLiftError(f"{node.name} ({node.target}) multiplies a vector")
    values = (materialised(emitter, env[each], each, shape_of(each)) for each in (source, weight))
    left, right = (on_an_axis(emitter, value, len(result), node) for value in values)
    product = emitter.emit(aten.matmul.default, (left, emitter.emit(aten.transpose.int, (right, -2, -1))))
    bias = node.args[2] if len(node.args) > 2 else None
    if isinstance(bias, fx.Node):
        value = materialised(emitter, env[bias], bias, shape_of(bias))
        product = emitter.emit(aten.add.Tensor, (product, on_an_axis(emitter, value, len(result), node)))
    return unstacked(emitter, product, result)


def _rows(emitter: Emitter, node: fx.Node, shape: Sequence[Size]) -> tuple[fx.Node, list[Any]]:
    """(N, *shape) as (N, rows, columns), and the sizes that lead back to (N * first, ..)."""
    if len(shape) == 1:
        return emitter.emit(aten.unsqueeze.default, (node, 1)), []
    back: list[Any] = [-1]
    for place in range(1, len(shape) - 1):
        size = int_or_none(shape[place])
        back.append(emitter.emit(aten.sym_size.int, (node, place + 1)) if size is None else size)
    rows = node if len(shape) == 2 else flatten(emitter, node, 1, len(shape) - 1)
    return rows, back


def _vectors(emitter: Emitter, source: Lifted) -> tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]]:
    """Gains and shifts that wait at a linear's input."""
    none: tuple[Tensor | None, ...] = (None,) * emitter.count
    return (source.gains, source.shifts) if isinstance(source, Normed) else (none, none)


# convolutions -------------------------------------------------------------------------------------------------------


def _convolution(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    columns, rank = emitter.column(node), len(shape_of(node))
    weight_shape = stored_parameters(emitter.module, node)[0].shape
    if rank != len(weight_shape):
        raise CannotLiftError(f"{node.name} reads {list(shape_of(operand(node)))}, which has no batch")
    if is_tied(node, env):
        return on_more_samples(emitter, node, env, range(1, rank))
    groups = groups_of(node)
    shared = isinstance(env[operand(node)], Shared)
    outer = groups if shared else 1

    def weight() -> Tensor:
        return interleave([stored_parameters(emitter.module, n)[0] for n in columns], 0, outer)

    def bias() -> Tensor:
        return interleave([folded_bias(emitter.module, n, None) for n in columns], 0, outer)

    source = emitter.node(env[operand(node)], node) if shared else in_channels(emitter, node, env).node
    parameters = (emitter.store("weight", weight), emitter.store("bias", bias) if has_bias(node) else None)
    settings = convolution_settings(node)
    args = (source, *parameters, *settings[:-1], groups if shared else groups * emitter.count)
    return Wide(emitter.emit(node.target, args), 1 - rank, outer, shape_of(node))


# matrix products ----------------------------------------------------------------------------------------------------


def _matrix_product(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Products of two values: the branches in the leading dimensions, or on an axis of their own."""
    places = (0, 1)
    sources = [operand(node, place) for place in places]
    values = [materialised(emitter, env[source], source, shape_of(source)) for source in sources]
    result = shape_of(node)
    layouts = {value.layout for value in values if isinstance(value, Wide)}
    if len(layouts) == 1 and _batches(sources, values, result, next(iter(layouts))[0]):
        args = tuple(emitter.node(value, node) for value in values)
        return Wide(emitter.emit(node.target, args), *next(iter(layouts)), result)
    if len(result) < 2 or any(len(shape_of(source)) < 2 for source in sources):
        raise CannotLiftError(f"{node.name} ({node.target}) multiplies a vector")
    nodes = [on_an_axis(emitter, value, len(result), node) for value in values]
    return unstacked(emitter, emitter.emit(aten.matmul.default, tuple(nodes)), result)


def _batches(sources: Sequence[fx.Node], values: Sequence[Lifted], result: Sequence[Size], dim: int) -> bool:
    """Whether the product can be taken with the branches in dimension `dim`, among the leading ones."""
    if dim > -3:
        return False
    for source, value in zip(sources, values, strict=True):
        shape = shape_of(source)
        size = shape[dim] if len(shape) >= -dim else 1
        if size != (result[dim] if isinstance(value, Wide) else 1) or isinstance(value, Stored):
            return False
    return True


def _distances(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Distances of all pairs of rows: the branches on an axis of their own."""
    sources, result = [operand(node, place) for place in (0, 1)], shape_of(node)
    values = [materialised(emitter, env[source], source, shape_of(source)) for source in sources]
    left, right = (on_an_axis(emitter, value, len(result), node) for value in values)
    return unstacked(emitter, emitter.emit(node.target, (left, right, *node.args[2:]), dict(node.kwargs)), result)


def _product_and_sum(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """baddbmm, beta * input + alpha * a @ b: the branches on an axis of their own."""
    sources, result = [operand(node, place) for place in range(3)], shape_of(node)
    values = [materialised(emitter, env[source], source, shape_of(source)) for source in sources]
    total, left, right = (on_an_axis(emitter, value, len(result), node) for value in values)
    product = emitter.emit(aten.matmul.default, (left, right))
    for name, factor in node.kwargs.items():
        if factor == 1:
            continue
        if name == "alpha":
            product = emitter.emit(aten.mul.Tensor, (product, factor))
        elif name == "beta":
            total = emitter.emit(aten.mul.Tensor, (total, factor))
    return unstacked(emitter, emitter.emit(aten.add.Tensor, (total, product)), result)


# attention ----------------------------------------------------------------------------------------------------------


def _attention(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """One attention with N times the heads, or with the branches as more samples."""
    values = [wide_operand(emitter, node, env, place) for place in range(3)]
    rank = len(values[0].shape)
    if rank < 3:
        raise CannotLiftError(f"{node.name} reads {list(values[0].shape)}, which has no batch")
    layouts = {value.layout for value in values}
    layout = layouts.pop() if len(layouts) == 1 and values[0].dim <= HEADS else (-rank, 1)
    layout = _with_room_for_mask(node, env, layout)
    placed = {operand(node, place): Shared(moved(emitter, value, *layout).node) for place, value in enumerate(values)}
    args, kwargs = emitter.plain(node, {**env, **placed, **_mask(emitter, node, env, layout)})
    return Wide(emitter.emit(node.target, args, kwargs), *layout, shape_of(node))


def _mask_node(node: fx.Node) -> fx.Node | None:
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    return mask if isinstance(mask, fx.Node) else None


def _with_room_for_mask(node: fx.Node, env: Env, layout: tuple[int, Size]) -> tuple[int, Size]:
    """A mask that differs between the branches but not between samples lies best in the heads."""
    mask = _mask_node(node)
    if mask is None or isinstance(env[mask], Shared):
        return layout
    shape, query = shape_of(mask), shape_of(operand(node))
    if len(shape) >= -layout[0] and shape[layout[0]] == query[layout[0]]:
        return layout
    return (HEADS, 1) if int_or_none(query[HEADS]) is not None else layout


def _mask(emitter: Emitter, node: fx.Node, env: Env, layout: tuple[int, Size]) -> dict[fx.Node, Lifted]:
    """The mask as the heads of all branches read it."""
    mask = _mask_node(node)
    if mask is None:
        return {}
    dim, outer = layout
    value, shape = materialised(emitter, env[mask], mask, shape_of(mask)), shape_of(mask)
    size = shape[dim] if len(shape) >= -dim else 1
    if isinstance(value, Shared) and size == 1:
        return {}
    query = shape_of(operand(node))
    if isinstance(value, Shared):
        return {mask: Shared(expanded(emitter, value, shape, dim, outer).node)}
    padded = (*([1] * (len(query) - len(shape))), *shape)
    wide = unstacked(emitter, on_an_axis(emitter, value, len(query), node), padded)
    wide = _filled(emitter, wide, query, dim)
    return {mask: Shared(moved(emitter, wide, dim, outer).node)}


def _filled(emitter: Emitter, value: Wide, query: Sequence[Size], dim: int) -> Wide:
    """A mask that is the same for all heads, or all samples, repeated along `dim`."""
    if value.shape[dim] == query[dim]:
        return value
    size = int_or_none(query[dim])
    if size is None:
        raise CannotLiftError("a mask that differs between the branches is the same for all samples")
    place = len(value.shape) + dim
    wanted = [-1] * (len(value.shape) + 1)
    wanted[place + 1] = size
    node = emitter.emit(aten.expand.default, (stacked(emitter, value), wanted))
    return unstacked(emitter, node, (*value.shape[:place], size, *value.shape[place + 1 :]))


RULES: dict[Any, Rule] = {
    ops.LINEAR: _linear,
    **dict.fromkeys(ops.PLAIN_CONVOLUTIONS, _convolution),
    aten.matmul.default: _matrix_product,
    aten.bmm.default: _matrix_product,
    aten.baddbmm.default: _product_and_sum,
    aten.cdist.default: _distances,
    ops.ATTENTION: _attention,
}
