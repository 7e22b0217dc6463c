"""Draw the graph of a schedule as SVG, without a layout program.

Rows run from top to bottom and are the generations of the graph. Stacks that run side by side have a column each, in
which states are centred and a chain keeps its place; what joins them stands between. Edges are horizontal and vertical
lines with round corners, the residual passes a level in a lane on its right. Widths of text are estimated on the wide
side, so that text is shortened rather than let out of its box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from typing import Any

import networkx as nx

from parallelize.inspecting.diagram_layout import ROW_GAP, Box, cards, frames_of, lanes_of, layout, long_ways

# Kind -> fill and text. Lightness falls from "other" to "attention", so that kinds differ in grayscale too.
COLOURS = {
    "attention": ("#2b67ad", "#ffffff"),
    "attention+mlp": ("#8068b0", "#ffffff"),
    "mlp": ("#f3bd55", "#1b2330"),
    "convolution": ("#58a88c", "#0f1a1a"),
    "other": ("#dfe4ea", "#1b2330"),
}
_INK, _GREY, _LINE, _PALE, _PAPER = "#1b2330", "#5b6675", "#8b95a3", "#f5f7f9", "#ffffff"
_TIMES, _TO = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
_THIN = f'stroke="{_GREY}" stroke-width="1.1"'
_NARROW, _WIDE = " .,:;'()[]|!fijlrt", "mwMWOQGDH@%&<>+="
_FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
_MARGIN, _GUTTER, _LEAST_WIDTH = 40.0, 96.0, 640.0


def to_svg(graph: nx.DiGraph) -> str:
    """The SVG text of a graph made by `schedule_graph`; equal bytes for equal graphs."""
    boxes = layout(graph)
    lanes = lanes_of(graph, boxes)
    ways = long_ways(graph, boxes, lanes)
    frames = [*frames_of(graph, boxes, lanes, "frame"), *frames_of(graph, boxes, lanes, "run")]
    extent = Box.around([*boxes.values(), *lanes.values(), *ways.values(), *(box for box, _ in frames)])
    names = _level_names(graph, boxes, frames)
    reach = max(extent.right, -extent.left + _GUTTER)  # the states' column stays in the middle of the picture
    width = max(_LEAST_WIDTH, 2 * (reach + _MARGIN))
    header = _header(graph, width)
    legend, legend_height = _legend(graph, width)
    top = 116.0 + 20.0 * (graph.graph["deleted"] != "none")
    height = top + extent.height + 44 + legend_height + _MARGIN
    body = [
        *(_frame(box, repeat) for box, repeat in frames),
        *_edges(graph, boxes, {**lanes, **ways}),
        *(_badge(box, repeat) for box, repeat in frames),
        *(_node(data, boxes[name]) for name, data in graph.nodes(data=True)),
        *names,
    ]
    size = f'width="{_n(width)}" height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{escape(_FONT)}" role="img">',
            f"<title>{_escape(graph.graph['title'])}: {_escape(depth_sentence(graph))}</title>",
            f"<defs>{_arrow('arrow', _LINE, 8)}{_arrow('critical-arrow', _INK, 11)}</defs>",
            f'<rect width="100%" height="100%" fill="{_PAPER}"/>',
            *header,
            f'<g transform="translate({_n(width / 2)} {_n(top - extent.top)})">',
            *body,
            "</g>",
            f'<g transform="translate(0 {_n(top + extent.height + 44)})">',
            *legend,
            "</g>",
            "</svg>\n",
        ]
    )


def depth_sentence(graph: nx.DiGraph) -> str:
    """Such as "depth 6 of 24 terms (3 of 12 blocks)"; without blocks or layers where these are the same."""
    data = graph.graph
    sentence = f"depth {data['depth']} of {data['serial_depth']} terms"
    counts = []
    if data["serial_blocks"] != data["serial_depth"]:
        counts.append(f"{data['depth_blocks']} of {data['serial_blocks']} blocks")
    if data["serial_layers"] not in (data["serial_blocks"], data["serial_depth"]):
        counts.append(f"{data['depth_layers']} of {data['serial_layers']} layers")
    return f"{sentence} ({', '.join(counts)})" if counts else sentence


def printable(text: str) -> str:
    """The text without control characters, which XML forbids."""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def _escape(text: str) -> str:
    return escape(printable(text))


def _n(value: float) -> str:
    """A coordinate without needless digits."""
    return f"{value:.1f}".removesuffix(".0")


def _text_width(text: str, size: float, weight: int = 400) -> float:
    """No less than the width in pixels in any common sans-serif font."""
    wide = 1.12 if weight > 400 else 1.0
    return size * wide * sum(0.42 if c in _NARROW else 0.99 if c in _WIDE or ord(c) > 0x2000 else 0.66 for c in text)


def _shorten(text: str, size: float, room: float, weight: int = 400) -> str:
    if _text_width(text, size, weight) <= room:
        return text
    while text and _text_width(text + "…", size, weight) > room:
        text = text[:-1]
    return text.rstrip(" ,") + "…"


def _shorten_list(text: str, size: float, room: float) -> str:
    """The whole list, or its beginning and its last number."""
    numbers = text.split(", ")
    for shown in range(len(numbers), 1, -1):
        short = text if shown == len(numbers) else f"{', '.join(numbers[: shown - 1])}, … {numbers[-1]}"
        if _text_width(short, size) <= room:
            return short
    return _shorten(text, size, room)


def _frame(box: Box, repeat: int) -> str:
    return (
        f"<g><title>{repeat} times, one after another</title>"
        f'<rect x="{_n(box.left)}" y="{_n(box.top)}" width="{_n(box.width)}" height="{_n(box.height)}" rx="14" '
        f'fill="{_PALE}" stroke="#c3cbd5" stroke-width="1.2"/></g>'
    )


def _badge(box: Box, repeat: int) -> str:
    width = 16 + _text_width(f"{_TIMES} {repeat}", 12, 600)
    return (
        f'<rect x="{_n(box.left + 10)}" y="{_n(box.top - 11)}" width="{_n(width)}" height="22" rx="11" fill="{_INK}"/>'
        + _text(f"{_TIMES} {repeat}", box.left + 10 + width / 2, box.top + 4.3, 12, _PAPER, weight=600)
    )


def _text(text: str, x: float, y: float, size: float, colour: str, *, anchor: str = "middle", weight: int = 400) -> str:
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{_escape(text)}</text>'
    )


def _node(data: dict[str, Any], box: Box) -> str:
    outline = f'stroke="{_INK}" stroke-width="3"' if data["critical"] else _THIN
    if data["kind"] == "sum":
        arm = 6
        return (
            f"<g><title>sum of level {data['level']}</title>"
            f'<circle cx="{_n(box.x)}" cy="{_n(box.y)}" r="{_n(box.width / 2)}" fill="{_PAPER}" {outline}/>'
            f'<path d="M{_n(box.x - arm)} {_n(box.y)}h{2 * arm}M{_n(box.x)} {_n(box.y - arm)}v{2 * arm}" '
            f'stroke="{_INK}" stroke-width="2" stroke-linecap="round"/></g>'
        )
    if data["kind"] not in COLOURS:
        label = _shorten(data["label"], 13, box.width - 20, 600)
        tip = f"<title>{_escape(data['label'])}</title>"
        name = _text(label, box.x, box.y + 4.6, 13, _INK, weight=600)
        return f"<g>{tip}{_rect(box, 17, _PAPER, outline)}{name}</g>"
    return _term(data, box, outline)


def _term(data: dict[str, Any], box: Box, outline: str) -> str:
    fill, ink = COLOURS[data["kind"]]
    behind = [_rect(card, 9, fill, 'stroke="#b4bdc8" stroke-width="1.1"') for card in cards(data, box)[:-1]]
    label = data["label"] + (f" {_TIMES} {data['branches']}" if data["branches"] > 1 else "")
    word = "terms" if "," in data["terms"] else "term"
    room = box.width - 28
    numbers = _shorten_list(data["terms"], 11.5, room - _text_width(f"{word} ", 11.5))
    counts = [f"{data['branches']} side by side"] * (data["branches"] > 1)
    counts += [f"{data['repeat']} in series"] * (data["repeat"] > 1)
    tip = "; ".join([f"{data['module']}, {word} {data['terms']} of {data['stack']}", *counts])
    return (
        f"<g><title>{_escape(tip)}</title>{''.join(behind)}{_rect(box, 9, fill, outline)}"
        + _text(_shorten(label, 15, room, 600), box.x, box.y - 3.5, 15, ink, weight=600)
        + _text(f"{word} {numbers}", box.x, box.y + 15.5, 11.5, ink)
        + "</g>"
    )


def _rect(box: Box, radius: float, fill: str, outline: str) -> str:
    return (
        f'<rect x="{_n(box.left)}" y="{_n(box.top)}" width="{_n(box.width)}" height="{_n(box.height)}" '
        f'rx="{_n(radius)}" fill="{fill}" {outline}/>'
    )


def _edges(graph: nx.DiGraph, boxes: dict[str, Box], lanes: dict[str, Box]) -> Iterable[str]:
    """Residuals below, the critical path on top."""
    ranked = sorted(graph.edges(data=True), key=lambda edge: (edge[2]["kind"] != "skip", edge[2]["critical"]))
    for source, target, data in ranked:
        start, end, kind = boxes[source], boxes[target], data["kind"]
        dash = 'stroke-dasharray="5 4" ' if kind != "state" else ""
        style = f'stroke="{_LINE}" stroke-width="{1.5 if kind == "state" else 1.2}" {dash}marker-end="url(#arrow)"'
        if data["critical"]:
            style = f'stroke="{_INK}" stroke-width="3" {dash}marker-end="url(#critical-arrow)"'
        if kind == "long":
            way = lanes[f"{source} {target}"].x
            points = [(start.right, start.y), (way, start.y), (way, end.y), (end.right, end.y)]
        elif kind == "skip":
            reach = (end.width**2 / 4 - 25) ** 0.5  # half the chord of the circle, 5 pixels off its centre
            begin = start.right if graph.nodes[source]["kind"] != "sum" else start.x + reach
            lane = lanes[target].x
            points = [(begin, start.y + 5), (lane, start.y + 5), (lane, end.y - 5), (end.x + reach, end.y - 5)]
        else:
            begins = graph.nodes[target]["kind"] == "between" and kind == "state"  # from there on its column is free
            bus = start.bottom + ROW_GAP / 2 if begins else end.top - ROW_GAP / 2
            points = [(start.x, start.bottom), (start.x, bus), (end.x, bus), (end.x, end.top)]
        yield f'<path d="{_path(points)}" fill="none" {style}/>'


def _path(points: Sequence[tuple[float, float]], radius: float = 9) -> str:
    """A line through the points with round corners."""
    points = [point for point, _ in groupby(points)]
    if len({x for x, _ in points}) == 1:
        points = [points[0], points[-1]]
    parts = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        enter, leave = _towards(corner, before, radius), _towards(corner, after, radius)
        parts.append(f"L{_n(enter[0])} {_n(enter[1])}Q{_n(corner[0])} {_n(corner[1])} {_n(leave[0])} {_n(leave[1])}")
    return "".join([*parts, f"L{_n(points[-1][0])} {_n(points[-1][1])}"])


def _towards(point: tuple[float, float], other: tuple[float, float], distance: float) -> tuple[float, float]:
    dx, dy = other[0] - point[0], other[1] - point[1]
    share = min(distance / max(abs(dx) + abs(dy), 1e-9), 0.5)
    return (point[0] + dx * share, point[1] + dy * share)


def _arrow(name: str, colour: str, size: float) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9.5" refY="5" markerWidth="{_n(size)}" '
        f'markerHeight="{_n(size)}" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0 1L10 5L0 9z" fill="{colour}"/></marker>'
    )


def _level_names(graph: nx.DiGraph, boxes: dict[str, Box], frames: Sequence[tuple[Box, int]]) -> list[str]:
    """The numbers of the levels on the left of each column, one name for a frame of several."""
    rows: dict[tuple[int, int], list[str]] = {}
    left: dict[int, float] = {}
    for name, data in graph.nodes(data=True):
        if data["kind"] not in COLOURS:
            continue
        repeated = data["frame_repeat"] > 1
        rows.setdefault((data["frame"], 0 if repeated else data["level"]), []).append(name)
        around = [box.left for box, _ in frames if box.left <= boxes[name].x <= box.right]
        left[data["lane"]] = min([left.get(data["lane"], boxes[name].left), boxes[name].left, *around])
    found = []
    for names in rows.values():
        levels = {graph.nodes[name]["level"] for name in names}
        first = min(levels)
        last = first + len(levels) * graph.nodes[names[0]]["frame_repeat"] - 1
        y = Box.around([boxes[name] for name in names]).y
        label = f"level {first}" if first == last else f"levels {first}{_TO}{last}"
        lane = graph.nodes[names[0]]["lane"]
        found.append(_text(label, left[lane] - 14, y + 4, 11.5, _GREY, anchor="end"))
    return found


def _header(graph: nx.DiGraph, width: float) -> list[str]:
    title = _shorten(graph.graph["title"], 20, width - 2 * _MARGIN, 700)
    lines = [
        _text(title, _MARGIN, 50, 20, _INK, anchor="start", weight=700),
        _text(depth_sentence(graph), _MARGIN, 74, 13.5, _GREY, anchor="start"),
    ]
    if graph.graph["deleted"] != "none":
        deleted = _shorten(f"deleted terms: {graph.graph['deleted']}", 13.5, width - 2 * _MARGIN)
        lines.append(_text(deleted, _MARGIN, 94, 13.5, _GREY, anchor="start"))
    return lines


def _legend(graph: nx.DiGraph, width: float) -> tuple[list[str], float]:
    """What colours and lines mean, and the height of this."""
    nodes = [data for _, data in graph.nodes(data=True)]
    swatch = '<rect x="0" y="-8" width="22" height="16" rx="4" {}/>'
    items = [
        (kind, swatch.format(f'fill="{COLOURS[kind][0]}" stroke="{_GREY}" stroke-width="1"'))
        for kind in COLOURS
        if any(data["kind"] == kind for data in nodes)
    ]
    items.append(("critical path", f'<path d="M0 0H22" stroke="{_INK}" stroke-width="3"/>'))
    if any(data["kind"] == "sum" for data in nodes):
        dashed = f'<path d="M0 0H22" stroke="{_LINE}" stroke-width="1.4" stroke-dasharray="5 4"/>'
        items.append(("residual", dashed))
    elif any(data["kind"] in ("side", "long") for _, _, data in graph.edges(data=True)):
        dashed = f'<path d="M0 0H22" stroke="{_LINE}" stroke-width="1.4" stroke-dasharray="5 4"/>'
        items.append(("read as well", dashed))
    if any(data.get("repeat", 1) > 1 for data in nodes):
        items.append((f"{_TIMES} n in series", swatch.format(f'fill="{_PALE}" stroke="#c3cbd5" stroke-width="1.2"')))
    lines = [f'<path d="M{_n(_MARGIN)} -20H{_n(width - _MARGIN)}" stroke="#e3e7ec" stroke-width="1"/>']
    x, y = _MARGIN, 6.0
    for label, mark in items:
        room = 30 + _text_width(label, 12) + 24
        if x + room > width - _MARGIN + 24:
            x, y = _MARGIN, y + 26
        name = _text(label, 30, 4.2, 12, _GREY, anchor="start")
        lines.append(f'<g transform="translate({_n(x)} {_n(y)})">{mark}{name}</g>')
        x += room
    return lines, y
