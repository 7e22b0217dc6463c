"""The graph that a diagram shows: which term waits for which.

    input -> terms of level 1 -> + -> terms of level 2 -> + -> ... -> output

A node is a term, or several equal ones: equal blocks that follow each other are drawn once, and so are many equal
branches of a level. An edge into a term weighs as many terms as the node stands for in series, every other edge weighs
0, so the longest path of the graph is the depth of the plan.

Where a model has several stacks, each begins in a node of its own behind the stacks that it waits for, in one column
with the stack that it goes on from and otherwise beside it; many equal stacks side by side are drawn once. Where the
ends of several stacks meet, a node says in which operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import networkx as nx
from torch import fx

from parallelize.inspecting.diagram_svg import printable
from passes.graph import operators as ops
from passes.plan import Chain, Level, Plan, StackPlan
from passes.schedule.apply_plan import check_fits
from passes.stacks.find import Stack
from passes.stacks.stack_graph import StackGraph, stack_graph

MOST_BRANCHES = 4  # more equal branches than these become one node
Bundle = tuple[int, ...]  # equal stacks that are drawn once


def schedule_graph(stacks: Sequence[Stack], plan: Plan, title: str = "", *, collapse: bool = True) -> nx.DiGraph:
    """Lay out which term waits for which.

    Args:
        stacks: the stacks of the model, in the order of the plan.
        plan: the schedule of every stack.
        title: name of the diagram, "Schedule" if empty.
        collapse: draw equal blocks in series, and more than `MOST_BRANCHES` equal branches, once.

    Returns:
        A graph of plain values.

        Nodes have `label`, `kind` (that of the term, or "input", "output", "between" for the beginning of one of
        several stacks, "join" for what joins their ends, "sum"), `stack`, `part` (the number of the stack, -1 outside
        of stacks), `lane` (the column of the stack, -1 outside of stacks), `level` (of its stack, from 1; of the first
        level the node stands for), `chain` (its place in the level) and `critical` (on one longest path). Terms also
        have `terms` (numbers in their stack), `module`, `branches` (equal branches side by side), `repeat` (equal terms
        in series), and the drawn frames that hold them: `frame` with `frame_repeat` around equal blocks of levels,
        `run` with `run_repeat` around equal blocks of one chain.

        Edges have `kind` ("state"; "skip" from a state to the sum of its level; "side" to a stack that reads the end of
        another as a side input; "long" past the stacks between), `weight` (terms) and `critical`.

        The graph has `title`, `depth` and `serial_depth` (terms on the longest path, now and as captured),
        `depth_blocks` and `serial_blocks`, `depth_layers` and `serial_layers` (the same in blocks and layers) and
        `deleted` (terms on no level, or "none").

    Raises:
        ParallelizeError: the plan does not fit the stacks.
    """
    check_fits(stacks, plan)
    waiting = stack_graph(stacks)
    builder = _Builder(waiting, collapse)
    for bundle in _bundles(waiting, plan, collapse):
        builder.add_bundle(bundle, plan.stacks[bundle[0]])
    builder.add_output()
    graph = builder.graph
    graph.graph.update(
        title=printable(title) or "Schedule",
        depth=waiting.terms(plan),
        serial_depth=waiting.serial_terms,
        depth_blocks=waiting.blocks(plan),
        serial_blocks=waiting.serial_blocks,
        depth_layers=waiting.layers(plan),
        serial_layers=waiting.serial_layers,
        deleted=_deleted(list(zip(stacks, plan.stacks, strict=True))),
    )
    _mark_critical_path(graph)
    return graph


def _bundles(waiting: StackGraph, plan: Plan, collapse: bool) -> list[Bundle]:
    """Stacks in an order in which they can be drawn, those of more than `MOST_BRANCHES` equal ones together."""
    alike: dict[object, list[int]] = {}
    for number in nx.lexicographical_topological_sort(waiting.order):
        stack, part = waiting.stacks[number], plan.stacks[number]
        around = waiting.reads[number], waiting.states[number], tuple(_readers(waiting, number))
        signatures = tuple(term.signature for term in stack.terms)
        alike.setdefault((around, signatures, part.levels), []).append(number)
    bundles: list[Bundle] = []
    for numbers in alike.values():
        together = collapse and len(numbers) > MOST_BRANCHES
        bundles.extend([tuple(numbers)] if together else [(number,) for number in numbers])
    rank = {number: place for place, number in enumerate(nx.lexicographical_topological_sort(waiting.order))}
    return sorted(bundles, key=lambda bundle: rank[bundle[0]])


def _readers(waiting: StackGraph, number: int) -> list[int]:
    return [other for other, sources in enumerate(waiting.reads) if number in sources]


class _Builder:
    """Adds nodes from the input on; `state` is the node that the next level reads."""

    def __init__(self, waiting: StackGraph, collapse: bool) -> None:
        self.waiting, self.collapse = waiting, collapse
        self.graph = nx.DiGraph()
        self.level = self.frames = self.runs = self.lanes = 0
        self.ends: dict[int, str] = {}  # of each stack
        self.last: dict[int, int] = {}  # for each column the stack that ends it
        self.place: dict[str, Any] = {}  # of the stack that is being drawn
        self.size = 1  # stacks that it stands for
        self._add("input", "input", "input")
        self.state = "input"

    def _add(self, name: str, kind: str, label: str) -> None:
        self.graph.add_node(name, label=label, kind=kind, stack="model", part=-1, lane=-1, level=0, chain=0)

    def _edge(self, source: str, target: str, kind: str = "state", weight: int = 0) -> None:
        if not self.graph.has_edge(source, target):
            self.graph.add_edge(source, target, kind=kind, weight=weight)

    # stacks ----------------------------------------------------------------------------------------------------------

    def add_bundle(self, bundle: Bundle, plan: StackPlan) -> None:
        """A stack, or several equal ones, behind the stacks that it waits for."""
        first = bundle[0]
        stack = self.waiting.stacks[first]
        names = [self.waiting.stacks[number].name for number in bundle]
        name = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        lane = self._lane(first)
        self.place, self.size, self.level = {"stack": name, "part": first, "lane": lane}, len(bundle), 0
        self.state = "input" if len(self.waiting.stacks) == 1 else self._entry(first, name)
        self._add_levels(f"stack{first}", stack, plan)
        self.ends.update(dict.fromkeys(bundle, self.state))
        self.last[lane] = first

    def _lane(self, number: int) -> int:
        """The column of a stack whose state this one goes on from, where it is free, or a new one."""
        free = {last: lane for lane, last in self.last.items()}
        lanes = [free[source] for source in self.waiting.states[number] if source in free]
        if lanes:
            return lanes[0]
        self.lanes += 1
        return self.lanes - 1

    def _entry(self, number: int, name: str) -> str:
        """The node in which a stack begins, with all that it waits for."""
        entry = f"stack{number}.entry"
        states = list(self.waiting.states[number])
        ends = dict.fromkeys(self.ends[source] for source in states)
        source = next(iter(ends), "input")
        if len(states) > 1:
            source = f"join{number}"
            self._join(source, states, self.waiting.meeting(states), number)
        self.graph.add_node(entry, label=name, kind="between", level=0, chain=0, **self.place)
        self._edge(source, entry)
        for other in self.waiting.reads[number]:
            if other not in states:
                self._edge(self.ends[other], entry, "side")
        return entry

    def _join(self, name: str, numbers: Sequence[int], meeting: fx.Node | None, reader: int | None) -> None:
        """A node that joins the ends of stacks; an end that reaches it past stacks that wait for it has a long way."""
        self._add(name, "join", _operation(meeting, len(numbers)))
        for number in numbers:
            is_next = reader is None or self.waiting.order.has_edge(number, reader)
            self._edge(self.ends[number], name, "state" if is_next else "long")

    def add_output(self) -> None:
        """The output, behind every stack that no other waits for."""
        ends = [number for number in self.waiting.order if not self.waiting.order.out_degree(number)]
        meeting = self.waiting.meeting(ends) if len(ends) > 1 else None
        sources = list(dict.fromkeys(self.ends[number] for number in ends)) or ["input"]
        if meeting is not None and meeting.op == "call_function":
            self._join("join", ends, meeting, None)
            sources = ["join"]
        self._add("output", "output", "output")
        for source in sources:
            self._edge(source, "output")

    # levels ----------------------------------------------------------------------------------------------------------

    def _add_levels(self, prefix: str, stack: Stack, plan: StackPlan) -> None:
        for alike in _equal_runs(_level_blocks(stack, plan.levels), _levels_key(stack), self.collapse):
            self.frames += 1
            for levels in zip(*alike, strict=True):
                self.level += 1
                self._add_level(prefix, stack, levels)
            self.level += len(alike[0]) * (len(alike) - 1)

    def _add_level(self, prefix: str, stack: Stack, levels: Sequence[Level]) -> None:
        """One level, drawn once for several equal ones."""
        ends = []
        frame = {"frame": self.frames, "frame_repeat": len(levels)}
        for places in _alike_branches(stack, levels[0], self.collapse):
            common = {"level": self.level, "chain": places[0], "branches": len(places) * self.size}
            chains = [level.chains[place] for level in levels for place in places]
            ends.append(self._add_chain(prefix, stack, chains, {**self.place, **common, **frame}))
        if len(levels[0].chains) == 1:
            self.state = ends[0]
            return
        total = f"{prefix}.level{self.level}.sum"
        self.graph.add_node(total, label="+", kind="sum", level=self.level, chain=0, **self.place, **frame)
        for end in ends:
            self._edge(end, total)
        self._edge(self.state, total, "skip")
        self.state = total

    def _add_chain(self, prefix: str, stack: Stack, chains: Sequence[Chain], common: dict[str, Any]) -> str:
        """One chain, drawn once for several equal ones; returns the name of its last node."""
        previous = self.state
        blocks = _chain_blocks(stack, chains[0])
        signatures = _signatures(stack, chains[0])
        for alike in _equal_runs(blocks, lambda block: [signatures[place] for place in block], self.collapse):
            self.runs += 1
            for places in zip(*alike, strict=True):
                numbers = sorted(chain[place] for chain in chains for place in places)
                name = f"{prefix}.term{numbers[0]}"
                repeat = common["frame_repeat"] * len(alike)
                kind = stack.terms[numbers[0]].kind
                self.graph.add_node(
                    name,
                    label=kind,
                    kind=kind,
                    terms=", ".join(map(str, numbers)),
                    module=_modules(stack, numbers),
                    repeat=repeat,
                    run=self.runs,
                    run_repeat=len(alike),
                    **common,
                )
                self._edge(previous, name, weight=repeat)
                previous = name
        return previous


_OPERATIONS: dict[object, str] = {
    **dict.fromkeys((*ops.ADDS, ops.aten.sub.Tensor, ops.aten.sum.dim_IntList), "sum"),
    **dict.fromkeys((ops.aten.cat.default, ops.aten.stack.default), "concatenation"),
    ops.aten.mul.Tensor: "product",
    ops.aten.mean.dim: "mean",
    ops.ATTENTION: "attention",
    **dict.fromkeys(ops.MATRIX_PRODUCTS, "matrix product"),
}


def _operation(meeting: fx.Node | None, count: int) -> str:
    """Such as "sum of 8"."""
    if meeting is None:
        return f"{count} together"
    name = str(meeting.target).removeprefix("aten.").split(".")[0]
    return f"{_OPERATIONS.get(meeting.target, name)} of {count}"


def _mark_critical_path(graph: nx.DiGraph) -> None:
    path = nx.bellman_ford_path(graph, "input", "output", weight=lambda _source, _target, data: -data["weight"])
    nx.set_node_attributes(graph, False, "critical")
    nx.set_edge_attributes(graph, False, "critical")
    nx.set_node_attributes(graph, dict.fromkeys(path, True), "critical")
    nx.set_edge_attributes(graph, dict.fromkeys(nx.utils.pairwise(path), True), "critical")


def _equal_runs(items: Sequence[Any], key: Callable[[Any], object], collapse: bool) -> list[list[Any]]:
    """Neighbours with equal keys together, or each item alone."""
    return [list(run) for _, run in groupby(items, key)] if collapse else [[item] for item in items]


def _level_blocks(stack: Stack, levels: Sequence[Level]) -> list[list[Level]]:
    """Levels whose first terms are of one block of the model."""
    return [list(block) for _, block in groupby(levels, lambda level: level.terms[0] // stack.period)]


def _chain_blocks(stack: Stack, chain: Chain) -> list[list[int]]:
    """Places in the chain, block by block of the model."""
    return [list(block) for _, block in groupby(range(len(chain)), lambda place: chain[place] // stack.period)]


def _signatures(stack: Stack, terms: Sequence[int]) -> tuple[str, ...]:
    return tuple(stack.terms[term].signature for term in terms)


def _levels_key(stack: Stack) -> Callable[[Sequence[Level]], object]:
    return lambda levels: [[_signatures(stack, chain) for chain in level.chains] for level in levels]


def _alike_branches(stack: Stack, level: Level, collapse: bool) -> list[list[int]]:
    """Places of the level's chains, those of many equal ones together."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for place, chain in enumerate(level.chains):
        alike.setdefault(_signatures(stack, chain), []).append(place)
    groups = []
    for places in alike.values():
        groups.extend([places] if collapse and len(places) > MOST_BRANCHES else [[place] for place in places])
    return sorted(groups)


def _modules(stack: Stack, terms: Sequence[int]) -> str:
    paths = list(dict.fromkeys(stack.terms[term].module or "(unnamed)" for term in terms))
    return ", ".join(paths) if len(paths) < 3 else f"{paths[0]} … {paths[-1]}"


def _deleted(pairs: Sequence[tuple[Stack, StackPlan]]) -> str:
    parts = []
    for stack, plan in pairs:
        if plan.deleted:
            numbers = ", ".join(map(str, plan.deleted))
            parts.append(numbers if len(pairs) == 1 else f"{stack.name}: {numbers}")
    return "; ".join(parts) or "none"
