"""docs/results.svg: what each depth keeps of the serial score, one panel for each model."""

from collections.abc import Callable, Mapping
from pathlib import Path

from parallelize.inspecting.svg_figure import svg_figure

OURS, RIVAL = "#0072b2", "#d55e00"
SERIES: dict[str, tuple[Callable[[str], bool], str, str, str]] = {  # which rows; colour, marker, line
    "rewrite, healed": (lambda row: row.startswith("rewrite, healed"), "#009e73", "^", "-"),
    "rewrite, refitted": (lambda row: row == "rewrite, refitted", OURS, "o", "-"),
    "rewrite, as is": (lambda row: row == "rewrite, as is", OURS, "o", ":"),
    "best of the others, with our refit": (lambda row: _is_rival(row) and "refitted" in row, RIVAL, "x", "-"),
    "deletion, healed": (lambda row: row.startswith("deletion, healed"), "#e69f00", "^", "-"),
    "best of the others, as published": (lambda row: _is_rival(row) and row.endswith("as is"), RIVAL, "x", ":"),
}
Rows = Mapping[str, Mapping[str, dict]]  # by depth and network: what was measured
Best = Callable[[Mapping[str, dict]], str]  # of rows, the name of the best


def _is_rival(row: str) -> bool:
    return not row.startswith("rewrite")


def write_figure(panels: Mapping[str, tuple[Rows, Best]], path: Path) -> None:
    """Write the figure.

    Args:
        panels: by title, "model: score", what was measured and what is best.
        path: of the .svg.
    """
    lines = (len(panels) + 1) // 2
    with svg_figure(path, 9.0, 0.7 + 3.4 * lines) as figure:
        for place, (title, (rows, best)) in enumerate(panels.items()):
            axes = figure.add_subplot(lines, 2, place + 1)
            serial = next(iter(next(iter(rows.values())).values()))["serial"]
            axes.axhline(serial, color="#222222", linewidth=0.8, linestyle="--", label="serial")
            for label, (belongs, colour, marker, line) in SERIES.items():
                chosen = {depth: {n: row for n, row in rows[depth].items() if belongs(n)} for depth in rows}
                points = [(int(depth), found[best(found)]) for depth, found in chosen.items() if found]
                if points:
                    x, y = [depth for depth, _ in points], [row["value"] for _, row in points]
                    axes.plot(x, y, color=colour, marker=marker, linestyle=line, markersize=4, label=label)
            model, score = title.split(": ")
            axes.set_title(model, fontsize=9)
            axes.set_ylabel(score)
            axes.set_xlabel("blocks deep")
            axes.set_xticks([int(depth) for depth in rows])
            axes.invert_xaxis()
            axes.grid(visible=True, alpha=0.3)
        handles = {label: h for axes in figure.axes for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
