"""Residual adds of a graph: x + f(x), one operand (the skip) an ancestor of the other, both of the state's shape.

Sums that are x + f(x) in another spelling (`passes.stacks.spelled_adds`) are residual adds too, but no terms: what a
term adds must be a node of its own. The pass normalize-adds makes them adds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import is_from_parameters, region_between, same_shape, tensor_value
from passes.stacks.spelled_adds import SpelledAdd, spelled_add


@dataclass(frozen=True)
class ResidualAdd:
    """A residual add before it is known to which stack it belongs.

    Attributes:
        node: the add.
        skip: the operand that is the state.
        region: the nodes between the two, what is added included, in execution order.
        joins: further adds of the same term, (x + f(x)) + g(x), each with its own output in `region`.
        post: the norm or activation after the add that belongs to the term.
        spelled: how the sum is written where it is no plain add.
    """

    node: fx.Node
    skip: fx.Node
    region: tuple[fx.Node, ...]
    joins: tuple[fx.Node, ...] = ()
    post: tuple[fx.Node, ...] = ()
    spelled: SpelledAdd | None = None

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
        """What each of the adds adds to the state, or what a sum in another spelling reads of the region."""
        sums = (self.node, *self.joins)
        read = dict.fromkeys(source for total in sums for source in total.all_input_nodes if source not in sums)
        return tuple(source for source in read if source is not self.skip and source in self.region)

    @property
    def output(self) -> fx.Node:
        """What the first add adds to the state."""
        return self.outputs[0]

    @property
    def has_weights(self) -> bool:
        """Whether the term reads a parameter; in a product where the state is scaled, unlike a rotated query."""
        if self.spelled is not None and self.spelled.scaled and not any(ops.gemms(node) for node in self.region):
            return False
        read = [source for node in self.region for source in node.all_input_nodes]
        if any(source.op == "get_attr" for source in read):
            return True
        outside = {*read}.difference(self.region, (self.skip,))
        return any(is_from_parameters(source) for source in outside)  # such as a weight that is transposed first

    @property
    def is_activation(self) -> bool:
        """Whether the term is elementwise throughout, as x + 0.04 x^3 inside a GELU written out."""
        return all(node.target in ops.ELEMENTWISE for node in self.region)


def float_adds(
    graph: fx.Graph, targets: Collection[object] = ops.ADDS
) -> list[tuple[fx.Node, tuple[fx.Node, fx.Node]]]:
    """Every add of two different floating-point tensors, one of which has the sum's shape, with its operands."""
    found = []
    for node in graph.nodes:
        operands = [arg for arg in node.args if isinstance(arg, fx.Node)] if node.target in targets else []
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


def residual_adds(graph: fx.Graph, place: dict[fx.Node, int]) -> list[ResidualAdd]:
    """All residual adds of a graph, adds to one state joined, in execution order."""
    sums = float_adds(graph)
    found = {node: add for node, operands in sums if (add := _residual_add(node, operands, place)) is not None}
    joined = join_adds(found, sums, place)
    taken = {node for add in joined for node in (add.node, *add.joins)}
    others = _spelled_adds([node for node in graph.nodes if node not in taken], place)
    ends = {add.total: add.skip for add in joined}
    spelled = [add for add in others if not _takes_in(add, joined) and not is_difference(add.node, add.skip, ends)]
    inside = {node for add in spelled if add.spelled is not None for node in add.spelled.sums}
    whole = (add for add in (*joined, *spelled) if inside.isdisjoint((add.node, *add.joins)))
    return _without_parts(sorted(whole, key=lambda add: place[add.node]))


def _takes_in(add: ResidualAdd, plain: Sequence[ResidualAdd]) -> bool:
    """Whether a sum of sums holds a term on another state, as y + (x + f(x)) holds those at the ends of branches."""
    sums = () if add.spelled is None else add.spelled.sums
    return any(other.total in sums and other.skip is not add.skip and other.has_weights for other in plain)


def is_difference(node: fx.Node, state: fx.Node, ends: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether a sum takes the state off what terms have made of it, x + f(x) - x, which leaves what they add.

    Args:
        node: the sum.
        state: x.
        ends: the sum of each term, and the state that it adds to.
    """
    if node.target != ops.aten.sub.Tensor or node.args[1] is not state:
        return False
    value = node.args[0]
    while isinstance(value, fx.Node) and value in ends:
        value = ends[value]
    return value is state


def _without_parts(adds: Sequence[ResidualAdd]) -> list[ResidualAdd]:
    """Leave out sums on a state inside what another one adds to it, such as f - x in x + 2 (f - x)."""
    ends = {add.total: add.skip for add in adds}
    skips = {add.skip for add in adds}
    kept = []
    for add in adds:
        readers = list(add.total.users)
        taken = len(readers) == 1 and ends.get(readers[0]) is add.skip
        if add.spelled is not None and add.node not in skips:
            taken = taken or any(add.node in other.region for other in adds if other.skip is add.skip)
        kept.extend([] if taken else [add])
    return kept


def _spelled_adds(nodes: Iterable[fx.Node], place: dict[fx.Node, int]) -> list[ResidualAdd]:
    found = []
    for node in nodes:
        spelled = spelled_add(node, place)
        if spelled is not None:
            region = region_between(spelled.skip, node, place)[:-1]
            found.append(ResidualAdd(node, spelled.skip, tuple(region), spelled=spelled))
    return found


def _residual_add(node: fx.Node, operands: tuple[fx.Node, fx.Node], place: dict[fx.Node, int]) -> ResidualAdd | None:
    """The add as a residual add; None if neither operand is an ancestor of the other, or one is scaled or broadcast."""
    skip, output = sorted(operands, key=place.__getitem__)
    total = tensor_value(node)
    if total is None or node.kwargs.get("alpha", 1) != 1:
        return None
    if not all(value is not None and same_shape(value, total) for value in map(tensor_value, operands)):
        return None
    region = region_between(skip, output, place)
    return ResidualAdd(node, skip, tuple(region)) if region else None


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
        if add is None or list(first.users) != [node]:
            continue
        region = region_between(add.skip, other, place)
        value, total = tensor_value(other), tensor_value(node)
        if not region or value is None or total is None or not same_shape(value, total) or node.kwargs:
            continue
        both = tuple(sorted({*add.region, *region}, key=place.__getitem__))
        longer = replace(add, region=both, joins=(*add.joins, node))
        if longer.has_weights:
            del ends[first]
            ends[node] = longer
    return sorted(ends.values(), key=lambda add: place[add.node])
