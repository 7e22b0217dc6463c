"""The parallel branches that meet in one sum or concatenation, found by data flow.

What only one summand needs is its branch. Summands that share such values, as the terms of one chain do, are one branch
with several outputs:

    x + a_1 + m_1(x + a_1) + a_2 + m_2(x + a_2)      has the branches (a_1, m_1) and (a_2, m_2)

What all branches need, the state, is part of none.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType

import torch
from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import canonical_walk, carries_tensors, tensor_value
from passes.stacks.find import structure

aten = ops.aten

# Values that are looked up, moved, repeated, added up or computed element by element, as embeddings and rotary
# positions are.
_IDLE = (
    ops.ELEMENTWISE
    | ops.VIEWS
    | ops.DROPOUTS
    | frozenset(
        {
            aten.embedding.default,
            aten.index.Tensor,
            aten.index_select.default,
            aten.gather.default,
            aten.cat.default,
            aten.stack.default,
            aten.expand.default,
            aten.repeat.default,
            aten.repeat_interleave.self_int,
            *ops.REARRANGEMENTS,
            aten.sum.dim_IntList,
            aten.arange.default,
            aten.arange.start,
            aten.full.default,
            aten.zeros.default,
            aten.ones.default,
            aten.scalar_tensor.default,
        }
    )
)


@dataclass(frozen=True)
class Branch:
    """Summands that are computed together, with what they alone compute.

    Attributes:
        outputs: the summands, in the order of the sum.
        nodes: what they compute, with parameters and side inputs, in canonical order.
        inner: the nodes that only they need.
        lines: one line for each node; equal for branches that can be one.
    """

    outputs: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    inner: frozenset[fx.Node]
    lines: tuple[str, ...]


def find_branches(
    members: Sequence[fx.Node],
    tree: Collection[fx.Node],
    place: Mapping[fx.Node, float],
    states: Collection[fx.Node] = (),
    tapped: Mapping[fx.Node, Collection[fx.Node]] = MappingProxyType({}),
    *,
    light: bool = False,
) -> list[list[Branch]]:
    """Groups of branches with equal structure; a group of one is a branch that is alone.

    Args:
        members: what meets, in order.
        tree: the nodes in which it meets.
        place: each node's place in the order of execution.
        states: values in which no branch lies.
        tapped: members, and nodes of `tree`, that something outside reads too, with what does.
        light: whether branches count that only look up, move or combine values.
    """
    readers = _readers(members, tree, place, states, tapped)
    candidates = [member for member in dict.fromkeys(members) if member in readers]
    groups, alone = _grouped(_branches(candidates, readers, _shared(readers, len(candidates)), light=light))
    if any(len(branch.outputs) > 1 for branch in alone):
        # Terms that share no more than a norm, as attention and MLP in GPT-J, may still fuse one by one.
        outputs = set(chain.from_iterable(branch.outputs for branch in alone))
        rest = [member for member in candidates if member in outputs]
        chained = [needs & outputs for node, needs in readers.items() if node in outputs]
        more, alone = _grouped(_branches(rest, readers, chained, light=light))
        groups += more
    parts = [_independent(group, place) for group in groups]
    dependent = [branch for _, others in parts for branch in others]
    return [*(group for group, _ in parts if group), *([branch] for branch in (*alone, *dependent))]


def _independent(group: list[Branch], place: Mapping[fx.Node, float]) -> tuple[list[Branch], list[Branch]]:
    """The branches of a group that are computed from no other branch of it, and the rest."""
    outputs = {output for branch in group for output in branch.outputs}
    first = min(place[output] for output in outputs)
    waiting = [branch for branch in group if _reads(branch, outputs.difference(branch.outputs), first, place)]
    free = [branch for branch in group if branch not in waiting]
    return (free, waiting) if len(free) > 1 else ([], group)


def _reads(branch: Branch, outputs: Collection[fx.Node], first: float, place: Mapping[fx.Node, float]) -> bool:
    """Whether what a branch reads from outside is computed from one of `outputs`, none of which is before `first`."""
    pending = [node for node in branch.nodes if node not in branch.inner]
    seen = set(pending)
    while pending:
        node = pending.pop()
        if node in outputs:
            return True
        fresh = [source for source in node.all_input_nodes if place[source] >= first and source not in seen]
        seen.update(fresh)
        pending.extend(fresh)
    return False


def _readers(
    members: Sequence[fx.Node],
    tree: Collection[fx.Node],
    place: Mapping[fx.Node, float],
    states: Collection[fx.Node],
    tapped: Mapping[fx.Node, Collection[fx.Node]],
) -> dict[fx.Node, frozenset[fx.Node]]:
    """For each node that nothing outside needs, but for taps, the members that need it.

    States and what all members need are left out.
    """
    readers: dict[fx.Node, frozenset[fx.Node]] = {}
    wanted = set(members)
    heap = [(-place[member], member) for member in wanted]
    heapq.heapify(heap)
    seen: set[fx.Node] = set()
    while heap:
        _, node = heapq.heappop(heap)
        if node in seen:
            continue
        seen.add(node)
        if node in states or node.op != "call_function" or not carries_tensors(node):
            continue
        taps = tapped.get(node, ())
        if any(user not in tree and user not in readers and user not in taps for user in node.users):
            continue
        needs = frozenset(chain.from_iterable(readers[user] for user in node.users if user in readers))
        needs = needs | {node} if node in wanted else needs
        if len(wanted) > 1 and wanted - {node} <= needs:
            continue
        readers[node] = needs
        for source in node.all_input_nodes:
            if source not in seen:
                heapq.heappush(heap, (-place[source], source))
    return readers


def _shared(readers: Mapping[fx.Node, frozenset[fx.Node]], count: int) -> list[frozenset[fx.Node]]:
    """Sets of members that share a value, but not one that all of them need."""
    return [needs for needs in set(readers.values()) if 1 < len(needs) < count]


def _branches(
    candidates: Sequence[fx.Node],
    readers: Mapping[fx.Node, frozenset[fx.Node]],
    shared: Iterable[frozenset[fx.Node]],
    *,
    light: bool,
) -> list[Branch]:
    """Join members that share values, and give each branch its nodes."""
    leader = {member: member for member in candidates}

    def find(member: fx.Node) -> fx.Node:
        while leader[member] is not member:
            leader[member] = leader[leader[member]]
            member = leader[member]
        return member

    for needs in shared:
        known = [member for member in candidates if member in needs]
        for member in known[1:]:
            leader[find(member)] = find(known[0])
    bundles: dict[fx.Node, list[fx.Node]] = {}
    for member in candidates:
        bundles.setdefault(find(member), []).append(member)
    found = [_branch(tuple(outputs), readers) for outputs in bundles.values()]
    return [branch for branch in found if light or any(_works(node) for node in branch.inner)]


def _works(node: fx.Node) -> bool:
    """Whether an operator is worth running once for several branches."""
    idle = node.target in _IDLE or not isinstance(node.target, torch._ops.OpOverload | torch._ops.HigherOrderOperator)
    return not idle


def _branch(outputs: tuple[fx.Node, ...], readers: Mapping[fx.Node, frozenset[fx.Node]]) -> Branch:
    """What some members need and no other does; of a value in pieces that others read too, the pieces."""
    own = frozenset(outputs)

    def is_inner(node: fx.Node) -> bool:
        is_known = node in readers and readers[node] <= own
        return is_known and (node.target != ops.GETITEM or is_inner(node.all_input_nodes[0]))

    nodes = tuple(dict.fromkeys(node for output in outputs for node in canonical_walk(output, is_inner)))
    inner = frozenset(node for node in nodes if is_inner(node))
    place = {node: number for number, node in enumerate(nodes)}
    ends = [f"output {place[output]}" for output in outputs]
    return Branch(outputs, nodes, inner, (*structure(nodes, inner, None), *ends))


def _without_names(branch: Branch) -> tuple[str, ...]:
    """The branch's lines with shape and dtype of the values from outside in place of their names."""
    outside = (node for node in branch.nodes if node not in branch.inner and node.op != "get_attr")
    shapes = {f"side {node.name}": f"side {_described(node)}" for node in outside if carries_tensors(node)}
    return tuple(shapes.get(line, line) for line in branch.lines)


def _described(node: fx.Node) -> str:
    value = tensor_value(node)
    return node.name if value is None else f"{value.dtype} {[str(size) for size in value.shape]}"


def _grouped(branches: Iterable[Branch]) -> tuple[list[list[Branch]], list[Branch]]:
    """Branches of equal structure, and those that are alone.

    Branches that are alike but for the values that they read, such as two masks of one shape, form a group where no
    branch reads the very same values.
    """
    groups, alone = _by_lines(branches)
    more, alone = _by_lines(replace(branch, lines=_without_names(branch)) for branch in alone)
    return [*groups, *more], alone


def _by_lines(branches: Iterable[Branch]) -> tuple[list[list[Branch]], list[Branch]]:
    groups: dict[tuple[str, ...], list[Branch]] = {}
    for branch in branches:
        groups.setdefault(branch.lines, []).append(branch)
    several = [group for group in groups.values() if len(group) > 1]
    return several, [group[0] for group in groups.values() if len(group) == 1]
