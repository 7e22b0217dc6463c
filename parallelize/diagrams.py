"""Diagrams of a schedule: a networkx graph, written as SVG, DOT, GraphML or JSON.

    input -> terms of level 1 -> + -> terms of level 2 -> + -> ... -> output

A node is a term, or several equal ones: equal blocks that follow each other are drawn once, and so are many equal
branches of a level. An edge into a term weighs as many terms as the node stands for in series, every other edge weighs
0, so the longest path of the graph is the depth of the plan. Stacks are drawn one after another, as they were found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import networkx as nx

from parallelize.diagram_svg import printable, to_svg
from parallelize.output_file import output_file
from passes.apply_plan import check_fits
from passes.errors import ParallelizeError
from passes.plan import Chain, Level, Plan, StackPlan
from passes.stacks import Stack

__all__ = ["draw", "schedule_graph", "to_dot", "to_svg"]

MOST_BRANCHES = 4  # more equal branches than these become one node
_DOT_SHAPES = {"sum": "circle", "input": "oval", "output": "oval", "between": "oval"}


def schedule_graph(stacks: Sequence[Stack], plan: Plan, title: str = "", *, collapse: bool = True) -> nx.DiGraph:
    """Lay out which term waits for which.

    Args:
        stacks: the stacks of the model, in the order of the plan.
        plan: the schedule of every stack.
        title: name of the diagram, "Schedule" if empty.
        collapse: draw equal blocks in series, and more than `MOST_BRANCHES` equal branches of a level, once.

    Returns:
        A graph of plain values.

        Nodes have `label`, `kind` (that of the term, or "input", "output", "between" for what lies between two stacks,
        "sum"), `stack`, `level` (from 1; of the first level the node stands for), `chain` (its place in the level) and
        `critical` (on one longest path). Terms also have `terms` (numbers in their stack), `module`, `branches` (equal
        branches side by side), `repeat` (equal terms in series), and the drawn frames that hold them: `frame` with
        `frame_repeat` around equal blocks of levels, `run` with `run_repeat` around equal blocks of one chain.

        Edges have `kind` ("state", or "skip" from a state to the sum of its level), `weight` (terms) and `critical`.

        The graph has `title`, `depth` and `serial_depth` (terms on the longest path, now and as captured),
        `depth_blocks` and `serial_blocks` (the same in blocks) and `deleted` (terms on no level, or "none").

    Raises:
        ParallelizeError: the plan does not fit the stacks.
    """
    check_fits(stacks, plan)
    builder = _Builder(collapse)
    for number, (stack, part) in enumerate(zip(stacks, plan.stacks, strict=True)):
        if number:
            builder.add_state(f"between{number}", "between", "next stack")
        builder.add_stack(f"stack{number}", stack, part)
    builder.add_state("output", "output", "output")
    graph = builder.graph
    pairs = list(zip(stacks, plan.stacks, strict=True))
    graph.graph.update(
        title=printable(title) or "Schedule",
        depth=plan.depth,
        serial_depth=sum(len(stack.terms) for stack in stacks),
        depth_blocks=float(sum(part.depth / stack.period for stack, part in pairs)),
        serial_blocks=float(sum(len(stack.terms) / stack.period for stack in stacks)),
        deleted=_deleted(pairs),
    )
    _mark_critical_path(graph)
    return graph


def draw(graph: nx.DiGraph, path: Path) -> None:
    """Write a diagram, in the format that the suffix names, whole or not at all.

    Raises:
        ParallelizeError: the suffix is none of .svg, .dot, .graphml and .json.
        EnvironmentLackError: the place cannot be written to.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise ParallelizeError(
            f"A diagram cannot be written as {path.name!r}.", f"End the name in one of {', '.join(_WRITERS)}."
        )
    text = write(graph)
    with output_file(path, f"The diagram {path} cannot be written") as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")


def to_dot(graph: nx.DiGraph) -> str:
    """The diagram as Graphviz source, for `dot -Tpdf` and the like."""
    lines = [f"digraph {{\n  label={_quoted(graph.graph['title'])};\n  labelloc=t;"]
    for name, data in graph.nodes(data=True):
        label = data["label"]
        if "terms" in data:
            counts = [f"{data['branches']} side by side"] * (data["branches"] > 1)
            counts += [f"{data['repeat']} in series"] * (data["repeat"] > 1)
            label = "\n".join([label, f"terms {data['terms']}", *counts])
        shape = _DOT_SHAPES.get(data["kind"], "box")
        lines.append(f"  {_quoted(name)} [label={_quoted(label)}, shape={shape}, penwidth={1 + 2 * data['critical']}];")
    for source, target, data in graph.edges(data=True):
        style = "dashed" if data["kind"] == "skip" else "solid"
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [style={style}, penwidth={1 + 2 * data['critical']}];")
    return "\n".join([*lines, "}\n"])


def _to_graphml(graph: nx.DiGraph) -> str:
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def _to_json(graph: nx.DiGraph) -> str:
    return json.dumps(nx.node_link_data(graph, edges="edges"), indent=1) + "\n"


_WRITERS: dict[str, Callable[[nx.DiGraph], str]] = {
    ".svg": to_svg,
    ".dot": to_dot,
    ".graphml": _to_graphml,
    ".json": _to_json,
}


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class _Builder:
    """Adds nodes from the input on; `state` is the node that the next level reads."""

    def __init__(self, collapse: bool) -> None:
        self.collapse = collapse
        self.graph = nx.DiGraph()
        self.level = 0
        self.frames = 0
        self.runs = 0
        self.graph.add_node("input", label="input", kind="input", stack="model", level=0, chain=0)
        self.state = "input"

    def add_state(self, name: str, kind: str, label: str) -> None:
        """A node that everything passes through."""
        self.graph.add_node(name, label=label, kind=kind, stack="model", level=self.level + (kind == "output"), chain=0)
        self.graph.add_edge(self.state, name, kind="state", weight=0)
        self.state = name

    def add_stack(self, prefix: str, stack: Stack, plan: StackPlan) -> None:
        """All levels of a stack."""
        for alike in _equal_runs(_level_blocks(stack, plan.levels), _levels_key(stack), self.collapse):
            self.frames += 1
            for levels in zip(*alike, strict=True):
                self.level += 1
                self.add_level(prefix, stack, levels)
            self.level += len(alike[0]) * (len(alike) - 1)

    def add_level(self, prefix: str, stack: Stack, levels: Sequence[Level]) -> None:
        """One level, drawn once for several equal ones."""
        ends = []
        for places in _alike_branches(stack, levels[0], self.collapse):
            common = {"stack": stack.name, "level": self.level, "chain": places[0], "branches": len(places)}
            frame = {"frame": self.frames, "frame_repeat": len(levels)}
            chains = [level.chains[place] for level in levels for place in places]
            ends.append(self.add_chain(prefix, stack, chains, {**common, **frame}))
        if len(levels[0].chains) == 1:
            self.state = ends[0]
            return
        total = f"{prefix}.level{self.level}.sum"
        self.graph.add_node(total, label="+", kind="sum", stack=stack.name, level=self.level, chain=0, **frame)
        for end in ends:
            self.graph.add_edge(end, total, kind="state", weight=0)
        self.graph.add_edge(self.state, total, kind="skip", weight=0)
        self.state = total

    def add_chain(self, prefix: str, stack: Stack, chains: Sequence[Chain], common: dict[str, Any]) -> str:
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
                self.graph.add_edge(previous, name, kind="state", weight=repeat)
                previous = name
        return previous


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
