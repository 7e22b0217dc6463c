"""What rules share: what a rule is, and how it reads the operands of an operator.

A rule says what an operator makes of N branches that lie in one tensor (passes/fusion/layout.py). It inserts that by an
emitter, or raises `CannotLiftError` with the node and the value where the branches would mix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import CannotLiftError, Lifted, Shared, Stored, Wide
from passes.fusion.relayout import avoiding, expanded, materialised, moved, wide_parameter
from passes.graph.dataflow import tensor_value
from passes.graph.sizes import Size, sizes

Env: TypeAlias = dict[fx.Node, Lifted]
Rule: TypeAlias = Callable[[Emitter, fx.Node, Env], Lifted]


def operand(node: fx.Node, place: int = 0) -> fx.Node:
    """An argument that is a node."""
    source = node.args[place]
    assert isinstance(source, fx.Node)
    return source


def number(node: fx.Node, place: int, default: int = 0) -> int:
    """An argument that is a number known when the model is captured."""
    value = node.args[place] if len(node.args) > place else default
    if not isinstance(value, int):
        raise CannotLiftError(f"{node.name} ({node.target}) reads the number {value} only when the model runs")
    return value


def shape_of(node: fx.Node) -> tuple[Size, ...]:
    """Sizes of a node's own value, in one branch."""
    value = tensor_value(node)
    if value is None:
        raise CannotLiftError(f"{node.name} ({node.target}) does not compute one tensor")
    return sizes(value)


def wide_operand(emitter: Emitter, node: fx.Node, env: Env, place: int = 0) -> Wide:
    """A wide argument; gains and shifts that wait are applied.

    Raises:
        CannotLiftError: the argument is in several tensors, or no value of the branches.
    """
    source = operand(node, place)
    value = materialised(emitter, env[source], source, shape_of(source))
    if isinstance(value, Shared):
        return expanded(emitter, value, shape_of(source), -len(shape_of(source)))
    if isinstance(value, Stored):
        rank = len(shape_of(source))
        parameter = wide_parameter(emitter, value, shape_of(source), -rank, 1) if rank else None
        if parameter is not None:
            return Wide(parameter, -rank, 1, shape_of(source))
    if not isinstance(value, Wide):
        raise CannotLiftError(f"{node.name} ({node.target}) reads {source.name}, which the branches hold apart")
    return value


def again(emitter: Emitter, node: fx.Node, value: Wide, env: Env, **layout: Any) -> Wide:
    """The node's operator on a wide first argument, its other arguments as they are."""
    args, kwargs = emitter.plain(node, {**env, operand(node): Shared(value.node)})
    dim, outer = layout.get("dim", value.dim), layout.get("outer", value.outer)
    return Wide(emitter.emit(node.target, args, kwargs), dim, outer, shape_of(node))


def along(emitter: Emitter, node: fx.Node, env: Env, dims: Sequence[int]) -> Wide:
    """The operand with its branches outside of the dimensions on which the operator acts."""
    value = wide_operand(emitter, node, env)
    return avoiding(emitter, value, [dim % len(value.shape) for dim in dims], node)


def in_channels(emitter: Emitter, node: fx.Node, env: Env, outer: int = 1) -> Wide:
    """The operand with its branches side by side in the channels, dimension 1."""
    source = operand(node)
    shape = shape_of(source)
    value = materialised(emitter, env[source], source, shape)
    if isinstance(value, Shared):
        return expanded(emitter, value, shape, 1 - len(shape), outer)
    if not isinstance(value, Wide):
        raise CannotLiftError(f"{node.name} ({node.target}) reads {source.name}, which the branches hold apart")
    return moved(emitter, value, 1 - len(shape), outer)
