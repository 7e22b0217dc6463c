"""Lift N branches of equal structure into one: every operator once, on values that hold all branches.

One rule for each kind of operator says how the layout passes through it (passes/layout.py). The last linear of the
branches is not lifted but returned as a `Part`, features with one weight, because the sum over branches is the
contraction of that linear: concatenate the branches along its input and the GEMM adds them up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
    Stored,
    Wide,
    interleave,
    sizes,
    through_view,
)
from passes.parameters import add_parameter, read_parameter

aten = ops.aten
MAX_TRIALS = 64


@dataclass(frozen=True)
class Branches:
    """N branches that correspond node by node.

    Attributes:
        lists: for each branch its nodes with their leaves in canonical order, output last.
        inner: the nodes of all branches that are computed by them.
    """

    lists: tuple[tuple[fx.Node, ...], ...]
    inner: frozenset[fx.Node]

    def __len__(self) -> int:
        return len(self.lists)


@dataclass(frozen=True)
class Part:
    """`features @ weight.T + bias`, already summed over branches."""

    features: fx.Node
    weight: Tensor
    bias: Tensor | None


class Lifter:
    """Lifts one group of branches, inserting new nodes before `before`.

    `norms` is shared by all groups of a sum, so that normalisations of one state are computed once.
    """

    def __init__(self, module: fx.GraphModule, branches: Branches, before: fx.Node, norms: dict[Any, fx.Node]) -> None:
        self.module, self.branches, self.before, self.norms = module, branches, before, norms
        self.count = len(branches)
        self.created: list[fx.Node] = []
        self.outers: dict[fx.Node, int] = {}

    def lift(self) -> Part:
        """Lift the branches.

        Raises:
            CannotLiftError: naming the node and the value that stand in the way; nothing is left in the graph.
        """
        first: CannotLiftError | None = None
        for outers in self._trials():
            self.outers = outers
            try:
                return self._attempt()
            except CannotLiftError as error:
                first = first or error
                self._undo()
        raise first or CannotLiftError("there is nothing to lift")

    def _undo(self) -> None:
        for node in reversed(self.created):
            if not node.users:
                self.norms = {key: value for key, value in self.norms.items() if value is not node}
                self.module.graph.erase_node(node)
        self.created.clear()

    def _trials(self) -> Iterator[dict[fx.Node, int]]:
        """Ways to lay the branches into the rows of the in-projections, the plain ones first."""
        linears = [
            node for node in self.branches.lists[0] if node.target in ops.LINEARS and node in self.branches.inner
        ]
        choices = [_row_layouts(node) for node in linears]
        for combination in itertools.islice(itertools.product(*choices), MAX_TRIALS):
            yield dict(zip(linears, combination, strict=True))

    def _attempt(self) -> Part:
        env: dict[fx.Node, Lifted] = {}
        columns = list(zip(*self.branches.lists, strict=True))
        tail = self._tail()
        for column in columns:
            if column[0] in tail:
                break
            env[column[0]] = self._value(column, env)
        return self._part(tail, env)

    def _value(self, column: tuple[fx.Node, ...], env: dict[fx.Node, Lifted]) -> Lifted:
        node = column[0]
        if node.op == "get_attr":
            return Stored(tuple(read_parameter(self.module, n) for n in column))
        if node not in self.branches.inner:
            return Shared(node)
        rule = RULES.get(node.target)
        inputs = [env[source] for source in node.all_input_nodes]
        if all(isinstance(value, Shared) for value in inputs):
            return Shared(self._emit(node.target, *self._plain(node, env)))
        if rule is None:
            raise CannotLiftError(f"{node.name} is {node.target}, for which no wide form is known")
        return rule(self, node, env)

    def _plain(self, node: fx.Node, env: dict[fx.Node, Lifted]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The node's arguments with lifted nodes in place of its own."""
        return fx.map_arg((node.args, node.kwargs), lambda n: self._node(env[n], node))  # type: ignore[return-value]

    def _node(self, value: Lifted, reader: fx.Node) -> fx.Node:
        if isinstance(value, (Shared, Wide, Pieces)):
            return value.node
        what = "a normalised state" if isinstance(value, Normed) else "a parameter"
        raise CannotLiftError(f"{reader.name} ({reader.target}) reads {what} that differs between the branches")

    def _emit(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
        with self.module.graph.inserting_before(self.before):
            node = self.module.graph.call_function(target, args, kwargs or {})
        self.created.append(node)
        return node

    def _store(self, name: str, value: Tensor) -> fx.Node:
        node = add_parameter(self.module, f"wide_{name}", value, self.before)
        self.created.append(node)
        return node

    # the last linear -------------------------------------------------------------------------------------------

    def _tail(self) -> list[fx.Node]:
        """The last linear of branch 0 and what follows it: scales by a parameter (LayerScale)."""
        node = self.branches.lists[0][-1]
        tail = [node]
        while node.target == aten.mul.Tensor:
            sources = [arg for arg in node.args if isinstance(arg, fx.Node) and arg in self.branches.inner]
            if len(sources) != 1:
                break
            node = sources[0]
            tail.append(node)
        if node.target != ops.LINEAR:
            raise CannotLiftError(f"{node.name}, where the branch ends, is {node.target} and not a linear layer")
        return tail[::-1]

    def _part(self, tail: Sequence[fx.Node], env: dict[fx.Node, Lifted]) -> Part:
        place = {node: number for number, node in enumerate(self.branches.lists[0])}
        weights, biases = [], []
        for branch in self.branches.lists:
            linear = branch[place[tail[0]]]
            weight, bias = _linear_parameters(self.module, linear)
            for scaled in tail[1:]:
                scale = self._tail_scale(branch[place[scaled]], linear.args[0])
                weight, bias = weight * scale[:, None], None if bias is None else bias * scale
            weights.append(weight)
            biases.append(bias)
        source = env[tail[0].args[0]]  # type: ignore[index]
        features, weight, shift = self._contract(tail[0], source, weights)
        total = [bias for bias in (*biases, shift) if bias is not None]
        dtype = weights[0].dtype
        return Part(features, weight.to(dtype), torch.stack(total).sum(0).to(dtype) if total else None)

    def _tail_scale(self, node: fx.Node, features: object) -> Tensor:
        stored = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr"]
        if len(stored) != 1:
            raise CannotLiftError(f"{node.name} scales the branch by something that is no parameter")
        scale = read_parameter(self.module, stored[0]).double()
        if scale.numel() not in (1, scale.shape[-1] if scale.ndim else 1):
            raise CannotLiftError(f"{node.name} scales the branch by a parameter of shape {list(scale.shape)}")
        return scale.flatten()

    def _contract(
        self, linear: fx.Node, source: Lifted, weights: Sequence[Tensor]
    ) -> tuple[fx.Node, Tensor, Tensor | None]:
        """Features, the weight over them and a bias, for the sum of N linears."""
        wide = [weight.double() for weight in weights]
        if isinstance(source, Shared):
            return source.node, torch.stack(wide).sum(0), None
        if isinstance(source, Normed):
            folded = [_fold(w, g, s) for w, g, s in zip(wide, source.gains, source.shifts, strict=True)]
            shifts = [shift for _, shift in folded if shift is not None]
            return source.node, torch.stack([w for w, _ in folded]).sum(0), sum(shifts) if shifts else None  # type: ignore[return-value]
        if isinstance(source, Wide) and source.dim == -1:
            return source.node, interleave(wide, 1, source.outer), None
        raise CannotLiftError(f"{linear.name} contracts a dimension in which the branches do not lie side by side")


def _linear_parameters(module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor | None]:
    """Weight (out, in) and bias of a linear node in float64."""
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    for parameter in (weight, bias):
        if isinstance(parameter, fx.Node) and parameter.op != "get_attr":
            raise CannotLiftError(f"{node.name} has the computed weight {parameter.name}")
    assert isinstance(weight, fx.Node)
    return read_parameter(module, weight), read_parameter(module, bias) if isinstance(bias, fx.Node) else None


def _fold(weight: Tensor, gain: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and extra bias of a linear that reads `n * gain + shift`, as a linear that reads n."""
    extra = None if shift is None else weight @ shift.double()
    return (weight if gain is None else weight * gain.double()), extra


def _row_layouts(linear: fx.Node) -> list[int]:
    """Where the branches may go among the rows of an in-projection, from how its output is split next."""
    value = tensor_value(linear)
    layouts = [1]
    pending, seen = list(linear.users), 0
    while pending and value is not None and seen < 32:
        user, seen = pending.pop(), seen + 1
        result = tensor_value(user)
        if user.target in ops.VIEWS and result is not None:
            inside = [s for s in sizes(result)[value.ndim - 1 :] if isinstance(s, int)]
            layouts.extend(math.prod(inside[:cut]) for cut in range(1, len(inside)))
        elif user.target in (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default):
            layouts.append(len(user.meta["val"]))
        elif user.target in ops.ELEMENTWISE:
            pending.extend(user.users)
    return list(dict.fromkeys(layouts))


# rules: (lifter, node of branch 0, lifted inputs) -> lifted result ------------------------------------------------

Rule = Callable[[Lifter, fx.Node, dict[fx.Node, Lifted]], Lifted]


def _norm(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """layer_norm and rms_norm of a shared state: statistics once, gains and shifts wait to be folded."""
    layer = node.target == ops.LAYER_NORM
    source, shape = env[node.args[0]], node.args[1]  # type: ignore[index]
    if not isinstance(source, Shared):
        raise CannotLiftError(f"{node.name} normalises states that differ between the branches")
    gain = env[node.args[2]] if len(node.args) > 2 and isinstance(node.args[2], fx.Node) else None
    shift = env[node.args[3]] if layer and len(node.args) > 3 and isinstance(node.args[3], fx.Node) else None
    if not isinstance(shape, (list, tuple)) or len(shape) != 1:
        raise CannotLiftError(f"{node.name} normalises over the {len(shape)} dimensions {shape}")  # type: ignore[arg-type]
    epsilon = node.args[4] if layer and len(node.args) > 4 else (None if layer or len(node.args) < 4 else node.args[3])
    key = (node.target, source.node, tuple(shape), epsilon)
    if key not in lifter.norms:
        plain = (source.node, list(shape), None, None, 1e-5 if epsilon is None else epsilon, False)
        lifter.norms[key] = lifter._emit(node.target, plain if layer else (source.node, list(shape), None, epsilon))
    none: tuple[Tensor | None, ...] = (None,) * lifter.count
    gains = gain.tensors if isinstance(gain, Stored) else none
    shifts = shift.tensors if isinstance(shift, Stored) else none
    return Normed(lifter.norms[key], gains, shifts)


def _linear(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """A linear of a shared input: rows of all branches side by side."""
    source = env[node.args[0]]  # type: ignore[index]
    place = lifter.branches.lists[0].index(node)
    if not isinstance(source, (Shared, Normed)):
        raise CannotLiftError(f"{node.name} reads values that differ between the branches")
    none: tuple[Tensor | None, ...] = (None,) * lifter.count
    gains, shifts = (source.gains, source.shifts) if isinstance(source, Normed) else (none, none)
    weights, biases = [], []
    for branch, gain, shift in zip(lifter.branches.lists, gains, shifts, strict=True):
        weight, bias = _linear_parameters(lifter.module, branch[place])
        folded, extra = _fold(weight.double(), gain, shift)
        weights.append(folded)
        biases.append(sum((b.double() for b in (bias, extra) if b is not None), torch.zeros(len(weight)).double()))
    has_bias = len(node.args) > 2 and node.args[2] is not None
    has_bias = has_bias or any(shift is not None for shift in shifts)
    outer = lifter.outers[node]
    dtype = _linear_parameters(lifter.module, node)[0].dtype
    weight_node = lifter._store("weight", interleave(weights, 0, outer).to(dtype))
    bias_node = lifter._store("bias", interleave(biases, 0, outer).to(dtype)) if has_bias else None
    return Wide(lifter._emit(ops.LINEAR, (source.node, weight_node, bias_node)), -1, outer)


def _elementwise(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """Pointwise operators keep the layout that all wide inputs share."""
    values = [env[source] for source in node.all_input_nodes]
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
        replaced[source] = lifter._node(value, node)
    args, kwargs = fx.map_arg((node.args, node.kwargs), replaced.__getitem__)  # type: ignore[misc]
    return Wide(lifter._emit(node.target, args, kwargs), dim, outer)


def _wide_parameter(lifter: Lifter, node: fx.Node, value: Stored, dim: int, outer: int) -> fx.Node:
    first = value.tensors[0]
    if first.ndim < -dim or first.shape[dim] % outer or first.shape[dim] < outer or first.numel() == 1:
        raise CannotLiftError(f"{node.name} reads a parameter of shape {list(first.shape)} across the branches")
    return lifter._store("parameter", interleave(value.tensors, first.ndim + dim, outer))


def _wide(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Wide:
    value = env[node.args[0]]  # type: ignore[index]
    if not isinstance(value, Wide):
        raise CannotLiftError(f"{node.name} ({node.target}) reads a value that the branches hold apart")
    return value


def _shape(node: fx.Node) -> tuple[Any, ...]:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    value = tensor_value(source)
    assert value is not None
    return sizes(value)


def _view(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value, result = _wide(lifter, node, env), tensor_value(node)
    assert result is not None
    moved = through_view(_shape(node), sizes(result), value.dim, value.outer)
    if moved is None:
        raise CannotLiftError(f"{node.name} views {list(_shape(node))} as {list(result.shape)} across the branches")
    dim, outer = moved
    wanted = list(node.args[1])  # type: ignore[arg-type]
    size = wanted[dim]
    if isinstance(size, fx.Node):
        wanted[dim] = lifter._emit(ops.MULTIPLY, (lifter._node(env[size], node), lifter.count))
    elif size != -1:
        wanted[dim] = size * lifter.count  # type: ignore[operator]
    plain = fx.map_arg(wanted, lambda n: lifter._node(env[n], node) if n in env else n)
    return Wide(lifter._emit(aten.reshape.default, (value.node, plain)), dim, outer)


def _transpose(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value, ndim = _wide(lifter, node, env), len(_shape(node))
    first, second = (d % ndim for d in node.args[1:3])  # type: ignore[operator]
    swap = {first: second, second: first}
    place = value.dim % ndim
    return Wide(lifter._emit(node.target, (value.node, first, second)), swap.get(place, place) - ndim, value.outer)


def _permute(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value, ndim = _wide(lifter, node, env), len(_shape(node))
    order = [d % ndim for d in node.args[1]]  # type: ignore[union-attr]
    return Wide(lifter._emit(node.target, (value.node, order)), order.index(value.dim % ndim) - ndim, value.outer)


def _drop_dimension(lifter: Lifter, node: fx.Node, value: Wide) -> int:
    """The wide dimension, from the right, after dimension `node.args[1]` is taken out."""
    ndim = len(_shape(node))
    dropped = (node.args[1] if len(node.args) > 1 else 0) % ndim  # type: ignore[operator]
    if dropped == value.dim % ndim:
        raise CannotLiftError(f"{node.name} takes apart the dimension in which the branches lie")
    return value.dim + 1 if dropped > value.dim % ndim else value.dim


def _unbind(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value = _wide(lifter, node, env)
    return Pieces(
        lifter._emit(node.target, (value.node, *node.args[1:])), _drop_dimension(lifter, node, value), value.outer
    )


def _select(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value = _wide(lifter, node, env)
    return Wide(
        lifter._emit(node.target, (value.node, *node.args[1:])), _drop_dimension(lifter, node, value), value.outer
    )


def _split(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """chunk and split: along another dimension as they are, along the wide one in whole multiples of `outer`."""
    value, shape = _wide(lifter, node, env), _shape(node)
    dim = (node.args[2] if len(node.args) > 2 else 0) % len(shape)  # type: ignore[operator]
    if dim != value.dim % len(shape):
        return Pieces(lifter._emit(node.target, (value.node, *node.args[1:])), value.dim, value.outer)
    parts = [piece.shape[dim] for piece in node.meta["val"]]
    if value.outer % len(parts) or len(set(parts)) != 1:
        raise CannotLiftError(f"{node.name} splits the branches' dimension into {parts}")
    pieces = lifter._emit(aten.split.Tensor, (value.node, parts[0] * lifter.count, dim))
    return Pieces(pieces, value.dim, value.outer // len(parts))


def _getitem(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    value = env[node.args[0]]  # type: ignore[index]
    if not isinstance(value, Pieces) or value.dim is None:
        raise CannotLiftError(f"{node.name} takes a piece of a value that the branches hold apart")
    return Wide(lifter._emit(node.target, (value.node, node.args[1])), value.dim, value.outer)


def _attention(lifter: Lifter, node: fx.Node, env: dict[fx.Node, Lifted]) -> Lifted:
    """One attention with N times the heads; a mask must be the same for all heads."""
    layouts = []
    for source in node.args[:3]:
        value = env[source]  # type: ignore[index]
        if not isinstance(value, Wide) or value.dim != -3:
            raise CannotLiftError(f"{node.name} would mix branches: they do not lie in its heads")
        layouts.append(value.outer)
    if len(set(layouts)) != 1:
        raise CannotLiftError(f"{node.name} reads heads of the branches in different orders")
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    shape = tensor_value(mask) if isinstance(mask, fx.Node) else None
    if shape is not None and shape.ndim >= 3 and shape.shape[-3] != 1:
        raise CannotLiftError(f"{node.name} has a mask with {shape.shape[-3]} heads")
    args, kwargs = lifter._plain(node, env)
    return Wide(lifter._emit(node.target, args, kwargs), -3, layouts[0])


RULES: dict[Any, Rule] = {
    ops.LAYER_NORM: _norm,
    aten.rms_norm.default: _norm,
    ops.LINEAR: _linear,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.unbind.int: _unbind,
    aten.select.int: _select,
    aten.chunk.default: _split,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    ops.GETITEM: _getitem,
    ops.ATTENTION: _attention,
    **dict.fromkeys(ops.VIEWS, _view),
    **dict.fromkeys(ops.ELEMENTWISE, _elementwise),
}
