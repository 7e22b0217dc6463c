"""A picture of the frontier: each kind of schedule with its intervals, against latency only where all were timed."""

from __future__ import annotations

from functools import cache
from math import inf, nan
from pathlib import Path

import pytest
from torch import fx, nn

from parallelize.exploring.frontier import Point
from parallelize.exploring.frontier_plot import plot
from parallelize.models.network import Network
from parallelize.models.program import Program
from passes.plan import Plan, serial

pytest.importorskip("matplotlib")


@cache
def _program() -> Program:
    graph = fx.Graph()
    graph.output(())
    return Program(fx.GraphModule(nn.Module(), graph), (), (), "small")


def point(kind: str, depth: int, error: float, interval: tuple[float, float], latency: float | None = None) -> Point:
    return Point(Network(kind, _program(), Plan((serial(4),)), 2 * depth, depth), error, interval, latency)


SERIAL = point("serial", 4, 0.0, (0.0, 0.0), 2.0)
REWRITE = point("rewrite", 2, 0.25, (0.1, 0.5), 1.0)
DELETION = point("deletion", 2, 0.5, (0.4, 0.9), 0.9)


def drawn(path: Path, *points: Point) -> str:
    plot(points, "kl", path / "frontier.svg")
    return (path / "frontier.svg").read_text()


def test_every_kind_that_is_there_is_in_the_legend_and_both_axes_are_named(tmp_path: Path) -> None:
    text = drawn(tmp_path, SERIAL, REWRITE, DELETION)
    for words in ("serial", "rewrite", "deletion", "blocks deep", "ms, batch 1", "kl"):
        assert f"<!-- {words} -->" in text


def test_latency_is_left_out_where_one_was_not_timed(tmp_path: Path) -> None:
    text = drawn(tmp_path, SERIAL, point("rewrite", 2, 0.25, (0.1, 0.5)))
    assert "blocks deep" in text
    assert "ms, batch 1" not in text
    assert "<!-- deletion -->" not in text


def test_errors_that_are_outside_of_their_interval_or_no_numbers_are_drawn_without_a_word(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    odd = (point("rewrite", 3, 0.5, (0.6, 0.7)), point("rewrite", 2, inf, (inf, inf)), point("rewrite", 1, nan, (0, 1)))
    assert "<!-- rewrite -->" in drawn(tmp_path, SERIAL, *odd)
    assert [str(warning.message) for warning in recwarn.list] == []
