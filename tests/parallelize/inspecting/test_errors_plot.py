"""Series of numbers with intervals are drawn by their labels, and an empty one is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallelize.inspecting.errors_plot import Series, draw
from parallelize.inspecting.svg_figure import svg_figure

pytest.importorskip("matplotlib")


def test_series_axes_and_intervals_are_drawn(tmp_path: Path) -> None:
    full = Series("measured", [1.0, 2.0], [0.5, 0.25], [(0.25, 0.75), (0.5, 0.5)], "#0072b2", "o", "-")
    empty = Series("absent", [], [], [], "#222222", "s")
    with svg_figure(tmp_path / "a.svg", 4, 3) as figure:
        axes = figure.add_subplot()
        draw(axes, [full, empty], "ms", "error")
        (line,) = axes.containers
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["measured"]
        bars = [segment.tolist() for segment in line[2][0].get_segments()]
    assert bars == [[[1.0, 0.25], [1.0, 0.75]], [[2.0, 0.25], [2.0, 0.5]]]
    assert "ms" in (tmp_path / "a.svg").read_text()
