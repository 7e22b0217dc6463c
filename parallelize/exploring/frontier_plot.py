"""A picture of the frontier: error against depth, and against latency where that was measured or predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallelize.exploring.frontier import Point
from parallelize.inspecting.errors_plot import Series, draw
from parallelize.inspecting.svg_figure import svg_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = {"rewrite": ("#0072b2", "o"), "deletion": ("#d55e00", "x"), "serial": ("#222222", "s")}


def plot(points: Sequence[Point], metric: str, path: Path, target: str = "") -> None:
    """Write an .svg of measured schedules.

    Args:
        points: to draw.
        metric: that their errors are of.
        path: to write.
        target: the GPU that latencies are predicted for.
    """
    positions: dict[str, list[Any]] = {
        "blocks deep": [point.depth_blocks for point in points],
        "ms, batch 1": [point.latency for point in points],
        f"ms, batch 1, predicted for {target}": [point.predicted for point in points],
    }
    known = {label: values for label, values in positions.items() if None not in values}
    with svg_figure(path, 4.2 if len(known) == 1 else 4.0 * len(known), 3.2) as figure:
        for place, (label, values) in enumerate(known.items()):
            _draw(figure.add_subplot(1, len(known), place + 1), points, values, label, metric)


def _draw(axes: Axes, points: Sequence[Point], positions: Sequence[Any], label: str, metric: str) -> None:
    series = []
    for kind, style in _STYLE.items():
        chosen = [(x, point) for x, point in zip(positions, points, strict=True) if point.network.name == kind]
        x, found = [x for x, _ in chosen], [point for _, point in chosen]
        series.append(Series(kind, x, [point.error for point in found], [point.interval for point in found], *style))
    draw(axes, series, label, metric)
