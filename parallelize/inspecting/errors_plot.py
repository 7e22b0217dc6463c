"""Numbers with their intervals against something else, in one drawing: of schedules, of prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Series:
    """What has one label.

    Attributes:
        label: in the legend.
        positions: from left to right.
        values: numbers that were measured.
        intervals: low and high of each.
        colour: as #rrggbb.
        marker: of matplotlib.
        line: its style; "none" joins nothing.
    """

    label: str
    positions: Sequence[float]
    values: Sequence[float]
    intervals: Sequence[tuple[float, float]]
    colour: str
    marker: str
    line: str = "none"


def draw(axes: Axes, series: Sequence[Series], across: str, up: str) -> None:
    """Draw all series that are not empty.

    Args:
        axes: to draw on.
        series: with their labels.
        across: what the positions are.
        up: what the values are.
    """
    for each in series:
        if not each.values:
            continue
        pairs = list(zip(each.values, each.intervals, strict=True))
        spread = [
            [value - min(value, low) for value, (low, _) in pairs],
            [max(value, high) - value for value, (_, high) in pairs],
        ]
        style = {"color": each.colour, "marker": each.marker, "linestyle": each.line}
        axes.errorbar(each.positions, each.values, spread, capsize=2, label=each.label, **style)  # type: ignore[arg-type]
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
