"""What the report of a conversion tells of its prefixes: sentences, and accuracy against latency as a curve.

The curve is of the first number of the table: a value of the networks, such as top-1, or an error against serial.
Latency is that of the engines where a GPU has run them, otherwise that of ONNX Runtime, as it stands in the table.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from pathlib import Path

from parallelize.conversion.result import Result
from parallelize.conversion.table import leading
from parallelize.inspecting.errors_plot import Series, draw
from parallelize.inspecting.svg_figure import svg_figure
from parallelize.terminal.words import listed

CURVE = "prefixes.svg"


def prefix_facts(result: Result) -> Iterator[str]:
    """What was written, and what all answers in one run take."""
    found = result.prefixes
    if found is None:
        return
    numbers = listed([str(network.branches) for network in found.networks], "and")
    yield (
        f"The last level, which ends in {found.level}, has {found.branches} branches; measured were"
        f" its prefixes of {numbers}."
    )
    if found.every is not None:
        times, where = _latencies(result)
        yield (
            f"{found.every.files[-1]} answers after each of them in one run, in {times[found.every.name]:.3g} ms on"
            f" {where}; the network alone takes {times[result.product.name]:.3g} ms. Its outputs are"
            f" {', '.join(found.every.outputs)}."
        )


def prefix_notes(result: Result) -> Iterator[str]:
    """Where prefixes are no more than the beginning of a sum."""
    found = result.prefixes
    if found is None or not found.scheduled:
        return
    said = "what their other branches add is foretold from the state by an affine function, fitted on samples"
    yield (
        "The prefixes are those of a schedule, in the order of its chains, and no training has meant them to be used by"
        f" themselves{f'; {said}' if found.foretold else ''}."
    )


def prefix_section(result: Result, curve: str) -> str:
    """The part of the page: the curve, and what was written.

    Args:
        result: of a conversion.
        curve: the picture, SVG.
    """
    found = result.prefixes
    if found is None:
        return ""
    every = () if found.every is None else (found.every,)
    rows = "".join(
        f"<tr><td>{html.escape(network.name)}</td><td>{html.escape(', '.join(network.files) or 'not written')}</td>"
        f"<td>{html.escape(', '.join(network.outputs))}</td></tr>"
        for network in (*found.networks, *every)
    )
    heads = "<tr><th>network</th><th>files</th><th>outputs</th></tr>"
    return f'<h2>Prefixes</h2><div class="pair">{curve}<table>{heads}{rows}</table></div>'


def draw_curve(result: Result, path: Path) -> None:
    """Write an .svg: the prefixes from left to right, joined by a line, and serial and the whole network beside them.

    Args:
        result: with prefixes.
        path: to write.
    """
    found = result.prefixes
    assert found is not None
    times, where = _latencies(result)
    measure = leading(result)
    alone = [result.serial.name, result.product.name, *([] if found.every is None else [found.every.name])]
    groups = {"prefixes": [network.name for network in found.networks], **{name: [name] for name in alone}}
    styles = [("#0072b2", "o", "-"), ("#222222", "s", "none"), ("#d55e00", "x", "none"), ("#009e73", "^", "none")]
    series = [
        Series(
            label,
            [times[name] for name in names],
            [measure.number(result[name]) for name in names],
            [measure.interval(result[name]) for name in names],
            *style,
        )
        for (label, names), style in zip(groups.items(), styles, strict=False)
    ]
    marks = [str(network.branches) for network in found.networks]
    with svg_figure(path, 5.4, 3.6) as figure:
        axes = figure.add_subplot()
        draw(axes, series, f"ms, batch {result.data.batch}, {where}", measure.title)
        for mark, x, y in zip(marks, series[0].positions, series[0].values, strict=True):
            axes.annotate(mark, (x, y), textcoords="offset points", xytext=(4, 4))


def _latencies(result: Result) -> tuple[Mapping[str, float], str]:
    """Median milliseconds by the names of the table, and where: on the GPU where all prefixes have engines there."""
    engine, found = result.backend.engine, result.prefixes
    times = {} if engine is None else {name: latency.median for name, latency in engine.latency_ms.items()}
    if engine is None or found is None or any(network.name not in times for network in found.networks):
        measured = {network.name: network.onnxruntime_ms for network in result.networks}
        return {name: latency.median for name, latency in measured.items() if latency is not None}, "ONNX Runtime"
    return {**times, result.product.name: times["rewrite"]}, engine.library
