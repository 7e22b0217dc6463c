"""Diagrams of a schedule: a networkx graph, written as SVG, DOT, GraphML or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import networkx as nx

from parallelize.files.whole_file import output_file
from parallelize.inspecting.diagram_svg import to_svg
from parallelize.inspecting.schedule_graph import schedule_graph
from passes.errors import ParallelizeError

__all__ = ["check_suffix", "draw", "schedule_graph", "to_dot", "to_svg"]

_DOT_SHAPES = {"sum": "circle", "input": "oval", "output": "oval", "between": "oval", "join": "oval"}


def check_suffix(path: Path) -> None:
    """Refuse a format that a diagram is not written in.

    Raises:
        ParallelizeError: the suffix is none of .svg, .dot, .graphml and .json.
    """
    if path.suffix.lower() not in _WRITERS:
        raise ParallelizeError(
            f"A diagram cannot be written as {path.name!r}.", f"End the name in one of {', '.join(_WRITERS)}."
        )


def draw(graph: nx.DiGraph, path: Path) -> None:
    """Write a diagram, in the format that the suffix names, whole or not at all.

    Raises:
        ParallelizeError: the suffix is none of .svg, .dot, .graphml and .json.
        EnvironmentLackError: the place cannot be written to.
    """
    check_suffix(path)
    text = _WRITERS[path.suffix.lower()](graph)
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
        style = "solid" if data["kind"] == "state" else "dashed"
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
