"""Runs of a graph that are watched node by node: where randomness comes in, and where two runs part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from passes.graph.agreement import change

Inputs = Sequence[Tensor]
_SWITCHES = {"dropout": 2, "feature_dropout": 2, "alpha_dropout": 2, "native_dropout": 2, "rrelu": 3}  # their `train`
_RATES = {"scaled_dot_product_attention": 4}  # their rate of dropout


# --------------------------------------------------------------------------------------------------------- randomness


def may_be_random(node: fx.Node) -> bool:
    """Whether an operator draws random numbers, dropout that is off left out."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    name = target._schema.name.removeprefix("aten::")
    off = _SWITCHES.get(name, _RATES.get(name))
    if off is None:
        return True
    argument = target._schema.arguments[off]
    value = node.args[off] if len(node.args) > off else node.kwargs.get(argument.name, argument.default_value)
    return value is None or bool(value)  # native_dropout trains where it is not told


def random_operators(module: fx.GraphModule, inputs: Inputs) -> tuple[fx.Node, ...]:
    """The operators that give other values on the same inputs each time, where the outputs depend on these values."""
    if not any(may_be_random(node) for node in module.graph.nodes):
        return ()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        twice = _Twice(module)
        twice.run(*inputs, enable_io_processing=False)
        found = tuple(twice.random)
        if not found:
            return ()
        try:
            low, high = (_outputs(_Replaced(module, found, value), inputs) for value in (0, 1))
        except Exception:  # noqa: BLE001  (a graph may not run on values that it would never draw)
            return found
    return found if not _equal(low, high) else ()


class _Twice(fx.Interpreter):
    """Computes what may be random twice, on the same inputs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.random: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if may_be_random(n) and not _equal(_tensors(value), _tensors(super().run_node(n))):
            self.random.append(n)
        return value


class _Replaced(fx.Interpreter):
    """Puts one number in the place of what is random."""

    def __init__(self, module: fx.GraphModule, nodes: Iterable[fx.Node], number: int) -> None:
        super().__init__(module)
        self.nodes, self.number = frozenset(nodes), number

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return pytree.tree_map_only(Tensor, self._filled, value) if n in self.nodes else value

    def _filled(self, tensor: Tensor) -> Tensor:
        return torch.full_like(tensor, self.number)


# ------------------------------------------------------------------------------------------------------- two runs


class Recorded(fx.Interpreter):
    """Keeps the value of every node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)

    @classmethod
    def run_on(cls, module: fx.GraphModule, inputs: Inputs) -> dict[fx.Node, Any]:
        """The values of all nodes."""
        made = cls(module)
        with torch.no_grad():
            made.run(*inputs, enable_io_processing=False)
        return dict(made.env)


def first_apart(
    module: fx.GraphModule, left: Inputs, right: Inputs, parts: tuple[slice, slice], sizes: tuple[int, int], most: float
) -> fx.Node | None:
    """The first operator in which some samples have other values in two batches, although what it reads is equal.

    Args:
        module: the graph.
        left: one batch.
        right: the other.
        parts: where the samples lie in each.
        sizes: samples in each.
        most: relative difference that is rounding.
    """
    values = [Recorded.run_on(module, inputs) for inputs in (left, right)]
    nodes: list[fx.Node] = list(module.graph.nodes)
    for node in nodes:
        if node.op != "call_function" or _is_view(node):
            continue
        pairs = zip(*(_tensors(value[node]) for value in values), strict=False)
        if any(_is_apart(a, b, parts, sizes, most) for a, b in pairs):
            return node
    return None


def _is_view(node: fx.Node) -> bool:
    """Whether an operator only arranges what it reads, so that an axis of samples may be anywhere behind it."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and any(out.alias_info for out in target._schema.returns)


def first_of_other_rank(module: fx.GraphModule, left: Inputs, right: Inputs) -> fx.Node | None:
    """The first operator whose value has another number of axes in two batches."""
    values = [Recorded.run_on(module, inputs) for inputs in (left, right)]
    nodes: list[fx.Node] = list(module.graph.nodes)
    for node in nodes:
        ranks = [[tensor.ndim for tensor in _tensors(value.get(node))] for value in values]
        if node.op == "call_function" and ranks[0] != ranks[1]:
            return node
    return None


def _is_apart(a: Tensor, b: Tensor, parts: tuple[slice, slice], sizes: tuple[int, int], most: float) -> bool:
    if a.ndim != b.ndim:
        return True
    axis = _sample_axis(a, b, sizes)
    if axis is not None:
        a, b = (_samples_of(v, axis, part, size) for v, part, size in zip((a, b), parts, sizes, strict=True))
    return a.shape == b.shape and not change([a], [b]).within(most)


def _sample_axis(a: Tensor, b: Tensor, sizes: tuple[int, int]) -> int | None:
    """The axis that differs as the batches do, or where they are equal the first that they divide."""
    for axis, (ours, theirs) in enumerate(zip(a.shape, b.shape, strict=True)):
        if ours % sizes[0] == 0 and theirs % sizes[1] == 0 and ours * sizes[1] == theirs * sizes[0]:
            return axis
    return None


def _samples_of(value: Tensor, axis: int, part: slice, size: int) -> Tensor:
    rows = value.shape[axis] // size
    return value.narrow(axis, part.start * rows, (part.stop - part.start) * rows)


def _outputs(interpreter: fx.Interpreter, inputs: Inputs) -> list[Tensor]:
    return _tensors(interpreter.run(*inputs, enable_io_processing=False))


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _equal(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(
        a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
        for a, b in zip(left, right, strict=True)
    )
