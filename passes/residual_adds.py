"""Residual adds of a graph: x + f(x), one operand (the skip) an ancestor of the other, both of the state's shape.

Two forms are residual adds without being terms, and are told with their reasons:
    1. the add scales what it adds (`alpha`);
    2. what is added is smaller than the state and broadcast over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from passes import operators as ops
from passes.dataflow import region_between, same_shape, tensor_value
from passes.terms import Refusal


@dataclass(frozen=True)
class ResidualAdd:
    """A residual add before it is known to which stack it belongs.

    Attributes:
        node: the add.
        skip: the operand that is the state.
        output: the other operand.
        region: the nodes between the two, `output` included, in execution order.
        joins: further adds of the same term, (x + f(x)) + g(x), each with its own output in `region`.
        post: the norm or activation after the add that belongs to the term.
    """

    node: fx.Node
    skip: fx.Node
    output: fx.Node
    region: tuple[fx.Node, ...]
    joins: tuple[fx.Node, ...] = ()
    post: tuple[fx.Node, ...] = ()

    @property
    def total(self) -> fx.Node:
        """The last add."""
        return self.joins[-1] if self.joins else self.node

    @property
    def result(self) -> fx.Node:
        """The state after the term."""
        return self.post[-1] if self.post else self.total

    @property
    def outputs(self) -> tuple[fx.Node, ...]:
        """What each of the adds adds to the state."""
        sums = (self.node, *self.joins)
        joined = [arg for join in self.joins for arg in join.args if isinstance(arg, fx.Node) and arg not in sums]
        return (self.output, *joined)

    @property
    def has_weights(self) -> bool:
        """Whether the term reads a parameter."""
        return any(source.op == "get_attr" for node in self.region for source in node.all_input_nodes)

    @property
    def is_activation(self) -> bool:
        """Whether the term is elementwise throughout, as x + 0.04 x^3 inside a GELU written out."""
        return all(node.target in ops.ELEMENTWISE for node in self.region)

    def why_no_term(self) -> str | None:
        """Why the add is no term, whatever is around it; None if it may be one."""
        alpha = self.node.kwargs.get("alpha", 1)
        if alpha != 1:
            return f"{self.node.name} adds {alpha} times {self.output.name} (alpha), not {self.output.name} itself"
        skip, output = tensor_value(self.skip), tensor_value(self.output)
        if skip is None or output is None or not same_shape(skip, output):
            return f"{self.node.name} broadcasts {self.output.name} over the state {self.skip.name}"
        return None


def float_adds(graph: fx.Graph) -> list[tuple[fx.Node, tuple[fx.Node, fx.Node]]]:
    """Every add of two different floating-point tensors, one of which has the sum's shape, with its operands."""
    found = []
    for node in graph.nodes:
        operands = [arg for arg in node.args if isinstance(arg, fx.Node)] if node.target in ops.ADDS else []
        if len(operands) != 2 or operands[0] is operands[1]:
            continue
        values = [tensor_value(operand) for operand in operands]
        total = tensor_value(node)
        if total is None or not total.is_floating_point() or not _any_same(values, total):
            continue
        found.append((node, (operands[0], operands[1])))
    return found


def _any_same(values: Sequence[torch.Tensor | None], total: torch.Tensor) -> bool:
    return all(v is not None for v in values) and any(v is not None and same_shape(v, total) for v in values)


def residual_add(node: fx.Node, operands: tuple[fx.Node, fx.Node], place: dict[fx.Node, int]) -> ResidualAdd | None:
    """The add as a residual add, or None if neither operand is an ancestor of the other, or the skip is broadcast."""
    skip, output = sorted(operands, key=place.__getitem__)
    value, total = tensor_value(skip), tensor_value(node)
    if value is None or total is None or not same_shape(value, total):
        return None
    region = region_between(skip, output, place)
    return ResidualAdd(node, skip, output, tuple(region)) if region else None


def join_adds(
    found: Mapping[fx.Node, ResidualAdd],
    sums: Iterable[tuple[fx.Node, tuple[fx.Node, fx.Node]]],
    place: dict[fx.Node, int],
) -> list[ResidualAdd]:
    """Make one term of adds to one state, (x + f(x)) + g(x), where nothing else reads the sum between them."""
    ends = {add.node: add for add in found.values()}
    for node, operands in sums:
        if node in found:
            continue
        first, other = operands if operands[0] in ends else reversed(operands)
        add = ends.get(first)
        if add is None or list(first.users) != [node] or add.why_no_term() is not None or not add.has_weights:
            continue
        region = region_between(add.skip, other, place)
        value, total = tensor_value(other), tensor_value(node)
        if not region or value is None or total is None or not same_shape(value, total) or node.kwargs:
            continue
        both = sorted({*add.region, *region}, key=place.__getitem__)
        ends[node] = replace(ends.pop(first), region=tuple(both), joins=(*add.joins, node))
    return sorted(ends.values(), key=lambda add: place[add.node])


def part_unfit(adds: Iterable[ResidualAdd]) -> tuple[list[ResidualAdd], list[tuple[ResidualAdd, Refusal]]]:
    """Part the adds into those that may be terms, and those with weights that may not, with the reason."""
    reasons = [(add, add.why_no_term()) for add in adds]
    fit = [add for add, reason in reasons if reason is None]
    return fit, [(add, Refusal(add.node.name, why)) for add, why in reasons if why is not None and add.has_weights]
