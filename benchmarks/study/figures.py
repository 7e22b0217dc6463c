"""The figures of docs/para-former.md: accuracy against branches and of every prefix, time against layers."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.study.numbers import Length, fullest, on_h200, spread
from benchmarks.study.runs import PROBLEMS, WAYS, Results, Scale
from parallelize.inspecting.svg_figure import svg_figure

COLOURS = {"serial": "#222222", "joint": "#0072b2", "progressive": "#009e73"}
FORMS = {"serial": ("#222222", "-"), "looped": ("#d55e00", "-"), "fused": ("#0072b2", ":"), "folded": ("#0072b2", "-")}


def write_accuracy(results: Results, scale: Scale, path: Path) -> None:
    """Accuracy against the number of branches or blocks, and of every prefix on each problem."""
    with svg_figure(path, 9.0, 3.4) as figure:
        left, *others = figure.subplots(1, 3)
        counts = (*scale.counts, scale.blocks)
        every = [("fashion", way, count) for way in WAYS for count in counts]
        length = fullest(results, scale, *every) or fullest(results, scale, *every[len(counts) - 1 :: len(counts)])
        for way in WAYS if length else ():
            points = [(count, found) for count in counts if length and (found := length.scores("fashion", way, count))]
            _bars(left, points, way)
        _finish(left, f"Fashion-MNIST{_steps(length)}", "branches, or serial blocks", list(counts))
        for axes, (problem, facts) in zip(others, PROBLEMS.items(), strict=True):
            length = fullest(results, scale, *((problem, way, scale.blocks) for way in WAYS))
            for way in ("joint", "progressive") if length else ():
                _bars(axes, list(enumerate(length.prefixes(problem, way), 1)) if length else [], way)
            if length:
                twin = mean(length.scores(problem, "serial"))
                axes.axhline(twin, color=COLOURS["serial"], linestyle="--", linewidth=0.8, label="serial twin")
            _finish(axes, f"{facts.title}, prefixes{_steps(length)}", f"first of {scale.blocks} branches", None)
        _legend(figure)


def write_time(results: Results, path: Path) -> None:
    """Time against layers: eager and ONNX Runtime on the CPU, and an H200, measured and foretold."""
    with svg_figure(path, 9.0, 3.4) as figure:
        panels = figure.subplots(1, 3)
        times = results.get("time/wide", {}).get("ms", {})
        for axes, runner in zip(panels, ("eager", "onnxruntime"), strict=False):
            for form, taken in times.get(runner, {}).items():
                colour, line = FORMS[form]
                axes.plot([int(n) for n in taken], list(taken.values()), color=colour, linestyle=line, label=form)
            _finish(axes, f"CPU, {runner}, width 64, 49 tokens", "layers", None)
            axes.set_ylabel("ms")
        _h200(panels[2], results)
        _legend(figure)


def _h200(axes: Any, results: Results) -> None:
    names = {"serial": "serial", "Para-Former, unfused": "looped", "Para-Former, fused": "folded"}
    for name, taken in on_h200().items():
        colour, line = FORMS[names[name]]
        axes.plot(list(taken), list(taken.values()), color=colour, linestyle=line, marker="o", markersize=3)
    foretold = results.get("time/h200", {}).get("widths", {}).get("192")
    if foretold:
        total = {int(count): value for count, value in foretold["total"].items() if int(count) <= 32}
        axes.plot(list(total), list(total.values()), color="#cc79a7", linestyle="--", label="folded, foretold")
    axes.set_yscale("log")
    _finish(axes, "H200, width 192, 196 tokens", "layers", None)
    axes.set_ylabel("us")


def _steps(length: Length | None) -> str:
    return f", {length.steps} steps" if length else ""


def _bars(axes: Any, points: list[tuple[int, list[float]]], way: str) -> None:
    if points:
        counts, found = zip(*points, strict=True)
        middle, bars = [mean(values) for values in found], [spread(values) for values in found]
        axes.errorbar(counts, middle, bars, color=COLOURS[way], marker="o", markersize=3, capsize=2, label=way)


def _finish(axes: Any, title: str, under: str, ticks: list[int] | None) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(under)
    if ticks:
        axes.set_ylabel("top-1, %")
        axes.set_xticks(ticks)
    axes.grid(visible=True, alpha=0.3)


def _legend(figure: Any) -> None:
    handles = {label: h for axes in figure.axes for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False)
