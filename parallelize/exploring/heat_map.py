"""Draw a sensitivity as heat maps: a row is a term, its columns are the earlier terms that it reads.

Each stack has two pictures, the relative change on the left and the cosine distance on the right. A strip along both
axes has the colour of each term's kind, as in the diagrams of schedules; labels are the kind's letter and the term's
number.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parallelize.exploring.sensitivity import Sensitivity, StackSensitivity
from parallelize.files.whole_file import output_file
from parallelize.inspecting.diagram_svg import COLOURS
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

SUFFIXES = (".svg", ".png")
_LETTERS = {"attention": "A", "mlp": "M", "attention+mlp": "AM", "convolution": "C", "other": "O"}
_CELL, _LEAST, _MOST = 0.17, 3.6, 11.0  # inches: a term, the smallest and the largest side of a picture
_LABELS = 64  # more terms than these are labelled at intervals
_STRIP, _GAP = 0.09, 0.03  # inches: the strip of kinds and what is between it and the picture
_LEFT, _RIGHT, _ABOVE, _BELOW = 0.8, 0.9, 0.4, 0.8  # inches around a picture


def draw(sensitivity: Sensitivity, path: Path) -> None:
    """Write the heat maps as .svg or .png, whole or not at all; equal values give equal bytes.

    Raises:
        ParallelizeError: the suffix is neither .svg nor .png.
        EnvironmentLackError: the place cannot be written to.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ParallelizeError(
            f"A heat map cannot be written as {path.name!r}.", f"End the name in one of {', '.join(SUFFIXES)}."
        )
    with output_file(path, f"The heat map {path} cannot be written") as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(sensitivity, temporary, suffix[1:])


def _save(sensitivity: Sensitivity, path: Path, file_format: str) -> None:
    from matplotlib import rc_context

    stamp = {"Date": None} if file_format == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "parallelize", "font.family": "DejaVu Sans"}):
        _figure(sensitivity).savefig(path, format=file_format, metadata=stamp)


def _figure(sensitivity: Sensitivity) -> Figure:
    """One row of two pictures for each stack; no global state of matplotlib is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sides = [min(max(_LEAST, _CELL * len(stack.terms)), _MOST) for stack in sensitivity.stacks]
    column = _LEFT + max(sides) + _RIGHT
    width, height = 2 * column, sum(_ABOVE + side + _BELOW for side in sides)
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    top = height
    for stack, side in zip(sensitivity.stacks, sides, strict=True):
        bottom = top - _ABOVE - side
        for place, what in enumerate(("relative change", "cosine distance")):
            left = place * column + _LEFT
            axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
            axes.set_title(f"{stack.name}: {what}", fontsize=10, parse_math=False)
            _picture(figure, axes, stack, stack.cosine if place else stack.relative_l2)
        top = bottom - _BELOW
    return figure


def _picture(figure: Figure, axes: Axes, stack: StackSensitivity, matrix: Tensor) -> None:
    """One matrix below its diagonal, from 0 to its largest value; bar and legend lie in the empty half."""
    import numpy as np

    count = len(stack.terms)
    below = np.tril(np.ones((count, count), dtype=bool), -1)
    largest = float(matrix.max()) or 1.0
    image = axes.imshow(np.where(below, matrix.numpy(), np.nan), cmap="viridis", vmin=0, vmax=largest)
    every = -(-count // _LABELS)
    labels = [f"{_LETTERS[kind]}{number}" for number, kind in enumerate(stack.kinds)][::every]
    inches = axes.get_position().width * figure.get_figwidth()
    font = min(72 * inches / len(labels) * 0.55, 8.0)
    axes.set_xticks(range(0, count, every), labels, rotation=90, fontsize=font)
    axes.set_yticks(range(0, count, every), labels, fontsize=font)
    axes.tick_params(length=0, pad=72 * (_STRIP + 2 * _GAP))
    axes.set_xlabel("term taken out of the input")
    axes.set_ylabel("term that reads")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, cax=axes.inset_axes((0.94, 0.5, 0.03, 0.48)))
    _strips(axes, stack, count / inches)


def _strips(axes: Axes, stack: StackSensitivity, terms_per_inch: float) -> None:
    """A coloured cell beside each row and below each column, and the legend of the colours."""
    from matplotlib.patches import Patch, Rectangle

    last = len(stack.terms) - 0.5
    thick, gap = _STRIP * terms_per_inch, _GAP * terms_per_inch
    for number, kind in enumerate(stack.kinds):
        column = Rectangle((number - 0.5, last + gap), 1, thick)
        row = Rectangle((-0.5 - gap - thick, number - 0.5), thick, 1)
        for cell in (column, row):
            cell.set(facecolor=COLOURS[kind][0], edgecolor="white", linewidth=0.3, clip_on=False)
            axes.add_patch(cell)
    kinds = [kind for kind in _LETTERS if kind in stack.kinds]
    patches = [Patch(facecolor=COLOURS[kind][0], label=f"{_LETTERS[kind]}  {kind}") for kind in kinds]
    axes.legend(handles=patches, loc="upper right", bbox_to_anchor=(0.92, 1), frameon=False, fontsize=8)
