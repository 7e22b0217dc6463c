"""Where things are in a picture: rows from top to bottom, nothing over anything else, all of it inside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import networkx as nx
import pytest

from parallelize.inspecting.diagram_layout import ROW_GAP, Box, cards, frames_of, lanes_of, layout, long_ways
from parallelize.inspecting.diagram_svg import to_svg
from parallelize.inspecting.schedule_graph import schedule_graph
from passes.plan import Plan, serial
from passes.stacks.find import Stack
from tests.parallelize.inspecting.drawn import PLANS

SVG = "{http://www.w3.org/2000/svg}"


def test_a_box_knows_its_edges_and_holds_others() -> None:
    first, second = Box(0, 0, 10, 20), Box(100, 50, 20, 10)
    assert (second.left, second.right, second.top, second.bottom) == (90, 110, 45, 55)
    assert Box.around([first, second]) == Box(52.5, 22.5, 115, 65)
    assert Box.around([first], pad=5, top_pad=1) == Box(0, 2, 20, 26)


@pytest.mark.parametrize("name", PLANS)
def test_every_row_is_below_what_it_reads_with_a_gap_between(stacks: Sequence[Stack], name: str) -> None:
    graph = schedule_graph(stacks, Plan((PLANS[name],)))
    boxes = layout(graph)
    assert set(boxes) == set(graph)
    for source, target in graph.edges:
        assert boxes[target].top - boxes[source].bottom >= ROW_GAP - 1e-9
    assert min(box.top for box in boxes.values()) >= 0


def test_states_of_one_stack_are_on_one_line_and_chains_keep_their_column(stacks: Sequence[Stack]) -> None:
    graph = schedule_graph(stacks, Plan((PLANS["groups"],)))
    boxes = layout(graph)
    middle = {boxes[name].x for name, data in graph.nodes(data=True) if data["kind"] in ("sum", "input", "output")}
    assert middle == {0.0}
    chains = [boxes[f"stack0.term{term}"].x for term in (2, 4, 6)]
    assert chains == [boxes[f"stack0.term{term}"].x for term in (3, 5, 7)]
    assert chains[1] - chains[0] == chains[2] - chains[1] > boxes["stack0.term2"].width


def test_the_residual_passes_its_level_right_of_every_branch(stacks: Sequence[Stack]) -> None:
    graph = schedule_graph(stacks, Plan((PLANS["groups"],)))
    boxes = layout(graph)
    lanes = lanes_of(graph, boxes)
    assert set(lanes) == {name for name, kind in graph.nodes(data="kind") if kind == "sum"}
    for name, lane in lanes.items():
        level = graph.nodes[name]["level"]
        assert all(lane.x > boxes[other].right for other, at in graph.nodes(data="level") if at == level)


def test_frames_hold_what_repeats_and_tell_how_often(stacks: Sequence[Stack]) -> None:
    graph = schedule_graph(stacks, Plan((PLANS["equal groups"],)))
    boxes = layout(graph)
    ((frame, repeat),) = frames_of(graph, boxes, lanes_of(graph, boxes), "frame")
    assert repeat == 4
    inside = [boxes[name] for name, data in graph.nodes(data=True) if data.get("frame_repeat", 1) > 1]
    assert all(frame.left < box.left and box.right < frame.right for box in inside)
    assert all(frame.top < box.top and box.bottom < frame.bottom for box in inside)
    assert frames_of(graph, boxes, {}, "run") == []
    serial_graph = schedule_graph(stacks, Plan((PLANS["groups"],)))
    assert frames_of(serial_graph, layout(serial_graph), {}, "frame") == []


def test_several_branches_in_one_node_are_cards_behind_it() -> None:
    box = Box(0, 0, 10, 10)
    assert cards({"branches": 1}, box) == [box]
    assert cards({}, box) == [box]
    assert [card.x for card in cards({"branches": 8}, box)] == [10, 5, 0]


def test_without_edges_past_stacks_there_are_no_long_ways(stacks: Sequence[Stack], two_stacks: Sequence[Stack]) -> None:
    for graph in (
        schedule_graph(stacks, Plan((serial(24),))),
        schedule_graph(two_stacks, Plan((serial(3), serial(2)))),
    ):
        assert isinstance(graph, nx.DiGraph)
        boxes = layout(graph)
        assert long_ways(graph, boxes, lanes_of(graph, boxes)) == {}


@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_svg_keeps_boxes_apart_and_inside_the_picture(stacks: Sequence[Stack], name: str, collapse: bool) -> None:
    root = ET.fromstring(to_svg(schedule_graph(stacks, Plan((PLANS[name],)), collapse=collapse)))
    drawing = next(group for group in root.iter(f"{SVG}g") if "translate(" in group.get("transform", ""))
    shift = [float(value) for value in re.findall(r"-?[\d.]+", drawing.get("transform", ""))]

    named = [group for group in drawing.findall(f"{SVG}g") if group.find(f"{SVG}text") is not None]
    fronts = [group.findall(f"{SVG}rect")[-1] for group in named]
    boxes = [tuple(float(rect.get(key, "nan")) for key in ("x", "y", "width", "height")) for rect in fronts]
    assert len(boxes) >= 2
    for x, y, width, height in boxes:
        assert 0 <= x + shift[0] <= float(root.get("width", "nan")) - width
        assert 0 <= y + shift[1] <= float(root.get("height", "nan")) - height
    for place, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:place]:
            apart_x = x >= other_x + other_width or other_x >= x + width
            apart_y = y >= other_y + other_height or other_y >= y + height
            assert apart_x or apart_y
