"""Diagrams: their longest path is the depth of the plan, and every format holds what the graph says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import networkx as nx
import pytest

from parallelize.inspecting.diagrams import draw, schedule_graph, to_svg
from passes.errors import EnvironmentLackError, ParallelizeError
from passes.plan import Level, Plan, StackPlan, serial
from passes.stacks.find import Stack
from tests.parallelize.inspecting.drawn import PLANS

SVG = "{http://www.w3.org/2000/svg}"


def _terms(graph: nx.DiGraph) -> list[dict[str, Any]]:
    return [data for _, data in graph.nodes(data=True) if "terms" in data]


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_the_longest_path_is_the_depth_of_the_plan(stacks: Sequence[Stack], name: str, collapse: bool) -> None:
    plan = Plan((PLANS[name],))
    graph = schedule_graph(stacks, plan, collapse=collapse)

    assert nx.is_directed_acyclic_graph(graph)
    assert (
        nx.dag_longest_path_length(graph, weight="weight", default_weight=0)
        == plan.stacks[0].depth
        == graph.graph["depth"]
    )


@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_the_marked_path_leads_from_input_to_output_and_is_a_longest_one(
    stacks: Sequence[Stack], name: str, collapse: bool
) -> None:
    graph = schedule_graph(stacks, Plan((PLANS[name],)), collapse=collapse)

    marked = [(source, target) for source, target, data in graph.edges(data=True) if data["critical"]]
    path = nx.shortest_path(nx.DiGraph(marked), "input", "output")
    assert list(nx.utils.pairwise(path)) == sorted(marked, key=lambda edge: path.index(edge[0]))
    assert set(path) == {node for node, critical in graph.nodes(data="critical") if critical}
    assert sum(graph.edges[edge]["weight"] for edge in marked) == PLANS[name].depth


@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_every_placed_term_is_drawn_exactly_once(stacks: Sequence[Stack], name: str, collapse: bool) -> None:
    graph = schedule_graph(stacks, Plan((PLANS[name],)), collapse=collapse)

    drawn = [int(number) for data in _terms(graph) for number in data["terms"].split(", ")]
    assert sorted(drawn) == [term for term in range(24) if term not in PLANS[name].deleted]
    for data in _terms(graph):
        assert len(data["terms"].split(", ")) == data["branches"] * data["repeat"]


def test_twelve_equal_blocks_become_one_that_repeats_twelve_times(stacks: Sequence[Stack]) -> None:
    graph = schedule_graph(stacks, Plan((serial(24),)))

    assert [(data["label"], data["repeat"], data["module"]) for data in _terms(graph)] == [
        ("attention", 12, "blocks.0 … blocks.11"),
        ("mlp", 12, "blocks.0 … blocks.11"),
    ]
    assert list(graph) == ["input", "stack0.term0", "stack0.term1", "output"]


def test_without_collapse_every_term_has_its_own_node(stacks: Sequence[Stack]) -> None:
    graph = schedule_graph(stacks, Plan((PLANS["groups"],)), collapse=False)

    assert len(_terms(graph)) == 24
    assert {(data["branches"], data["repeat"]) for data in _terms(graph)} == {(1, 1)}


def test_only_more_than_four_equal_branches_become_one_node(stacks: Sequence[Stack]) -> None:
    graph = schedule_graph(stacks, Plan((PLANS["groups"],)))

    branches = {level: [d["branches"] for d in _terms(graph) if d["level"] == level] for level in range(1, 7)}
    assert branches == {1: [1], 2: [1], 3: [1, 1, 1], 4: [1, 1, 1], 5: [8], 6: [8]}


def test_a_level_reads_one_state_and_passes_it_on_to_its_sum(stacks: Sequence[Stack]) -> None:
    graph = schedule_graph(stacks, Plan((PLANS["groups"],)))

    branches = ["stack0.term2", "stack0.term4", "stack0.term6"]
    assert {source for branch in branches for source in graph.predecessors(branch)} == {"stack0.term1"}
    assert list(graph.predecessors("stack0.level3.sum")) == [*branches, "stack0.term1"]
    assert graph.edges["stack0.term1", "stack0.level3.sum"]["kind"] == "skip"


def test_a_level_of_one_chain_has_no_sum(stacks: Sequence[Stack]) -> None:
    graph = schedule_graph(stacks, Plan((PLANS["deletion"],)))

    assert "sum" not in {kind for _, kind in graph.nodes(data="kind")}


def test_deleted_terms_are_listed_in_graph_and_picture(stacks: Sequence[Stack]) -> None:
    graph = schedule_graph(stacks, Plan((PLANS["deletion"],)))

    assert graph.graph["deleted"] == "4, 10, 12, 14"
    assert "deleted terms: 4, 10, 12, 14" in _texts(to_svg(graph))
    assert schedule_graph(stacks, Plan((serial(24),))).graph["deleted"] == "none"


def test_several_stacks_follow_each_other(two_stacks: Sequence[Stack]) -> None:
    plan = Plan((StackPlan(3, (Level(((0,), (2,))),)), StackPlan(2, (Level(((1,),)),))))
    graph = schedule_graph(two_stacks, plan)

    assert nx.dag_longest_path_length(graph, weight="weight", default_weight=0) == 2
    assert list(graph.successors("input")) == ["stack0.entry"]
    assert list(graph.successors("stack0.level1.sum")) == ["stack1.entry"]
    assert list(graph.successors("stack1.entry")) == ["stack1.term1"]
    assert {lane for _, lane in graph.nodes(data="lane")} == {-1, 0}
    assert graph.graph["deleted"] == "first: 1; second: 0"


def test_a_plan_for_another_model_is_refused(stacks: Sequence[Stack]) -> None:
    with pytest.raises(ParallelizeError, match="The plan has 4 terms for the stack blocks, the model has 24"):
        schedule_graph(stacks, Plan((serial(4),)))


@pytest.mark.parametrize("name", PLANS)
def test_graphml_and_json_come_back_as_the_same_graph(stacks: Sequence[Stack], name: str, tmp_path: Path) -> None:
    graph = schedule_graph(stacks, Plan((PLANS[name],)), 'a <title> & "more"')
    draw(graph, tmp_path / "plan.graphml")
    draw(graph, tmp_path / "plan.json")

    for back in (
        nx.read_graphml(tmp_path / "plan.graphml"),
        nx.node_link_graph(json.loads((tmp_path / "plan.json").read_text()), edges="edges"),
    ):
        assert dict(back.nodes(data=True)) == dict(graph.nodes(data=True))
        assert {(s, t): d for s, t, d in back.edges(data=True)} == {(s, t): d for s, t, d in graph.edges(data=True)}
        assert {key: back.graph[key] for key in graph.graph} == graph.graph


def test_the_title_may_hold_any_characters(stacks: Sequence[Stack], tmp_path: Path) -> None:
    graph = schedule_graph(stacks, Plan((serial(24),)), 'a <b> & "c"\x00\n\\')
    for suffix in (".svg", ".dot", ".graphml"):
        draw(graph, tmp_path / f"plan{suffix}")

    assert 'a <b> & "c"  \\' in _texts((tmp_path / "plan.svg").read_text())
    assert nx.read_graphml(tmp_path / "plan.graphml").graph["title"] == 'a <b> & "c"  \\'
    assert r'label="a <b> & \"c\"  \\";' in (tmp_path / "plan.dot").read_text()


def test_dot_names_every_node_and_edge(stacks: Sequence[Stack], tmp_path: Path) -> None:
    graph = schedule_graph(stacks, Plan((PLANS["groups"],)))
    draw(graph, tmp_path / "plan.dot")

    text = (tmp_path / "plan.dot").read_text()
    assert re.findall(r'^  "(.+)" -> "(.+)" \[', text, re.MULTILINE) == list(graph.edges)
    assert re.findall(r'^  "([^"]+)" \[', text, re.MULTILINE) == list(graph)
    assert text.count("style=dashed") == 4
    assert r'label="attention\nterms 8, 10, 12, 14, 16, 18, 20, 22\n8 side by side"' in text


def test_equal_input_gives_equal_bytes(stacks: Sequence[Stack], tmp_path: Path) -> None:
    for suffix in (".svg", ".dot", ".graphml", ".json"):
        for name in ("one", "two"):
            draw(schedule_graph(stacks, Plan((PLANS["groups"],)), "plan"), tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_a_graph_read_back_gives_the_same_picture(stacks: Sequence[Stack], tmp_path: Path) -> None:
    graph = schedule_graph(stacks, Plan((PLANS["equal groups"],)))
    draw(graph, tmp_path / "plan.graphml")

    assert to_svg(nx.read_graphml(tmp_path / "plan.graphml")) == to_svg(graph)


def test_another_suffix_is_refused_with_the_ones_that_work(stacks: Sequence[Stack], tmp_path: Path) -> None:
    graph = schedule_graph(stacks, Plan((serial(24),)))

    with pytest.raises(ParallelizeError, match=r"A diagram cannot be written as 'plan\.png'\.") as caught:
        draw(graph, tmp_path / "plan.png")
    assert caught.value.hint == "End the name in one of .svg, .dot, .graphml, .json."
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(stacks: Sequence[Stack], tmp_path: Path) -> None:
    graph = schedule_graph(stacks, Plan((serial(24),)))
    (tmp_path / "plan.svg").mkdir()

    with pytest.raises(EnvironmentLackError, match="cannot be written: Is a directory"):
        draw(graph, tmp_path / "plan.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.svg"]
