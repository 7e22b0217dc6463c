"""What a measurement tells: a table on the terminal, plain values for JSON, a chart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from parallelize.inspecting.svg_figure import svg_figure
from parallelize.machine.measured_on import machine
from parallelize.measuring.bench import BenchResult, Timing

SCHEMA = "parallelize-bench/1"


def as_dict(result: BenchResult) -> dict[str, Any]:
    """Plain values; times in milliseconds by percentile."""
    options = result.options
    return {
        "schema": SCHEMA,
        "measured_on": {**machine(options.runner.threads), **_gpu(result)},
        "batch": result.batch,
        "warm_up_ms": options.warm_up,
        "duration_s": options.duration,
        "threads": options.runner.threads,
        "tf32": options.runner.tf32,
        "speed_up_by": "gpu" if result.by_gpu else "host",
        "networks": [
            {
                "name": timing.label,
                "runner": timing.runner,
                "device": timing.device,
                "iterations": timing.iterations,
                "host_ms": _named(timing.host),
                "enqueue_ms": _named(timing.enqueue),
                "gpu_ms": _named(timing.gpu),
                "median_ms": timing.median,
                "speed_up": result.speed_up(timing),
                "cuda_graph": timing.cuda_graph,
                "enqueue_bound": timing.enqueue_bound,
                "note": timing.note,
            }
            for timing in result.timings
        ],
        "skipped": [{"name": s.label, "reason": s.reason, "hint": s.hint} for s in result.skipped],
    }


def _named(times: Mapping[float, float] | None) -> dict[str, float] | None:
    return None if times is None else {f"p{share:g}": time for share, time in times.items()}


def _gpu(result: BenchResult) -> dict[str, Any]:
    if all(timing.gpu is None for timing in result.timings):
        return {}
    import torch

    return {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}


def table(result: BenchResult) -> Table:
    """One row for each network."""
    found = Table(box=SIMPLE_HEAD, padding=0, caption_justify="left")
    found.add_column("network")
    found.add_column("runner", no_wrap=True)
    shares = result.options.percentiles
    has_gpu = any(timing.gpu is not None for timing in result.timings)
    columns = ["GPU", "host", "enqueue"] if has_gpu else ["host"]
    headings = [f"{column}\np{share:g} ms" for column in columns for share in shares]
    for heading in [*headings, "speed\nup"]:
        found.add_column(heading, justify="right", no_wrap=True)
    for timing in result.timings:
        kinds = {"GPU": timing.gpu, "host": timing.host, "enqueue": timing.enqueue}
        cells = [_cell(kinds[column], share) for column in columns for share in shares]
        found.add_row(Text(timing.label), timing.runner, *cells, f"{result.speed_up(timing):.2f}x")
    threads = result.options.runner.threads
    found.caption = (
        f"batch {result.batch}, in turn, {result.options.duration:g} s of each; on the CPU {threads}"
        f" thread{'s' if threads > 1 else ''}; speed-up by the median of {'GPU' if result.by_gpu else 'host'} time."
    )
    return found


def _cell(times: Mapping[float, float] | None, share: float) -> str:
    return "-" if times is None else f"{times[share]:.3g}"


def notes(result: BenchResult) -> list[str]:
    """Sentences below the table."""
    return [
        *(f"{s.label} was skipped: {s.reason} {s.hint}" for s in result.skipped),
        *(f"{timing.label}: {timing.note}" for timing in result.timings if timing.note),
        *(
            f"{timing.label} is enqueue-bound: the host needs about as long to enqueue the kernels as the GPU to run"
            " them."
            for timing in result.timings
            if timing.enqueue_bound
        ),
    ]


def plot(result: BenchResult, path: Path) -> None:
    """Write an .svg of bars: the median, and a line from there to the highest percentile."""
    timings = result.timings
    with svg_figure(path, 6.4, 1.2 + 0.32 * len(timings)) as figure:
        axes = figure.add_subplot()
        medians = [timing.median for timing in timings]
        tails = [max(0.0, _highest(timing, by_gpu=result.by_gpu) - timing.median) for timing in timings]
        labels = [f"{timing.label} ({timing.runner})" for timing in timings]
        axes.barh(range(len(timings)), medians, xerr=[[0.0] * len(timings), tails], color="#0072b2", capsize=2)
        axes.set_yticks(range(len(timings)), labels, parse_math=False)
        axes.invert_yaxis()
        what = "GPU" if result.by_gpu else "host"
        axes.set_xlabel(f"{what} ms, batch {result.batch}: median, line to p{max(result.options.percentiles):g}")
        axes.grid(visible=True, axis="x", alpha=0.3)
        axes.set_axisbelow(True)


def _highest(timing: Timing, *, by_gpu: bool) -> float:
    times = timing.gpu if by_gpu and timing.gpu is not None else timing.host
    return times[max(times)]
