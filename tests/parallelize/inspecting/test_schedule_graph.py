"""Diagrams of models with several stacks: what stands side by side, what waits for what, and what joins the ends."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any
from xml.etree import ElementTree as ET

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

from parallelize.inspecting.diagrams import schedule_graph, to_svg
from passes.stacks.stack_graph import StackGraph
from tests.parallelize.small_models import Residual, Towers, TwoStacks, mlp
from tests.parallelize.stack_graphs import CrossAttending, Ladder, UShape, graph_of, para_former, serial_plan

SVG = "{http://www.w3.org/2000/svg}"


class TwoOutputs(nn.Module):
    """Two towers that never meet."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList(Residual([mlp(6, 8) for _ in range(2)]) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(x)
        return self.towers[0](x), self.towers[1](x)


def drawn(graph: StackGraph, group: int = 1, *, collapse: bool = True) -> nx.DiGraph:
    return schedule_graph(graph.stacks, serial_plan(graph, [group] * len(graph.stacks)), collapse=collapse)


def places(svg: str) -> dict[str, list[tuple[float, float, float, float]]]:
    """Left, top, right and bottom of each box, by its first text."""
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        text, rects = group.find(f"{SVG}text"), group.findall(f"{SVG}rect")
        if text is None or not rects or group.get("transform"):
            continue
        x, y, width, height = (float(rects[-1].get(key, "nan")) for key in ("x", "y", "width", "height"))
        found.setdefault(text.text or "", []).append((x, y, x + width, y + height))
    return found


def edge_kinds(graph: nx.DiGraph, kind: str) -> list[tuple[str, str]]:
    return [(source, target) for source, target, data in graph.edges(data=True) if data["kind"] == kind]


MODELS = {
    "row": TwoStacks,
    "towers": lambda: Towers((4, 2)),
    "cross-attention": CrossAttending,
    "ladder": Ladder,
    "U-shape": UShape,
    "two outputs": TwoOutputs,
}


@functools.cache
def of(name: str) -> StackGraph:
    return graph_of(MODELS[name]())


@pytest.mark.parametrize("name", MODELS)
def test_the_longest_path_is_the_depth_and_boxes_are_apart(name: str) -> None:
    waiting = of(name)
    for group, collapse in itertools.product((1, 2), (True, False)):
        graph = drawn(waiting, group, collapse=collapse)
        assert nx.is_directed_acyclic_graph(graph)
        plan = serial_plan(waiting, [group] * len(waiting.stacks))
        assert nx.dag_longest_path_length(graph, weight="weight", default_weight=0) == waiting.terms(plan)
        boxes = [box for several in places(to_svg(graph)).values() for box in several]
        assert len(boxes) >= 4
        for a, b in itertools.combinations(boxes, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_branches_of_a_para_former_stand_side_by_side_and_meet_in_a_sum() -> None:
    graph = drawn(para_former(3, 3))
    assert list(graph.successors("input")) == [f"stack{number}.entry" for number in range(3)]
    assert graph.nodes["join"]["label"] == "sum of 3"
    assert list(graph.predecessors("join")) == [f"stack{number}.term1" for number in range(3)]
    boxes = places(to_svg(graph))
    assert len({box[1] for box in boxes["attention"]}) == len({box[1] for box in boxes["mlp"]}) == 1
    assert len({box[0] for box in boxes["attention"]}) == 3


def test_more_than_four_equal_branches_are_drawn_once() -> None:
    waiting = para_former(5, 5)
    terms = [data for _, data in drawn(waiting).nodes(data=True) if "terms" in data]
    assert [(data["branches"], data["stack"]) for data in terms] == [(5, "blocks.0 … blocks.4")] * 2
    assert sum("terms" in data for _, data in drawn(waiting, collapse=False).nodes(data=True)) == 10


def test_the_critical_path_leads_through_the_deeper_tower() -> None:
    graph = drawn(of("towers"), collapse=False)
    critical = {name for name, is_critical in graph.nodes(data="critical") if is_critical}
    assert critical == {"input", "stack0.entry", *(f"stack0.term{number}" for number in range(4)), "join", "output"}
    assert graph.nodes["join"]["label"] == "product of 2"


def test_a_decoder_stands_beside_its_encoder_and_begins_behind_it() -> None:
    waiting = of("cross-attention")
    graph = drawn(waiting)
    decoder = next(number for number, stack in enumerate(waiting.stacks) if len(stack.terms) == 3)
    entry = f"stack{decoder}.entry"
    assert [target for _, target in edge_kinds(graph, "side")] == [entry]
    assert ("input", entry) in edge_kinds(graph, "state")
    lanes = {data["part"]: data["lane"] for _, data in graph.nodes(data=True) if data["part"] >= 0}
    assert sorted(lanes.values()) == [0, 1]


def test_what_skips_a_stack_goes_round_it_to_what_joins_the_ends() -> None:
    graph = drawn(of("U-shape"))
    assert [target for _, target in edge_kinds(graph, "long")] == ["join2"]
    assert graph.nodes["join2"]["label"] == "concatenation of 2"
    assert list(graph.successors("join2")) == ["stack2.entry"]


def test_towers_that_never_meet_lead_to_the_output_each() -> None:
    graph = drawn(of("two outputs"))
    assert [graph.nodes[name]["part"] for name in graph.predecessors("output")] == [0, 1]


def test_levels_are_counted_anew_in_every_stack_from_1() -> None:
    graph = drawn(of("row"), collapse=False)
    levels: dict[int, list[Any]] = {}
    for _, data in graph.nodes(data=True):
        if "terms" in data:
            levels.setdefault(data["part"], []).append(data["level"])
    assert levels == {0: [1, 2, 3], 1: [1, 2, 3, 4]}
    assert re.findall(r">(levels?[^<]*)<", to_svg(drawn(of("row")))) == ["levels 1–3", "levels 1–4"]  # noqa: RUF001  (a dash between numbers)
