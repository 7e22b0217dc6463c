"""Rules for operators that repeat values or put several side by side."""

from __future__ import annotations

from typing import Any, cast

from torch import fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import CannotLiftError, Lifted, Shared, Stored, Wide
from passes.fusion.relayout import avoiding, expanded, materialised, moved, wide_parameter
from passes.fusion.rule import Env, Rule, again, along, number, operand, shape_of, wide_operand
from passes.graph import operators as ops
from passes.graph.sizes import Size

aten = ops.aten


def _expand(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Repetition along dimensions of size 1 that do not hold the branches."""
    value, result = wide_operand(emitter, node, env), shape_of(node)
    rank = len(value.shape)
    grown = [place for place in range(rank) if value.shape[place] != result[place - rank]]
    value = avoiding(emitter, value, grown, node)
    args, kwargs = emitter.plain(node, {**env, operand(node): Shared(value.node)})
    wanted = list(args[1])
    wanted[value.dim] = -1
    return Wide(emitter.emit(node.target, (args[0], wanted, *args[2:]), kwargs), value.dim, value.outer, result)


def _repeat(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    times = cast("list[int]", node.args[1])
    value = wide_operand(emitter, node, env)
    grown = [place for place in range(len(value.shape)) if times[place - len(value.shape)] != 1]
    return again(emitter, node, avoiding(emitter, value, grown, node), env)


def _repeat_interleave(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Each value several times in a row: key and value heads of grouped-query attention."""
    value = along(emitter, node, env, [number(node, 2)] if len(node.args) < 3 else [])
    emitted = emitter.emit(node.target, (value.node, number(node, 1), number(node, 2)))
    return Wide(emitted, value.dim, value.outer, shape_of(node))


def _cat(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Concatenation along a dimension that does not hold the branches."""
    result = shape_of(node)
    place = number(node, 1) % len(result)
    parts = cast("list[fx.Node]", node.args[0])
    lifted = [materialised(emitter, env[part], part, shape_of(part)) for part in parts]
    first = next((value for value in lifted if isinstance(value, Wide)), None)
    if first is None or any(len(shape_of(part)) != len(result) for part in parts):
        raise CannotLiftError(f"{node.name} puts parameters and shared values together")
    layout = avoiding(emitter, first, [place], node).layout
    nodes = [_beside(emitter, node, part, value, layout) for part, value in zip(parts, lifted, strict=True)]
    return Wide(emitter.emit(node.target, (nodes, place)), *layout, result)


def _stack(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Values of one shape on a new dimension."""
    result, parts = shape_of(node), cast("list[fx.Node]", node.args[0])
    place = number(node, 1) % len(result)
    lifted = [materialised(emitter, env[part], part, shape_of(part)) for part in parts]
    first = next((value for value in lifted if isinstance(value, Wide)), None)
    if first is None:
        raise CannotLiftError(f"{node.name} puts parameters and shared values together")
    nodes = [_beside(emitter, node, part, value, first.layout) for part, value in zip(parts, lifted, strict=True)]
    dim = first.dim - 1 if place > first.place else first.dim
    return Wide(emitter.emit(node.target, (nodes, place)), dim, first.outer, result)


def _beside(emitter: Emitter, node: fx.Node, part: fx.Node, value: Lifted, layout: tuple[int, Size]) -> fx.Node:
    """A part of a concatenation with its branches where those of the others are."""
    if isinstance(value, Wide):
        return moved(emitter, value, *layout).node
    if isinstance(value, Shared):
        return expanded(emitter, value, shape_of(part), *layout).node
    parameter = wide_parameter(emitter, value, shape_of(part), *layout) if isinstance(value, Stored) else None
    if parameter is None:
        raise CannotLiftError(f"{node.name} puts together values that lie in different places")
    return parameter


RULES: dict[Any, Rule] = {
    aten.expand.default: _expand,
    aten.repeat.default: _repeat,
    aten.repeat_interleave.self_int: _repeat_interleave,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
}
