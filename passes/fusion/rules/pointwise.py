"""Rules for pointwise operators and norms.

Values that lie in one place are combined there. Where the branches meet a value that has room for only one of them, all
are put on an axis of their own, and the value is broadcast along it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import CannotLiftError, Lifted, Normed, Shared, Stored, Wide
from passes.fusion.relayout import avoiding, expanded, materialised, moved, on_an_axis, unstacked, wide_parameter
from passes.fusion.rule import Env, Rule, in_channels, operand, shape_of
from passes.fusion.rules.tied import is_tied, on_more_samples
from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value
from passes.graph.parameters import read_parameter
from passes.graph.sizes import Size

aten = ops.aten

Layout = tuple[int, Size]


def pointwise(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """The operator where the branches lie, or on an axis of their own; a gain or shift of a state waits."""
    waiting = _gain_or_shift(node, env)
    if waiting is not None:
        return waiting
    result = shape_of(node)
    tensors = [source for source in node.all_input_nodes if tensor_value(source) is not None]
    values = {source: materialised(emitter, env[source], source, shape_of(source)) for source in tensors}
    layout = _layout(values, result)
    arranged = None if layout is None else _side_by_side(emitter, values, layout, result)
    if layout is not None and arranged is not None:
        return Wide(_emit(emitter, node, arranged, env), *layout, result)
    apart = {source: on_an_axis(emitter, value, len(result), node) for source, value in values.items()}
    return unstacked(emitter, _emit(emitter, node, apart, env), result)


def _emit(emitter: Emitter, node: fx.Node, arranged: Mapping[fx.Node, fx.Node], env: Env) -> fx.Node:
    args, kwargs = emitter.plain(node, {**env, **{source: Shared(new) for source, new in arranged.items()}})
    return emitter.emit(node.target, args, kwargs)


def _layout(values: Mapping[fx.Node, Lifted], result: Sequence[Size]) -> Layout | None:
    """Where most of the result lies already: the place of the largest wide operand that fills its dimension there."""
    full = [
        value
        for value in values.values()
        if isinstance(value, Wide) and value.shape[value.dim] == result[value.dim] and result[value.dim] != 1
    ]
    if not full:
        return None
    return max(full, key=lambda v: sum(a == b for a, b in zip(v.shape[::-1], result[::-1], strict=False))).layout


def _side_by_side(
    emitter: Emitter, values: Mapping[fx.Node, Lifted], layout: Layout, result: Sequence[Size]
) -> dict[fx.Node, fx.Node] | None:
    """Every operand with the branches in one place; None where one of them has no room for that."""
    arranged: dict[fx.Node, fx.Node] = {}
    for source, value in values.items():
        node = _placed(emitter, value, source, layout, result)
        if node is None:
            return None
        arranged[source] = node
    return arranged


def _placed(emitter: Emitter, value: Lifted, source: fx.Node, layout: Layout, result: Sequence[Size]) -> fx.Node | None:
    shape, (dim, outer) = shape_of(source), layout
    size = shape[dim] if len(shape) >= -dim else 1
    if isinstance(value, Wide):
        fits = value.layout == layout or len(shape) == len(result)
        return moved(emitter, value, dim, outer).node if size == result[dim] and fits else None
    if isinstance(value, Stored):
        return wide_parameter(emitter, value, result, dim, outer)
    if not isinstance(value, Shared):
        return None
    if size == 1:
        return value.node
    small = len(shape) < len(result) or any(a != b for a, b in zip(shape, result, strict=True))
    return expanded(emitter, value, shape, dim, outer).node if small else None


def _gain_or_shift(node: fx.Node, env: Env) -> Normed | None:
    """A shared or normalised state times or plus a vector of each branch, as where a norm is spelled out."""
    operands = [env[arg] for arg in node.args if isinstance(arg, fx.Node)]
    vectors = [value for value in operands if isinstance(value, Stored)]
    states = [value for value in operands if isinstance(value, Shared | Normed)]
    times = node.target == aten.mul.Tensor
    if any(vector.tensors[0].is_complex() for vector in vectors):
        return None
    if not (times or node.target == ops.ADD) or node.kwargs or len(vectors) != 1 or len(states) != 1:
        return None
    result = shape_of(node)
    state_node = next(arg for arg in node.args if isinstance(arg, fx.Node) and env[arg] is states[0])
    if shape_of(state_node) != result or tuple(vectors[0].tensors[0].shape) != result[-1:]:
        return None
    state, tensors = states[0], [tensor.double() for tensor in vectors[0].tensors]
    none: tuple[Tensor | None, ...] = (None,) * len(tensors)
    value, gains, shifts = (
        (state.value, state.gains, state.shifts) if isinstance(state, Normed) else (state, none, none)
    )
    if not times:
        return Normed(value, gains, tuple(v if s is None else s + v for s, v in zip(shifts, tensors, strict=True)))
    return Normed(
        value,
        tuple(v if g is None else g * v for g, v in zip(gains, tensors, strict=True)),
        tuple(None if s is None else s * v for s, v in zip(shifts, tensors, strict=True)),
    )


# norms --------------------------------------------------------------------------------------------------------------


def _norm(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """layer_norm and rms_norm: statistics once for all branches, gains and shifts wait to be folded."""
    layer = node.target == ops.LAYER_NORM
    source, dims = operand(node), cast("list[int]", node.args[1])
    if is_tied(node, env):
        return on_more_samples(emitter, node, env, range(-len(dims), 0))
    gains = _stored_vectors(emitter, node, 2, env)
    shifts = _stored_vectors(emitter, node, 3, env) if layer else (None,) * emitter.count
    value = materialised(emitter, env[source], source, shape_of(source))
    if isinstance(value, Wide):
        rank = len(value.shape)
        value = avoiding(emitter, value, range(rank - len(dims), rank), node)
    elif not isinstance(value, Shared):
        raise CannotLiftError(f"{node.name} normalises {source.name}, which the branches hold apart")
    epsilon = ops.norm_epsilon(node)
    plain = (None, None, epsilon, False) if layer else (None, epsilon)
    normed = emitter.emit_once(node.target, (value.node, list(dims), *plain))
    bare = Shared(normed) if isinstance(value, Shared) else Wide(normed, value.dim, value.outer, value.shape)
    if all(vector is None for vector in (*gains, *shifts)):
        return bare
    if len(dims) == 1:
        return Normed(bare, gains, shifts)
    return materialised(emitter, Normed(bare, gains, shifts), node, shape_of(node))


def _stored_vectors(emitter: Emitter, node: fx.Node, place: int, env: Env) -> tuple[Tensor | None, ...]:
    """Gain or shift of a norm in each branch; None where it has none."""
    argument = node.args[place] if len(node.args) > place else None
    if not isinstance(argument, fx.Node):
        return (None,) * emitter.count
    return _parameters(emitter, node, argument, env).tensors


def _parameters(emitter: Emitter, node: fx.Node, argument: fx.Node, env: Env) -> Stored:
    """The parameters of all branches behind an argument of a norm, tied ones too."""
    value = env[argument]
    if isinstance(value, Shared) and value.node.op == "get_attr":
        return Stored((read_parameter(emitter.module, value.node),) * emitter.count)
    if not isinstance(value, Stored):
        raise CannotLiftError(f"{node.name} scales or shifts by {argument.name}, which is no parameter")
    return value


def _channel_norm(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Norms of channels: N times as many channels, and for group_norm N times as many groups."""
    if is_tied(node, env):
        return on_more_samples(emitter, node, env, range(1, len(shape_of(node))))
    value = in_channels(emitter, node, env)
    batch = node.target != aten.group_norm.default
    args: list[Any] = [value.node]
    for place, argument in enumerate(node.args[1:], 1):
        if isinstance(argument, fx.Node):
            args.append(wide_parameter(emitter, _parameters(emitter, node, argument, env), shape_of(argument), -1, 1))
        elif place == 1 and not batch:
            args.append(cast("int", argument) * emitter.count)
        else:
            args.append(argument)
    return Wide(emitter.emit(node.target, tuple(args)), value.dim, 1, value.shape)


def _prelu(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """X where it is positive, else x times a slope: one slope for all values, or one for each channel."""
    slopes = _parameters(emitter, node, operand(node, 1), env).tensors
    value = in_channels(emitter, node, env)
    channels = value.shape[1]
    if not isinstance(channels, int):
        raise CannotLiftError(f"{node.name} ({node.target}) has a slope for each of {channels} channels")
    weight = emitter.store("slopes", lambda: torch.cat([slope.expand(channels) for slope in slopes]))
    return Wide(emitter.emit(node.target, (value.node, weight)), value.dim, 1, value.shape)


RULES: dict[Any, Rule] = {
    **dict.fromkeys(ops.ROW_NORMS, _norm),
    aten.batch_norm.default: _channel_norm,
    aten.group_norm.default: _channel_norm,
    aten.instance_norm.default: _channel_norm,
    aten.prelu.default: _prelu,
    **dict.fromkeys(ops.ELEMENTWISE, pointwise),
}
