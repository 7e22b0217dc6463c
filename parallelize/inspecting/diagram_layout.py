"""Where the nodes of a schedule's graph are in a picture: a row for each generation, a lane for each stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

TERM_KINDS = ("attention", "attention+mlp", "mlp", "convolution", "other")
ROW_GAP = 60.0
_BOX, _PILL, _NAME, _SUM = (172.0, 56.0), (132.0, 34.0), (172.0, 34.0), (28.0, 28.0)
_COLUMN_GAP, _CARD, _LANE = 40.0, 5.0, 34.0
_PADS = {"run": (11.0, 16.0), "frame": (18.0, 24.0)}  # around what is repeated: sides and bottom, top
_LANE_NAMES, _LANE_GAP = 84.0, 20.0  # left of each of several stacks side by side, and between them


@dataclass(frozen=True)
class Box:
    """A rectangle by its centre and size, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> float:
        """The x of the left edge."""
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        """The x of the right edge."""
        return self.x + self.width / 2

    @property
    def top(self) -> float:
        """The y of the upper edge."""
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        """The y of the lower edge."""
        return self.y + self.height / 2

    @classmethod
    def around(cls, boxes: Sequence[Box], pad: float = 0, top_pad: float = 0) -> Box:
        """The smallest box that holds others, with margins."""
        left, right = min(b.left for b in boxes) - pad, max(b.right for b in boxes) + pad
        top, bottom = min(b.top for b in boxes) - top_pad, max(b.bottom for b in boxes) + pad
        return cls((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def _size(kind: str) -> tuple[float, float]:
    if kind in TERM_KINDS:
        return _BOX
    if kind in ("between", "join"):
        return _NAME
    return _SUM if kind == "sum" else _PILL


def layout(graph: nx.DiGraph) -> dict[str, Box]:
    """Where each node is; the picture's middle is at x = 0, the first row is at y = 0."""
    columns = _columns(graph)
    middles = _middles(graph, columns)
    rows = list(nx.topological_generations(graph))
    x = {name: _place_in_lane(data, middles, columns) for name, data in graph.nodes(data=True) if data["lane"] >= 0}
    for row in rows:
        for name in row:
            if name not in x:
                ends = [x[other] for other in (graph.predecessors(name) or ()) if other in x]
                ends = ends or list(middles.values()) or [0.0]
                x[name] = (min(ends) + max(ends)) / 2
    boxes = {}
    y = 0.0
    for row in rows:
        row_height = max(_size(graph.nodes[name]["kind"])[1] for name in row)
        for name in row:
            boxes[name] = Box(x[name], y + row_height / 2, *_size(graph.nodes[name]["kind"]))
        y += row_height + ROW_GAP
    return boxes


Columns = dict[tuple[int, int], list[int]]  # stack and level -> the chains that are drawn


def _columns(graph: nx.DiGraph) -> Columns:
    columns: Columns = {}
    for _, data in graph.nodes(data=True):
        if data["kind"] in TERM_KINDS:
            chains = columns.setdefault((data["part"], data["level"]), [])
            chains.extend([data["chain"]] if data["chain"] not in chains else [])
    return {key: sorted(chains) for key, chains in columns.items()}


def _middles(graph: nx.DiGraph, columns: Columns) -> dict[int, float]:
    """For each lane the x on which its states are."""
    widths: dict[int, tuple[float, float]] = {}
    for _, data in graph.nodes(data=True):
        if data["lane"] < 0:
            continue
        chains = len(columns.get((data["part"], data["level"]), [0]))
        half = (chains - 1) / 2 * (_BOX[0] + _COLUMN_GAP) + _BOX[0] / 2
        framed = 2 * _PADS["frame"][0] * (data.get("frame_repeat", 1) > 1 or data.get("run_repeat", 1) > 1)
        left, right = half + framed, half + framed + _LANE * (data["kind"] == "sum")
        known = widths.get(data["lane"], (0.0, 0.0))
        widths[data["lane"]] = max(known[0], left), max(known[1], right)
    if len(widths) < 2:
        return dict.fromkeys(widths, 0.0)
    middles, x = {}, 0.0
    for lane, (left, right) in sorted(widths.items()):
        middles[lane] = x + _LANE_NAMES + left
        x = middles[lane] + right + _LANE_GAP
    shift = (x - _LANE_GAP + _LANE_NAMES) / 2
    return {lane: middle - shift for lane, middle in middles.items()}


def _place_in_lane(data: dict[str, Any], middles: dict[int, float], columns: Columns) -> float:
    middle = middles[data["lane"]]
    if data["kind"] not in TERM_KINDS:
        return middle
    chains = columns[data["part"], data["level"]]
    return middle + (chains.index(data["chain"]) - (len(chains) - 1) / 2) * (_BOX[0] + _COLUMN_GAP)


def lanes_of(graph: nx.DiGraph, boxes: dict[str, Box]) -> dict[str, Box]:
    """For each sum, the vertical line on which the residual passes its level."""
    right: dict[tuple[int, int], float] = {}
    for name, data in graph.nodes(data=True):
        key = data["part"], data["level"]
        right[key] = max(right.get(key, boxes[name].right), boxes[name].right)
    lanes = {}
    for source, target, data in graph.edges(data=True):
        if data["kind"] == "skip":
            start, end = boxes[source].y + 5, boxes[target].y - 5
            x = right[graph.nodes[target]["part"], graph.nodes[target]["level"]] + _LANE
            lanes[target] = Box(x, (start + end) / 2, 0, end - start)
    return lanes


def long_ways(graph: nx.DiGraph, boxes: dict[str, Box], lanes: dict[str, Box]) -> dict[str, Box]:
    """For each edge past stacks, the vertical line on which it passes them, right of everything."""
    ways: dict[str, Box] = {}
    right = max(box.right for box in (*boxes.values(), *lanes.values())) + 2 * _PADS["frame"][0]
    for source, target, data in graph.edges(data=True):
        if data["kind"] == "long":
            start, end = boxes[source].y, boxes[target].y
            ways[f"{source} {target}"] = Box(right + _LANE * len(ways), (start + end) / 2, 0, end - start)
    return ways


def frames_of(graph: nx.DiGraph, boxes: dict[str, Box], lanes: dict[str, Box], kind: str) -> list[tuple[Box, int]]:
    """Frames around what is repeated in series, with the number of repeats."""
    members: dict[tuple[int, int], list[Box]] = {}
    for name, data in graph.nodes(data=True):
        if data.get(f"{kind}_repeat", 1) == 1:
            continue
        inside = members.setdefault((data[kind], data[f"{kind}_repeat"]), [])
        inside.extend(cards(data, boxes[name]))
        if name in lanes:
            inside.append(Box(lanes[name].x, boxes[name].y, 0, 0))
    return [(Box.around(inside, *_PADS[kind]), repeat) for (_, repeat), inside in members.items()]


def cards(data: dict[str, Any], box: Box) -> list[Box]:
    """The box of a node, behind it two more where it stands for several branches."""
    shifts = (2 * _CARD, _CARD, 0) if data.get("branches", 1) > 1 else (0,)
    return [Box(box.x + shift, box.y + shift, box.width, box.height) for shift in shifts]
