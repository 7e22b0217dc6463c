"""How the layout of wide values passes through each operator: one rule for each kind.

A rule gets the lifter, the node of branch 0 and the lifted values of its inputs; it emits the wide operator and says
where the branches lie in its result, or raises CannotLiftError with the node and the value that stand in the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx

from passes import operators as ops
from passes.dataflow import tensor_value
from passes.layout import (
    CannotLiftError,
    Lifted,
    Normed,
    Pieces,
    Shared,
    Size,
    Stored,
    Wide,
    interleave,
    sizes,
    through_view,
)
from passes.parameters import read_parameter

if TYPE_CHECKING:
    from passes.lift import Lifter

aten = ops.aten

SHAPES = ops.VIEWS | {aten.transpose.int, aten.permute.default}
Rule = Callable[["Lifter", fx.Node, dict[fx.Node, Lifted]], Lifted]


def _norm(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """layer_norm and rms_norm of a shared state: statistics once, gains and shifts wait to be folded."""
    layer = node.target == ops.LAYER_NORM
    source, shape = env[_operand(node)], node.args[1]
    if not isinstance(source, Shared):
        raise CannotLiftError(f"{node.name} normalises states that differ between the branches")
    gains = _stored_vectors(lifter, node, 2, env)
    shifts = _stored_vectors(lifter, node, 3, env) if layer else (None,) * lifter.count
    assert isinstance(shape, (list, tuple))
    bare = not any(value is not None for value in (*gains, *shifts))
    if len(shape) != 1 and not bare:
        raise CannotLiftError(f"{node.name} normalises over the {len(shape)} dimensions {shape}")
    epsilon = ops.norm_epsilon(node)
    key = (node.target, source.node, tuple(shape), epsilon)
    if key not in lifter.norms:
        plain = (None, None, epsilon, False) if layer else (None, epsilon)
        lifter.norms[key] = lifter.emit(node.target, (source.node, list(shape), *plain))
    return Shared(lifter.norms[key]) if bare else Normed(lifter.norms[key], gains, shifts)


def _stored_vectors(lifter: Lifter, node: fx.Node, place: int, env: dict[fx.Node, Lifted]) -> tuple[Tensor | None, ...]:
    """Gain or shift of a norm in each branch; None where it has none."""
    argument = node.args[place] if len(node.args) > place else None
    if not isinstance(argument, fx.Node):
        return (None,) * lifter.count
    value = env[argument]
    if not isinstance(value, Stored):
        raise CannotLiftError(f"{node.name} scales or shifts by {argument.name}, which is no parameter")
    return value.tensors


def _linear(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """A linear of a shared input: rows of all branches side by side."""
    source = env[_operand(node)]
    place = lifter.branches.lists[0].index(node)
    if not isinstance(source, (Shared, Normed)):
        raise CannotLiftError(f"{node.name} reads values that differ between the branches")
    none: tuple[Tensor | None, ...] = (None,) * lifter.count
    gains, shifts = (source.gains, source.shifts) if isinstance(source, Normed) else (none, none)
    weights, biases = [], []
    for branch, gain, shift in zip(lifter.branches.lists, gains, shifts, strict=True):
        weight, bias = linear_parameters(lifter.module, branch[place])
        folded, extra = fold(weight.double(), gain, shift)
        weights.append(folded)
        biases.append(sum((b.double() for b in (bias, extra) if b is not None), torch.zeros(len(weight)).double()))
    has_bias = len(node.args) > 2 and node.args[2] is not None
    has_bias = has_bias or any(shift is not None for shift in shifts)
    outer = lifter.outers[node]
    dtype = linear_parameters(lifter.module, node)[0].dtype
    weight_node = lifter.store("weight", interleave(weights, 0, outer).to(dtype))
    bias_node = lifter.store("bias", interleave(biases, 0, outer).to(dtype)) if has_bias else None
    return Wide(lifter.emit(ops.LINEAR, (source.node, weight_node, bias_node)), -1, outer)


def _elementwise(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """Pointwise operators keep the layout that all wide inputs share; a gain or shift of a shared state waits."""
    values = [env[source] for source in node.all_input_nodes]
    if not any(isinstance(value, (Wide, Pieces)) for value in values):
        return _gain_or_shift(lifter, node, env)
    layouts = {(value.dim, value.outer) for value in values if isinstance(value, Wide)}
    if len(layouts) != 1:
        raise CannotLiftError(f"{node.name} combines branches that lie in different places: {sorted(layouts)}")
    dim, outer = layouts.pop()
    replaced: dict[fx.Node, fx.Node] = {}
    for source in node.all_input_nodes:
        value = env[source]
        if isinstance(value, Stored):
            replaced[source] = _wide_parameter(lifter, node, value, dim, outer)
            continue
        shape = tensor_value(source)
        if isinstance(value, Shared) and shape is not None and shape.ndim >= -dim and shape.shape[dim] != 1:
            raise CannotLiftError(f"{node.name} combines the branches with {source.name}, which has no room for them")
        replaced[source] = lifter.node(value, node)
    args, kwargs = fx.map_arg((node.args, node.kwargs), replaced.__getitem__)
    return Wide(lifter.emit(node.target, args, kwargs), dim, outer)


def _gain_or_shift(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """A shared state times or plus a vector of each branch, as where a norm is spelled out."""
    operands = [env[arg] for arg in node.args if isinstance(arg, fx.Node)]
    vectors = [value for value in operands if isinstance(value, Stored)]
    states = [value for value in operands if isinstance(value, (Shared, Normed))]
    times = node.target == aten.mul.Tensor
    shape = tensor_value(node)
    plain = (times or node.target == ops.ADD) and not node.kwargs and shape is not None
    if not plain or len(vectors) != 1 or len(states) != 1 or vectors[0].tensors[0].shape != shape.shape[-1:]:  # type: ignore[union-attr]
        raise CannotLiftError(f"{node.name} ({node.target}) combines a shared state with what differs between branches")
    state, tensors = states[0], [tensor.double() for tensor in vectors[0].tensors]
    none: tuple[Tensor | None, ...] = (None,) * lifter.count
    gains, shifts = (state.gains, state.shifts) if isinstance(state, Normed) else (none, none)
    if not times:
        return Normed(state.node, gains, tuple(v if s is None else s + v for s, v in zip(shifts, tensors, strict=True)))
    return Normed(
        state.node,
        tuple(v if g is None else g * v for g, v in zip(gains, tensors, strict=True)),
        tuple(None if s is None else s * v for s, v in zip(shifts, tensors, strict=True)),
    )


def _wide_parameter(lifter: Lifter, node: fx.Node, value: Stored, dim: int, outer: int) -> fx.Node:
    first = value.tensors[0]
    if first.ndim < -dim or first.shape[dim] % outer or first.shape[dim] < outer or first.shape[dim] == 1:
        raise CannotLiftError(f"{node.name} reads a parameter of shape {list(first.shape)} across the branches")
    return lifter.store("parameter", interleave(value.tensors, first.ndim + dim, outer))


def _wide(node: fx.Node, env: dict[fx.Node, Lifted]) -> Wide:
    value = env[_operand(node)]
    if not isinstance(value, Wide):
        raise CannotLiftError(f"{node.name} ({node.target}) reads a value that the branches hold apart")
    return value


def _operand(node: fx.Node, place: int = 0) -> fx.Node:
    source = node.args[place]
    assert isinstance(source, fx.Node)
    return source


def _number(node: fx.Node, place: int, default: int = 0) -> int:
    value = node.args[place] if len(node.args) > place else default
    assert isinstance(value, int)
    return value


def _shape(node: fx.Node) -> tuple[Any, ...]:
    value = tensor_value(_operand(node))
    assert value is not None
    return sizes(value)


def _moved(node: fx.Node, env: dict[fx.Node, Lifted]) -> tuple[int, Size]:
    """Where the branches lie after a change of shape that keeps the order of elements."""
    value, result = _wide(node, env), tensor_value(node)
    assert result is not None
    moved = through_view(_shape(node), sizes(result), value.dim, value.outer)
    if moved is None:
        raise CannotLiftError(f"{node.name} views {list(_shape(node))} as {list(result.shape)} across the branches")
    return moved


def _view(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value, (dim, outer) = _wide(node, env), _moved(node, env)
    wanted = list(cast("list[int | fx.Node]", node.args[1]))
    size = wanted[dim]
    if isinstance(size, fx.Node):
        wanted[dim] = lifter.emit(ops.MULTIPLY, (lifter.node(env[size], node), lifter.count))
    elif size != -1:
        wanted[dim] = size * lifter.count
    plain = fx.map_arg(wanted, lambda n: lifter.node(env[n], node) if n in env else n)
    return Wide(lifter.emit(aten.reshape.default, (value.node, plain)), dim, outer)


def _unflatten(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """Split one dimension into several; of these the one that holds the branches grows."""
    value, (dim, outer) = _wide(node, env), _moved(node, env)
    axis = _number(node, 1) % len(_shape(node))
    parts = list(cast("list[int]", node.args[2]))
    place = dim + len(_shape(node)) + len(parts) - 1 - axis
    if 0 <= place < len(parts) and parts[place] != -1:
        parts[place] *= lifter.count
    return Wide(lifter.emit(node.target, (value.node, axis, parts)), dim, outer)


def _unit_dimension(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """Squeeze and unsqueeze: dimensions of size 1 come and go."""
    value, (dim, outer) = _wide(node, env), _moved(node, env)
    if node.target == aten.squeeze.dim and _number(node, 1) % len(_shape(node)) == value.dim % len(_shape(node)):
        raise CannotLiftError(f"{node.name} drops the dimension in which the branches lie")
    return Wide(lifter.emit(node.target, (value.node, *node.args[1:])), dim, outer)


def _transpose(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value, ndim = _wide(node, env), len(_shape(node))
    first, second = _number(node, 1) % ndim, _number(node, 2) % ndim
    swap = {first: second, second: first}
    place = value.dim % ndim
    return Wide(lifter.emit(node.target, (value.node, first, second)), swap.get(place, place) - ndim, value.outer)


def _permute(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value, ndim = _wide(node, env), len(_shape(node))
    order = [d % ndim for d in cast("list[int]", node.args[1])]
    return Wide(lifter.emit(node.target, (value.node, order)), order.index(value.dim % ndim) - ndim, value.outer)


def _drop_dimension(node: fx.Node, value: Wide) -> int:
    """The wide dimension, from the right, after dimension `node.args[1]` is taken out."""
    ndim = len(_shape(node))
    dropped = _number(node, 1) % ndim
    if dropped == value.dim % ndim:
        raise CannotLiftError(f"{node.name} takes apart the dimension in which the branches lie")
    return value.dim + 1 if dropped > value.dim % ndim else value.dim


def _unbind(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value = _wide(node, env)
    return Pieces(lifter.emit(node.target, (value.node, *node.args[1:])), _drop_dimension(node, value), value.outer)


def _select(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value = _wide(node, env)
    return Wide(lifter.emit(node.target, (value.node, *node.args[1:])), _drop_dimension(node, value), value.outer)


def _split(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """Chunk and split: along another dimension as they are, along the wide one in whole multiples of `outer`."""
    value, shape = _wide(node, env), _shape(node)
    dim = _number(node, 2) % len(shape)
    if dim != value.dim % len(shape):
        return Pieces(lifter.emit(node.target, (value.node, *node.args[1:])), value.dim, value.outer)
    parts = [piece.shape[dim] for piece in node.meta["val"]]
    if not isinstance(value.outer, int) or value.outer % len(parts) or len(set(parts)) != 1:
        raise CannotLiftError(f"{node.name} splits the branches' dimension into {parts}")
    pieces = lifter.emit(aten.split.Tensor, (value.node, parts[0] * lifter.count, dim))
    return Pieces(pieces, value.dim, value.outer // len(parts))


def _getitem(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value = env[_operand(node)]
    if not isinstance(value, Pieces) or value.dim is None:
        raise CannotLiftError(f"{node.name} takes a piece of a value that the branches hold apart")
    return Wide(lifter.emit(node.target, (value.node, node.args[1])), value.dim, value.outer)


def _slice(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value = _wide(node, env)
    if _number(node, 1) % len(_shape(node)) == value.dim % len(_shape(node)):
        raise CannotLiftError(f"{node.name} takes a part of the dimension in which the branches lie")
    args, kwargs = lifter.plain(node, env)
    return Wide(lifter.emit(node.target, args, kwargs), value.dim, value.outer)


def _cat(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """Concatenation of wide values along another dimension."""
    values = [env[source] for source in node.all_input_nodes]
    wide = [value for value in values if isinstance(value, Wide)]
    layouts = {(value.dim, value.outer) for value in wide}
    result = tensor_value(node)
    if len(wide) != len(values) or len(layouts) != 1 or result is None:
        raise CannotLiftError(f"{node.name} puts together values that lie in different places")
    if _number(node, 1) % result.ndim == wide[0].dim % result.ndim:
        raise CannotLiftError(f"{node.name} puts values together in the dimension in which the branches lie")
    args, kwargs = lifter.plain(node, env)
    return Wide(lifter.emit(node.target, args, kwargs), wide[0].dim, wide[0].outer)


def _expand(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """Repetition of key and value heads along a dimension of size 1 that does not hold the branches."""
    value, result = _wide(node, env), tensor_value(node)
    assert result is not None
    if sizes(result)[value.dim] != _shape(node)[value.dim]:
        raise CannotLiftError(f"{node.name} repeats the dimension in which the branches lie")
    args, kwargs = lifter.plain(node, env)
    wanted = list(args[1])
    wanted[value.dim] = -1
    return Wide(lifter.emit(node.target, (args[0], wanted, *args[2:]), kwargs), value.dim, value.outer)


def _attention(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """One attention with N times the heads; a mask must be the same for all heads."""
    layouts = []
    for place in range(3):
        value = env[_operand(node, place)]
        if not isinstance(value, Wide) or value.dim != -3:
            raise CannotLiftError(f"{node.name} would mix branches: they do not lie in its heads")
        layouts.append(value.outer)
    if len(set(layouts)) != 1:
        raise CannotLiftError(f"{node.name} reads heads of the branches in different orders")
    args, kwargs = lifter.plain(node, env)
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    shape = tensor_value(mask) if isinstance(mask, fx.Node) else None
    if isinstance(mask, fx.Node) and shape is not None and shape.ndim >= 3 and shape.shape[-3] != 1:
        times = [lifter.count if dim == shape.ndim - 3 else 1 for dim in range(shape.ndim)]
        args, kwargs = _with_mask(args, kwargs, _repeated(lifter, node, env[mask], layouts[0], times))
    return Wide(lifter.emit(node.target, args, kwargs), -3, layouts[0])


def _repeated(lifter: Lifter, node: fx.Node, mask: Lifted, outer: Size, times: Sequence[int]) -> fx.Node:
    """A mask with heads of its own, once for every branch."""
    if not isinstance(mask, Shared) or outer != 1:
        raise CannotLiftError(f"{node.name} has a mask with heads that differs between the branches")
    return lifter.emit(aten.repeat.default, (mask.node, list(times)))


def _with_mask(args: tuple[Any, ...], kwargs: dict[str, Any], mask: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if len(args) > 3:
        return (*args[:3], mask, *args[4:]), kwargs
    return args, {**kwargs, "attn_mask": mask}


def carry(lifter: Lifter, node: fx.Node, features: fx.Node, width: int, env: Mapping[fx.Node, Lifted]) -> fx.Node:
    """Apply a change of shape to `features` (.., width) in place of what the node reads; the last dimension stays."""
    before, after = _shape(node), sizes(cast("Tensor", tensor_value(node)))
    args = list(lifter.plain(node, {**env, _operand(node): Shared(features)})[0])
    if node.target in ops.VIEWS:
        stays = before[-1] == after[-1]
        args[1] = [*args[1][:-1], width]
    elif node.target == aten.permute.default:
        stays = args[1][-1] % len(before) == len(before) - 1
    else:
        stays = all(_number(node, place) % len(before) != len(before) - 1 for place in (1, 2))
    if not stays:
        raise CannotLiftError(f"{node.name} ({node.target}) moves the features of the state")
    return lifter.emit(node.target, tuple(args))


def _of_shape(rule: Rule) -> Rule:
    """A change of shape leaves gains and shifts of a normalised state alone."""

    def lifted(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
        value = env[_operand(node)]
        if not isinstance(value, Normed):
            return rule(lifter, node, env)
        return Normed(carry(lifter, node, value.node, _shape(node)[-1], env), value.gains, value.shifts)

    return lifted


RULES: dict[Any, Rule] = {
    **dict.fromkeys(ops.ROW_NORMS, _norm),
    ops.LINEAR: _linear,
    aten.transpose.int: _of_shape(_transpose),
    aten.permute.default: _of_shape(_permute),
    aten.unflatten.int: _unflatten,
    aten.unsqueeze.default: _unit_dimension,
    aten.squeeze.dim: _unit_dimension,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
    aten.expand.default: _expand,
    aten.unbind.int: _unbind,
    aten.select.int: _select,
    aten.chunk.default: _split,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    ops.GETITEM: _getitem,
    ops.ATTENTION: _attention,
    **dict.fromkeys(ops.VIEWS, _of_shape(_view)),
    **dict.fromkeys(ops.ELEMENTWISE, _elementwise),
}


def linear_parameters(module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor | None]:
    """Weight (out, in) and bias of a linear node in float64."""
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    for parameter in (weight, bias):
        if isinstance(parameter, fx.Node) and parameter.op != "get_attr":
            raise CannotLiftError(f"{node.name} has the computed weight {parameter.name}")
    assert isinstance(weight, fx.Node)
    return read_parameter(module, weight), read_parameter(module, bias) if isinstance(bias, fx.Node) else None


def fold(weight: Tensor, gain: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and extra bias of a linear that reads `n * gain + shift`, as a linear that reads n."""
    extra = None if shift is None else weight @ shift.double()
    return (weight if gain is None else weight * gain.double()), extra
