"""The before/after table of a conversion, and what its columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from parallelize.baselines.networks import UNFUSED
from parallelize.conversion.result import MeasuredNetwork, Result
from parallelize.machine.latency import Latency
from parallelize.metrics import known_metrics
from parallelize.metrics.metric import Column
from parallelize.metrics.own import OWN_COLUMN
from parallelize.terminal.words import counted


def table(result: Result) -> Table:
    """One row for each network."""
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
    headings += ["median\nms", "p90\nms", "speed\nup"] if result.is_timed else []
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.caption_justify = "left"
    shown.caption = f"GEMMs deep: matrix products that wait for each other. {legend(result)}{_timing(result)}".rstrip()
    for network in result.networks:
        shown.add_row(*_row(network, result.serial.onnxruntime_ms, measures))
    return shown


def _timing(result: Result) -> str:
    """How latency was measured; empty where it was not."""
    threads = result.measured_on.onnxruntime_threads
    where = f"batch {result.data.batch}, {threads} thread{'s' if threads > 1 else ''}"
    return f"ms: ONNX Runtime on the CPU, {where}, timed in turn." if result.is_timed else ""


def legend(result: Result) -> str:
    """What the columns and rows that are there mean."""
    measures = _measures(result)
    against = [measure.column.heading.replace("\n", " ") for measure in measures if measure.kind != "value"]
    text = f"{', '.join(against)}: against serial. " if against else ""
    if any(measure.column.bound is not None for measure in measures):
        text += "95 %: bootstrap interval over samples. "
    if UNFUSED in result.names:
        text += "unfused: refitted, branches side by side; all other rewrites are fused. "
    if result.prefixes is not None:
        text += "prefix: the first branches of the last level. "
        text += "every prefix: an answer after each in one run, the last one judged. " if result.prefixes.every else ""
    if result.pace is not None:
        text += f"Asked for: {result.pace.asked}. "
    return text


def _title(result: Result) -> str:
    """What the numbers rest on."""
    data = result.data
    if not data.random:
        return counted(data.judge, "sample") + (" judges" if data.judge == 1 else " judge")
    planned = "nothing scheduled" if result.unscheduled is not None else "scheduled by structure"
    return f"{planned}, run on random inputs, which judge nothing"


@dataclass(frozen=True)
class Measure:
    """One number of the table, with its interval where there is one.

    Attributes:
        name: of the metric.
        column: how it is shown.
        kind: a network's own value, its error against serial, or 1 - error.
    """

    name: str
    column: Column
    kind: Literal["value", "error", "agreement"]

    @property
    def headings(self) -> list[str]:
        """Of its columns."""
        heading = self.column.heading
        return [heading] if self.column.bound is None else [heading, "\n95 %"]

    @property
    def title(self) -> str:
        """The heading in one line, and what the number is against."""
        heading = self.column.heading.replace("\n", " ")
        return heading if self.kind == "value" else f"{heading}, against serial"

    def number(self, network: MeasuredNetwork) -> float:
        """Of a network."""
        number = (network.values if self.kind == "value" else network.errors)[self.name]
        return 1 - number if self.kind == "agreement" else number

    def interval(self, network: MeasuredNetwork) -> tuple[float, float]:
        """Low and high of a value or an error."""
        return (network.value_intervals if self.kind == "value" else network.error_intervals)[self.name]

    def cells(self, network: MeasuredNetwork) -> list[str]:
        """Of a network, as they are shown."""
        text = _number(self.number(network), self.column.number)
        if self.column.bound is None:
            return [text]
        low, high = (_number(end, self.column.bound) for end in self.interval(network))
        return [text, f"{low}..{high}".replace("%..", "..")]


def leading(result: Result) -> Measure:
    """The first number of the table."""
    return _measures(result)[0]


def _measures(result: Result) -> list[Measure]:
    """What leads wherever it is there, the metric, and what stands beside one where there is room."""
    known, serial = known_metrics(), result.networks[0]
    wanted = result.metric.name
    leading = [name for name, metric in known.items() if metric.leads and name in {**serial.errors, **serial.values}]
    found = [
        Measure(name, known[name].column if name in known else OWN_COLUMN, _kind(name, serial))
        for name in dict.fromkeys((*leading, wanted))
    ]
    beside = [
        Measure(name, metric.beside, "agreement")
        for name, metric in known.items()
        if metric.beside is not None and name in serial.errors and name != wanted
    ]
    found += beside[:1] if len(found) == 1 else []
    if not result.data.random:
        return found
    return [replace(measure, column=replace(measure.column, bound=None)) for measure in found]


def _kind(name: str, serial: MeasuredNetwork) -> Literal["value", "error"]:
    return "value" if name in serial.values else "error"


def _row(network: MeasuredNetwork, serial: Latency | None, measures: Sequence[Measure]) -> list[str]:
    return [
        network.name,
        str(network.depth_blocks),
        _count(network.parameters),
        str(network.critical_gemms),
        *(cell for measure in measures for cell in measure.cells(network)),
        *_times(network.onnxruntime_ms, serial),
    ]


def _times(latency: Latency | None, serial: Latency | None) -> list[str]:
    if latency is None or serial is None:
        return []
    return [_milliseconds(latency.median), _milliseconds(latency.p90), f"{serial.median / latency.median:.2f}x"]


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
