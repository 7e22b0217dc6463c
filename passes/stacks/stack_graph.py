"""Which stack waits for which: a model is a graph of stacks by data flow, and its depth is the longest path through it.

    encoder -> decoder        a stack reads the end of another, or a term of it does as a side input
    tower   | tower           neither needs the other: they run side by side, and the deeper one is waited for

A stack waits for another where anything that it computes depends on anything that the other computes. So a decoder is
behind its encoder as a whole, although its first attention is not, and a stack that taps a state in the middle of
another one counts as reading its end: depth is never told too small. Stacks that read each other, each in its middle,
count as one after the other, in the order in which they were found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
from torch import fx

from passes.graph.dataflow import tensor_inputs
from passes.plan import Plan, serial
from passes.stacks.terms import Stack


@dataclass(frozen=True, eq=False)
class StackGraph:
    """The stacks of one model, each behind those that it reads.

    Attributes:
        stacks: in the order in which they were found.
        order: numbers of stacks; an edge leads to a stack that waits. Edges that follow from others are left out.
        reads: for each stack those whose values reach it through no other stack.
        states: of these the ones that its entry is computed from; it reads the others as side inputs.
        near: for each node of the graph the stacks whose values reach it through no other, one bit each.
    """

    stacks: tuple[Stack, ...]
    order: nx.DiGraph
    reads: tuple[tuple[int, ...], ...]
    states: tuple[tuple[int, ...], ...]
    near: Mapping[fx.Node, int]

    def longest(self, depths: Sequence[int]) -> int:
        """The longest path where each stack is so deep."""
        return max(self._ends(depths).values(), default=0)

    def through(self, number: int, depths: Sequence[int]) -> int:
        """The longest path that leads through one stack."""
        before = nx.ancestors(self.order, number)
        after = nx.descendants(self.order, number)
        kept = [depth if n in before or n in after or n == number else 0 for n, depth in enumerate(depths)]
        return self.longest(kept)

    def terms(self, plan: Plan) -> int:
        """The depth of a plan in terms."""
        return self.longest([part.depth for part in plan.stacks])

    def blocks(self, plan: Plan) -> int:
        """The depth of a plan in blocks, those of each stack rounded up."""
        return self.longest([s.in_blocks(part.depth) for s, part in zip(self.stacks, plan.stacks, strict=True)])

    @cached_property
    def serial_plan(self) -> Plan:
        """The plan that leaves the model as it was captured."""
        return Plan(tuple(serial(len(stack.terms)) for stack in self.stacks))

    @cached_property
    def serial_terms(self) -> int:
        """The depth of the model as it was captured, in terms."""
        return self.longest([len(stack.terms) for stack in self.stacks])

    @cached_property
    def serial_blocks(self) -> int:
        """The depth of the model as it was captured, in blocks."""
        return self.longest([len(stack.blocks) for stack in self.stacks])

    def layers(self, plan: Plan) -> int:
        """The depth of a plan in layers, of which a block may hold several."""
        pairs = zip(self.stacks, plan.stacks, strict=True)
        return self.longest([stack.in_blocks(part.depth) * stack.layers for stack, part in pairs])

    @cached_property
    def serial_layers(self) -> int:
        """The depth of the model as it was captured, in layers."""
        return self.longest([len(stack.blocks) * stack.layers for stack in self.stacks])

    @cached_property
    def least_blocks(self) -> int:
        """The depth where every stack is one block deep."""
        return self.longest([1] * len(self.stacks))

    @cached_property
    def branches(self) -> tuple[tuple[int, ...], ...]:
        """Stacks of equal structure that read one state, as those of a Para-Former do; two or more in each."""
        alike: dict[tuple[fx.Node, tuple[str, ...]], list[int]] = {}
        for number, stack in enumerate(self.stacks):
            signatures = tuple(term.signature for term in stack.terms)
            alike.setdefault((stack.entry, signatures), []).append(number)
        return tuple(tuple(numbers) for numbers in alike.values() if len(numbers) > 1)

    @property
    def is_parallel(self) -> bool:
        """Whether every stack is one of several branches, so that the model is parallel as it was captured."""
        return bool(self.stacks) and sum(map(len, self.branches)) == len(self.stacks)

    def meeting(self, numbers: Iterable[int]) -> fx.Node | None:
        """The first node that the values of all these stacks reach through no other, or None where they never meet."""
        wanted = sum(1 << number for number in numbers)
        return next((node for node, bits in self.near.items() if bits & wanted == wanted), None)

    def _ends(self, depths: Sequence[int]) -> dict[int, int]:
        ends: dict[int, int] = {}
        for number in nx.topological_sort(self.order):
            start = max((ends[before] for before in self.order.predecessors(number)), default=0)
            ends[number] = start + depths[number]
        return ends


def stack_graph(stacks: Sequence[Stack]) -> StackGraph:
    """Find out which stack waits for which.

    Args:
        stacks: all stacks of one graph, in the order in which they were found.
    """
    made = {node: 1 << number for number, stack in enumerate(stacks) for node in _made(stack)}
    needs, near = _needs(stacks, made)
    order = nx.DiGraph()
    order.add_nodes_from(range(len(stacks)))
    for number, stack in enumerate(stacks):
        order.add_edges_from((other, number) for other in _numbers(_union(stack, needs), number))
    for cycle in list(nx.strongly_connected_components(order)):
        order.remove_edges_from([(a, b) for a in cycle for b in cycle])
        order.add_edges_from((a, b) for a in cycle for b in cycle if a < b)
    reduced = nx.DiGraph()
    reduced.add_nodes_from(range(len(stacks)))
    reduced.add_edges_from(nx.transitive_reduction(order).edges)
    reads, states = [], []
    for number, stack in enumerate(stacks):
        bits = near[stack.entry]
        for node in _made(stack):
            for source in tensor_inputs(node):
                bits |= near[source]
        before = set(order.predecessors(number))
        reads.append(tuple(sorted(before & _numbers(bits, number))))
        states.append(tuple(sorted(before & _numbers(near[stack.entry], number))))
    return StackGraph(tuple(stacks), reduced, tuple(reads), tuple(states), near)


def _needs(stacks: Sequence[Stack], made: Mapping[fx.Node, int]) -> tuple[dict[fx.Node, int], dict[fx.Node, int]]:
    """For each node the stacks that it depends on, and those that it depends on through no other stack."""
    needs: dict[fx.Node, int] = {}
    near: dict[fx.Node, int] = {}
    for node in stacks[0].entry.graph.nodes if stacks else ():
        own = made.get(node, 0)
        needs[node] = near[node] = own
        for source in tensor_inputs(node):
            needs[node] |= needs[source]
            near[node] |= 0 if own else near[source]
    return needs, near


def _union(stack: Stack, needs: Mapping[fx.Node, int]) -> int:
    bits = needs[stack.entry]
    for node in _made(stack):
        bits |= needs[node]
    return bits


def _numbers(bits: int, own: int) -> set[int]:
    return {number for number in range(bits.bit_length()) if number != own and bits >> number & 1}


def _made(stack: Stack) -> Iterator[fx.Node]:
    """What a stack computes: all of its terms, and the states after them."""
    for term in stack.terms:
        yield from (*term.inner, term.add, *term.post)
