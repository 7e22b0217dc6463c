"""A figure is written when its block ends, the same bytes for the same figure, and not at all where it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallelize.inspecting.svg_figure import svg_figure

pytest.importorskip("matplotlib")


def drawn(path: Path) -> bytes:
    with svg_figure(path, 3, 2) as figure:
        axes = figure.add_subplot()
        axes.errorbar([1, 2], [3, 4], [[0, 1], [1, 0]], label="a")
        axes.legend()
    return path.read_bytes()


def test_equal_figures_are_equal_bytes_of_the_size_that_was_asked_for(tmp_path: Path) -> None:
    first, second = drawn(tmp_path / "a.svg"), drawn(tmp_path / "b.svg")
    assert first == second
    assert b'width="216pt" height="144pt"' in first


def test_the_settings_of_matplotlib_are_as_before_and_no_window_is_opened(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    drawn(tmp_path / "a.svg")
    assert dict(mpl.rcParams) == before


def test_a_figure_that_could_not_be_drawn_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no numbers"), svg_figure(tmp_path / "a.svg", 3, 2):
        raise ValueError("no numbers")
    assert not list(tmp_path.iterdir())
