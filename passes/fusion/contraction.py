"""The sum over branches, taken inside the last product where there is one.

    sum_b c_b W_b h_b  =  [c_1 W_1 .. c_N W_N] [h_1; ..; h_N]

Cases:
    1. a branch that ends in a linear or a convolution: the features of all branches side by side, weights side by side
       on their input axis; scales by a parameter or a number (LayerScale) and the factors of the sum go into the
       weights, changes of shape move before the product, or after it where they would move its features;
    2. any other end, such as the norm of a post-norm term or a state that the branch reads again: a sum over the
       branches, each times its factor, taken once for all ends that are alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx

from passes.fusion.emitter import Branches, Emitter, in_no_node
from passes.fusion.layout import Apart, Lifted, Normed, Shared, Stored, Wide, interleave
from passes.fusion.relayout import joined, materialised, moved, stacked, stacked_parameter
from passes.fusion.rule import in_channels, operand, shape_of
from passes.fusion.shape_changes import SHAPES, carry, keeps_last
from passes.fusion.weights import float64_sum, folded_bias, folded_weight, groups_of, has_bias, stored_parameters
from passes.graph import operators as ops
from passes.graph.convolutions import convolution_settings
from passes.graph.parameters import has_stored_weights, read_parameter

aten = ops.aten

PRODUCTS = ops.PLAIN_CONVOLUTIONS | {ops.LINEAR}
_TIMES = frozenset({aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default})


@dataclass(frozen=True)
class Contraction:
    """`product(features, weight, bias)`, which is the sum over the branches, and then `tail`.

    Attributes:
        settings: of a convolution; empty for a linear.
        tail: changes of shape of branch 0 that come after the product.
    """

    target: Any
    features: fx.Node
    weight: Callable[[], Tensor]
    bias: Callable[[], Tensor] | None
    settings: tuple[Any, ...] = ()
    kernel: tuple[int, ...] = ()
    tail: tuple[fx.Node, ...] = ()

    @property
    def key(self) -> Any:
        """Equal for products that can be one product over the features of both."""
        return str((self.target, self.settings, self.kernel, [node.name for node in self.tail]))


@dataclass(frozen=True)
class Summed:
    """A value to add that no product could take in.

    Attributes:
        node: the sum over the branches, or where `branches` is given the values of all of them, stacked.
        branches: what values have in common that can be added before their sum over the branches: how many branches
            there are, and the shape and dtype of one.
        factor: of the sum over the branches.
    """

    node: fx.Node
    branches: tuple[Any, ...] | None = None
    factor: float = 1.0


Part = Contraction | Summed
Emit: TypeAlias = Callable[[Any, tuple[Any, ...]], fx.Node]


def tail_of(branches: Branches, output: fx.Node) -> tuple[fx.Node, ...] | None:
    """The last product of a branch and what follows it up to the output, or None where it does not end in one."""
    tail: list[fx.Node] = []
    node = output
    while node in branches.inner and _is_private(node, tail, branches):
        tail.append(node)
        if node.target in PRODUCTS:
            return tuple(reversed(tail)) if has_stored_weights(node) and _scales_channels(tail[::-1]) else None
        if node.target not in _TIMES | SHAPES | ops.COPIES:
            return None
        sources = [arg for arg in node.args if isinstance(arg, fx.Node) and arg in branches.inner]
        if len(sources) != 1 or (node.target not in _TIMES and sources[0] is not node.args[0]):
            return None
        node = sources[0]
    return None


def _is_private(node: fx.Node, tail: Sequence[fx.Node], branches: Branches) -> bool:
    """Whether a value is read by what follows in the tail, or by the sum, and by nothing else of its branch."""
    if tail and node in branches.outputs[0]:
        return False
    readers = [user for user in node.users if user in branches.inner]
    return readers == ([tail[-1]] if tail else [])


def _scales_channels(tail: Sequence[fx.Node]) -> bool:
    """Whether all scales in the tail are numbers or vectors over the channels of the product."""
    place = -1 if tail[0].target == ops.LINEAR else 1 - len(shape_of(tail[0]))
    reordered = False
    for node in tail[1:]:
        reordered = reordered or (node.target in SHAPES and (place != -1 or not keeps_last(node)))
        if node.target in _TIMES and not _is_channel_scale(
            node, None if reordered else place, shape_of(tail[0])[place]
        ):
            return False
    return True


def _is_channel_scale(node: fx.Node, place: int | None, channels: object) -> bool:
    if node.target == aten.neg.default:
        return True
    divides = node.target in (aten.div.Tensor, aten.div.Scalar)
    factors = [arg for arg in node.args[:2] if not isinstance(arg, fx.Node)]
    if factors:
        return isinstance(factors[0], int | float) and (not divides or factors[0] is node.args[1])
    parameters = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr"]
    if len(parameters) != 1 or divides:
        return False
    shape = list(shape_of(parameters[0]))
    if all(size == 1 for size in shape):
        return True
    if place is None or len(shape) < -place or shape[place] != channels:
        return False
    return all(size == 1 for spot, size in enumerate(shape) if spot != len(shape) + place)


def contract(emitter: Emitter, output: fx.Node, tail: Sequence[fx.Node] | None, env: Mapping[fx.Node, Lifted]) -> Part:
    """The sum of one output over all branches."""
    factors = emitter.branches.factors_of(output)
    if tail is None:
        return _sum(emitter, output, env[output], factors)
    product, shapes = tail[0], [node for node in tail if node.target in SHAPES]
    scales = [_scale(emitter, tail, branch, factor) for branch, factor in enumerate(factors)]
    if product.target != ops.LINEAR:
        return _convolution(emitter, product, shapes, scales, env)
    features, weights, bias, width = _linear(emitter, product, scales, env)
    if shapes and all(keeps_last(node) for node in shapes):
        for node in shapes:
            features = carry(emitter, node, features, width, dict(env))
        shapes = []
    return Contraction(ops.LINEAR, features, weights, bias, tail=tuple(shapes))


def _scale(emitter: Emitter, tail: Sequence[fx.Node], branch: int, factor: float) -> Tensor | None:
    """What the tail of one branch and its factor multiply the channels with, in float64; None is one."""
    nodes = [node for node in (emitter.column(node)[branch] for node in tail) if node.target in _TIMES]
    if not nodes and factor == 1:
        return None
    weight = stored_parameters(emitter.module, emitter.column(tail[0])[branch])[0]
    total = torch.full((len(weight),), factor, dtype=torch.float64, device=weight.device)
    for node in nodes:
        total = total * _multiplier(emitter.module, node)
    return total


def _multiplier(module: fx.GraphModule, node: fx.Node) -> Tensor | float:
    """What one operator of a tail multiplies with."""
    if node.target == aten.neg.default:
        return -1.0
    factors = [arg for arg in node.args[:2] if not isinstance(arg, fx.Node)]
    parameters = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr"]
    if not factors:
        return read_parameter(module, parameters[0]).double().flatten()
    factor = cast("float", factors[0])
    return 1 / factor if node.target in (aten.div.Tensor, aten.div.Scalar) else factor


def _linear(
    emitter: Emitter, linear: fx.Node, scales: Sequence[Tensor | None], env: Mapping[fx.Node, Lifted]
) -> tuple[fx.Node, Callable[[], Tensor], Callable[[], Tensor] | None, int]:
    """Features, the weight over them, the bias and the number of features, for the sum of N linears."""
    source, columns = env[operand(linear)], emitter.column(linear)
    none: tuple[Tensor | None, ...] = (None,) * emitter.count
    gains, shifts = (source.gains, source.shifts) if isinstance(source, Normed) else (none, none)
    if isinstance(source, Apart):
        source = joined(emitter, source, shape_of(operand(linear)), -1)
    value = source.value if isinstance(source, Normed) else materialised(emitter, source, linear, ())

    def weights() -> list[Tensor]:
        return [folded_weight(emitter.module, *each) for each in zip(columns, gains, scales, strict=True)]

    def bias() -> Tensor:
        return float64_sum([folded_bias(emitter.module, *each) for each in zip(columns, shifts, scales, strict=True)])

    bias_or_none = bias if has_bias(linear, shifts) else None
    features = stored_parameters(emitter.module, linear)[0].shape[1]
    if isinstance(value, Shared):
        return value.node, lambda: float64_sum(weights()), bias_or_none, features
    if not isinstance(value, Wide):
        raise in_no_node(value, linear)
    outer = value.outer if value.dim == -1 and isinstance(value.outer, int) else 1
    node = moved(emitter, value, -1, outer).node
    return node, lambda: interleave(weights(), 1, outer), bias_or_none, features * emitter.count


def _convolution(
    emitter: Emitter,
    node: fx.Node,
    shapes: Sequence[fx.Node],
    scales: Sequence[Tensor | None],
    env: Mapping[fx.Node, Lifted],
) -> Contraction:
    source, columns, settings = env[operand(node)], emitter.column(node), convolution_settings(node)

    def weights() -> list[Tensor]:
        return [folded_weight(emitter.module, n, None, scale) for n, scale in zip(columns, scales, strict=True)]

    def bias() -> Tensor:
        return float64_sum(
            [folded_bias(emitter.module, n, None, scale) for n, scale in zip(columns, scales, strict=True)]
        )

    bias_or_none = bias if has_bias(node) else None
    kernel = tuple(stored_parameters(emitter.module, node)[0].shape[2:])
    if isinstance(source, Shared):
        return Contraction(
            node.target, source.node, lambda: float64_sum(weights()), bias_or_none, settings, kernel, tuple(shapes)
        )
    features = in_channels(emitter, node, dict(env), groups_of(node)).node
    return Contraction(
        node.target, features, lambda: torch.cat(weights(), 1), bias_or_none, settings, kernel, tuple(shapes)
    )


def _sum(emitter: Emitter, output: fx.Node, value: Lifted, factors: Sequence[float]) -> Summed:
    """The sum over branches of a value as it is, each times its factor."""
    if isinstance(value, Apart):
        nodes = [times(emitter.emit, node, factor) for node, factor in zip(value.nodes, factors, strict=True)]
        return Summed(functools.reduce(lambda total, node: emitter.emit(ops.ADD, (total, node)), nodes))
    value = materialised(emitter, value, output, shape_of(output))
    if isinstance(value, Shared):
        return Summed(emitter.emit(aten.mul.Tensor, (value.node, math.fsum(factors))))
    if not isinstance(value, Wide):
        raise in_no_node(value, output)
    apart, dtype = stacked(emitter, value), output.meta["val"].dtype
    branches = (emitter.count, str(shape_of(output)), dtype)
    if len(set(factors)) == 1:
        return Summed(apart, branches, factors[0])
    device = next(emitter.module.parameters()).device
    each = Stored(tuple(torch.tensor(factor, dtype=dtype, device=device) for factor in factors))
    apart = emitter.emit(aten.mul.Tensor, (apart, stacked_parameter(emitter, each, len(value.shape))))
    return Summed(apart, branches)


def total(emit: Emit, parts: Sequence[Summed]) -> fx.Node:
    """One sum over the branches of values that are added before."""
    node = functools.reduce(lambda left, right: emit(ops.ADD, (left, right)), [part.node for part in parts])
    return node if parts[0].branches is None else times(emit, emit(aten.sum.dim_IntList, (node, [0])), parts[0].factor)


def times(emit: Emit, node: fx.Node, factor: float) -> fx.Node:
    """A value times a number, itself where that is one."""
    return node if factor == 1 else emit(aten.mul.Tensor, (node, factor))
