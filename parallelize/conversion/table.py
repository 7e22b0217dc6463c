"""The before/after table of a conversion, and what its columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from parallelize.baselines.networks import UNFUSED
from parallelize.conversion.result import MeasuredNetwork, Result
from parallelize.terminal.words import counted


def table(result: Result) -> Table:
    """One row for each network."""
    threads = result.measured_on.onnxruntime_threads
    measures = _measures(result)
    shown = Table(
        title=Text(f"{result.model}: {_title(result)}", "table.title"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    shown.add_column("network", no_wrap=True)
    headings = ["blocks\ndeep", "para-\nmeters", "GEMMs\ndeep"]
    headings += [heading for measure in measures for heading in measure.headings]
    headings += ["median\nms", "p90\nms", "speed\nup"]
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.caption_justify = "left"
    shown.caption = (
        f"GEMMs deep: matrix products that wait for each other. {legend(result)}"
        f"ms: ONNX Runtime on the CPU, batch {result.data.batch}, {threads} thread{'s' if threads > 1 else ''},"
        " timed in turn."
    )
    for network in result.networks:
        shown.add_row(*_row(network, result.serial.onnxruntime_ms.median, measures))
    return shown


def legend(result: Result) -> str:
    """What the columns and rows that are there mean."""
    measures = _measures(result)
    against = [measure.heading.replace("\n", " ") for measure in measures if measure.kind != "values"]
    text = f"{', '.join(against)}: against serial. " if against else ""
    if any(measure.bound is not None for measure in measures):
        text += "95 %: bootstrap interval over samples. "
    if UNFUSED in result.names:
        text += "unfused: refitted, branches side by side; all other rewrites are fused. "
    return text


def _title(result: Result) -> str:
    """What the numbers rest on."""
    data = result.data
    if not data.random:
        return counted(data.judge, "sample") + (" judges" if data.judge == 1 else " judge")
    planned = "nothing scheduled" if result.unscheduled is not None else "scheduled by structure"
    return f"{planned}, run on random inputs, which judge nothing"


@dataclass(frozen=True)
class _Measure:
    """One number of the table, with its interval where there is one.

    Attributes:
        heading: over the column, two lines.
        kind: the part of a network's result that holds the number.
        key: the number there.
        number: how it is written.
        bound: how the ends of its interval are written; None leaves it out.
    """

    heading: str
    kind: Literal["values", "errors", "scores"]
    key: str
    number: str = ".4f"
    bound: str | None = ".4f"

    @property
    def headings(self) -> list[str]:
        return [self.heading] if self.bound is None else [self.heading, "\n95 %"]

    def cells(self, network: MeasuredNetwork) -> list[str]:
        numbers = {"values": network.values, "errors": network.errors, "scores": asdict(network.scores)}
        text = _number(numbers[self.kind][self.key], self.number)
        if self.bound is None:
            return [text]
        intervals = network.value_intervals if self.kind == "values" else network.error_intervals
        low, high = (_number(end, self.bound) for end in intervals[self.key])
        return [text, f"{low}..{high}".replace("%..", "..")]


_TOP1 = _Measure("top-1", "values", "top1-drop", ".2%", ".1%")
_AGREE = _Measure("agree", "scores", "agreement", ".1%", None)
_ERRORS = {
    "kl": _Measure("KL\nnats", "errors", "kl"),
    "relative-l2": _Measure("rel.\nL2", "errors", "relative-l2"),
    "cosine": _Measure("1 -\ncosine", "errors", "cosine"),
    "differing": _Measure("codes\nmoved", "errors", "differing", ".2%", ".1%"),
    "disagreement": _Measure("moved", "errors", "disagreement", ".2%", ".1%"),
    "perplexity": _Measure("per-\nplexity", "values", "perplexity", ".2f", ".1f"),
}


def _measures(result: Result) -> list[_Measure]:
    """The metric, top-1 where there are labels, and agreement where there is room for it."""
    serial, metric = result.networks[0], result.metric.name
    found = [_TOP1] if _TOP1.key in serial.values else []
    if metric != _TOP1.key:
        found.append(_ERRORS.get(metric) or _Measure("own\nscore", "values", metric, ".4g", ".4g"))
    has_room = len(found) == 1 and metric != "disagreement"
    found += [_AGREE] if has_room and serial.scores.agreement is not None else []
    return [replace(measure, bound=None) for measure in found] if result.data.random else found


def _row(network: MeasuredNetwork, serial_ms: float, measures: Sequence[_Measure]) -> list[str]:
    latency = network.onnxruntime_ms
    return [
        network.name,
        str(network.depth_blocks),
        _count(network.parameters),
        str(network.critical_gemms),
        *(cell for measure in measures for cell in measure.cells(network)),
        *(_milliseconds(time) for time in (latency.median, latency.p90)),
        f"{serial_ms / latency.median:.2f}x",
    ]


def _number(value: float, form: str) -> str:
    """A number as its column writes it, or with four digits where that would be too wide."""
    return f"{value:.4g}" if abs(value) >= 1e4 else f"{value:{form}}"


def _milliseconds(time: float) -> str:
    return f"{time:.2f}" if time >= 0.995 else f"{time:.2g}"


def _count(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
