"""A picture as SVG: it tells every kind, module and number, and its text stays in its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

import networkx as nx
import pytest

from parallelize.inspecting.diagram_svg import (
    COLOURS,
    _path,
    _shorten,
    _shorten_list,
    depth_sentence,
    printable,
    to_svg,
)
from parallelize.inspecting.schedule_graph import schedule_graph
from passes.plan import Plan, serial
from passes.stacks.find import Stack
from tests.parallelize.inspecting.drawn import PLANS

SVG = "{http://www.w3.org/2000/svg}"


def _terms(graph: nx.DiGraph) -> list[dict[str, Any]]:
    return [data for _, data in graph.nodes(data=True) if "terms" in data]


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", PLANS)
def test_svg_is_xml_that_names_title_depth_and_every_kind(stacks: Sequence[Stack], name: str) -> None:
    graph = schedule_graph(stacks, Plan((PLANS[name],)), "Vision <transformer> & plan")
    texts = _texts(to_svg(graph))

    kinds = {data["kind"] for data in _terms(graph)}
    assert {"Vision <transformer> & plan", "critical path", *kinds} <= set(texts)
    assert any(text.startswith(f"depth {PLANS[name].depth} of 24 terms (") for text in texts)


def test_svg_tells_module_and_all_term_numbers_in_tooltips(stacks: Sequence[Stack]) -> None:
    svg = to_svg(schedule_graph(stacks, Plan((PLANS["groups"],))))

    tips = [element.text for element in ET.fromstring(svg).iter(f"{SVG}title")]
    assert "blocks.4 … blocks.11, terms 8, 10, 12, 14, 16, 18, 20, 22 of blocks; 8 side by side" in tips
    assert "attention × 8" in _texts(svg)  # noqa: RUF001  (the sign of multiplication)


def test_a_title_too_long_is_shortened(stacks: Sequence[Stack]) -> None:
    shown = _texts(to_svg(schedule_graph(stacks, Plan((serial(24),)), "long title " * 30)))

    assert any(text.startswith("long title") and text.endswith("…") and len(text) < 70 for text in shown)


def test_levels_are_numbered_on_the_left_and_repeats_have_a_badge(stacks: Sequence[Stack]) -> None:
    texts = _texts(to_svg(schedule_graph(stacks, Plan((PLANS["equal groups"],)))))
    assert any(text.startswith("levels 1") for text in texts)
    assert "\N{MULTIPLICATION SIGN} 4" in texts
    assert "\N{MULTIPLICATION SIGN} n in series" in texts


def test_the_legend_explains_only_what_is_drawn(stacks: Sequence[Stack]) -> None:
    one_chain, several = (_texts(to_svg(schedule_graph(stacks, Plan((PLANS[name],))))) for name in ("serial", "groups"))
    assert "residual" not in one_chain
    assert "residual" in several
    assert set(one_chain) & set(COLOURS) == {"attention", "mlp"}


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((6, 24, 3, 12, 3, 12), "depth 6 of 24 terms (3 of 12 blocks)"),
        ((3, 12, 3, 12, 3, 12), "depth 3 of 12 terms"),
        ((6, 24, 3, 12, 6, 36), "depth 6 of 24 terms (3 of 12 blocks, 6 of 36 layers)"),
        ((3, 12, 3, 12, 6, 24), "depth 3 of 12 terms (6 of 24 layers)"),
    ],
)
def test_depth_is_told_in_blocks_and_layers_where_these_are_others(counts: tuple[int, ...], sentence: str) -> None:
    names = ("depth", "serial_depth", "depth_blocks", "serial_blocks", "depth_layers", "serial_layers")
    assert depth_sentence(nx.DiGraph(**dict(zip(names, counts, strict=True)))) == sentence


def test_text_is_shortened_to_its_room_and_a_list_keeps_its_last_number() -> None:
    assert _shorten("short", 12, 100) == "short"
    assert _shorten("a text that is too long", 12, 60) == "a text…"
    assert _shorten("long", 12, 0) == "…"
    assert _shorten_list("1, 2, 3", 12, 100) == "1, 2, 3"
    assert _shorten_list("10, 20, 30, 40, 50", 12, 90) == "10, 20, … 50"
    assert _shorten_list("1000000, 2000000", 12, 40) == "100…"


def test_control_characters_are_spaces() -> None:
    assert printable("a\x00b\n\tc ") == "a b  c"


def test_a_line_has_round_corners_and_none_where_it_is_straight() -> None:
    assert _path([(0, 0), (0, 50), (0, 50), (0, 100)]) == "M0 0L0 100"
    assert _path([(0, 0), (0, 50), (100, 50)]) == "M0 0L0 41Q0 50 9 50L100 50"


def test_a_network_without_levels_is_drawn(stacks: Sequence[Stack]) -> None:
    assert "critical path" in _texts(to_svg(schedule_graph(stacks, Plan((PLANS["nothing left"],)))))
    assert _texts(to_svg(schedule_graph((), Plan(()))))
