"""`parallelize plan`: the frontier of schedules of one model, measured, and a directory to choose from.

    frontier.json    every schedule that was measured, with its error, depth, parameters and latency
    frontier.svg     error against depth and against latency, measured or predicted
    plans/NN.json    one plan for each schedule of the frontier, for `parallelize convert --plan`
    heatmap.svg      what each term needs of the earlier ones, where it was asked for

Errors are of samples that did not fit the refits. They chose the plans, so `convert` judges the one that is taken on
samples that did neither.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.baselines.deletion import deletion_plan
from parallelize.exploring import heat_map, sensitivity
from parallelize.exploring.frontier import Point, by_depth, frontier
from parallelize.exploring.frontier_plot import plot
from parallelize.exploring.options import PlanOptions
from parallelize.export.onnx import write_onnx
from parallelize.export.weight_files import SharedWeights
from parallelize.files.whole_directory import beside, output_directory, refuse_foreign
from parallelize.machine.device import choose_device, described
from parallelize.machine.measured_on import machine
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.machine.torch_settings import whole_float32
from parallelize.measuring.onnx_latency import onnx_latencies
from parallelize.metrics import Metric
from parallelize.metrics.choice import choose_metric
from parallelize.models.network import Network
from parallelize.models.on_disk import on_disk
from parallelize.models.placement import device_of
from parallelize.models.prepare import Prepared, prepare
from parallelize.models.source import Source
from parallelize.planning.known_forms import Progress
from parallelize.planning.memory import SEARCH_FILE, remove_memory
from parallelize.planning.planner import Planner
from parallelize.planning.search import Candidate
from parallelize.predicting.asked_for import AskedFor
from parallelize.terminal.progress import Report
from parallelize.terminal.words import counted
from passes.errors import ParallelizeError
from passes.plan import Plan
from passes.registry import FUSION
from passes.runner import run_passes

if TYPE_CHECKING:
    from parallelize.models.source import Model

FORMAT = "parallelize-frontier/1"
MOST_DEPTHS = 10  # that are measured where none are named


@whole_float32()
def explore(
    source: Model | Source,
    output: str | os.PathLike[str],
    options: PlanOptions | None = None,
    *,
    force: bool = False,
    report: Report = lambda _what, _share: None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Measure a model's frontier and write it to a directory.

    Args:
        source: the model and its data, as a `parallelize.Source`; a model alone has no data to choose a plan on.
        output: directory to make.
        options: what to look for. Where no file is named in which to keep what is measured, it is kept beside `output`
            in one named after it with `.search.resume` behind until the search has succeeded, and gone on from.
        force: replace an existing directory that an earlier call made.
        report: told what is being done.
        ranks: the processes that measure, of which this is the first; the others call `assist`.

    Returns:
        The content of frontier.json.

    Raises:
        ParallelizeError: with one sentence and a hint; `output` is then as it was before.
    """
    options, source, output = options or PlanOptions(), Source.of(source), Path(output)
    asked_for = AskedFor.of(options.target, options.target_precision)
    memory = beside(output, SEARCH_FILE)
    options = replace(options, planner=replace(options.planner, resume=memory))
    refuse_foreign(output, "frontier.json", "a search for plans")
    with output_directory(output, force=force) as directory:
        prepared, metric = _prepared(source, options, report, ranks)
        _require_latencies(prepared, options, asked_for, report)
        if options.heatmap:
            report("measuring what terms need of each other", None)
            found = sensitivity.measure(prepared.program.module, prepared.data.fit, ranks=ranks)
            heat_map.draw(found, directory / "heatmap.svg")
        measured = _measure(prepared, metric, options, report, ranks)
        ranks.dismiss()  # what is timed now is not disturbed
        points = _timed(measured, prepared, options, report)
        points = _predicted(points, prepared, asked_for)
        content = {**_content(prepared, metric, points, options), "target": asked_for and asked_for.as_dict()}
        (directory / "frontier.json").write_text(json.dumps(content, indent=1) + "\n")
        plot(points, str(metric), directory / "frontier.svg", asked_for.target.gpu if asked_for else "")
        (directory / "plans").mkdir()
        for number, point in enumerate(points):
            (directory / "plans" / f"{number:02}.json").write_text(point.plan.to_json())
    remove_memory(memory)
    return content


plan = explore  # the command's word


@whole_float32()
def assist(source: Source, options: PlanOptions, ranks: Ranks) -> None:
    """On another rank than the first: measure what `explore` hands out there.

    Args:
        source: the same model and data as there.
        options: the same as there.
        ranks: the processes that measure.

    Raises:
        ParallelizeError: what `explore` would raise, or another model or other data than there.
    """
    prepared, metric = _prepared(source, options, lambda _what, _share: None, ranks)
    if options.heatmap:
        sensitivity.Shared(prepared.program.module, prepared.data.fit, ranks)
    _planner(prepared, metric, options, None, ranks)
    ranks.serve()


def _prepared(source: Source, options: PlanOptions, report: Report, ranks: Ranks) -> tuple[Prepared, Metric]:
    device = choose_device(options.device, ranks.local)
    prepared = prepare(source, options.planner.seed, report, device, options.buffer_bytes)
    if prepared.random:
        raise ParallelizeError("A plan is chosen on data.", "Give calibration samples with --inputs.")
    return prepared, choose_metric(options.metric, prepared.program, prepared.data.judge)


def _planner(
    prepared: Prepared, metric: Metric, options: PlanOptions, progress: Progress | None, ranks: Ranks
) -> Planner:
    data = prepared.data
    return Planner(prepared.program, data.fit, data.held_out, metric, options.planner, progress, ranks)


def _require_latencies(prepared: Prepared, options: PlanOptions, asked_for: AskedFor | None, report: Report) -> None:
    """Refuse what has no ONNX form or no known kernels before the search: it has none after it either."""
    if asked_for is not None:
        asked_for.milliseconds(prepared.program, prepared.data.held_out)
    if options.latency:
        report("writing the serial network as ONNX", None)
        with tempfile.TemporaryDirectory() as folder:
            OnnxRuntime.written(prepared.program, Path(folder) / "serial.onnx")


def _measure(
    prepared: Prepared, metric: Metric, options: PlanOptions, report: Report, ranks: Ranks = ALONE
) -> list[Point]:
    """The serial network, and for each depth the best rewrite and the best deletion, fused."""

    def progress(what: str, done: int, total: int) -> None:
        report(f"{what}{best}" if best else what, done / total if total > 1 else None)

    best = ""
    planner = _planner(prepared, metric, options, progress, ranks)
    found = [_serial_point(prepared, planner)]
    for depth in _depths(planner, options.depths):
        candidate = planner.measure(depth)
        found.append(_point("rewrite", candidate, prepared, planner, report))
        report(f"deleting blocks down to {depth}", None)
        found.append(_point("deletion", _deletion(candidate.plan, prepared, planner), prepared, planner, report))
        least = min(found[1:], key=lambda point: (point.error, point.depth_blocks))
        best = f" (best so far: {least.depth_blocks} deep, {metric} {least.error:.3g})"
    return found


def _depths(planner: Planner, wanted: Sequence[int] | None) -> list[int]:
    """The depths to measure, deepest first.

    Raises:
        ParallelizeError: no schedule is of a depth that was named.
    """
    there = [depth for depth in reversed(planner.depths) if depth < planner.blocks]
    if wanted is None:
        step = max(1, -(-len(there) // MOST_DEPTHS))
        return sorted({*there[::step], *there[-1:]}, reverse=True)
    missing = sorted(set(wanted) - set(there))
    if missing:
        raise ParallelizeError(
            f"No rewrite is {counted(missing[0], 'block')} deep.",
            f"Depths are {', '.join(map(str, reversed(there))) or 'none'}.",
        )
    return sorted(set(wanted), reverse=True)


def _serial_point(prepared: Prepared, planner: Planner) -> Point:
    plan = replace(planner.graph.serial_plan, seed=planner.options.seed)
    network = Network.of("serial", prepared.program, plan, planner.graph)
    return Point(network, planner.judge.serial.error(planner.metric), (0.0, 0.0))


def _point(kind: str, measured: Candidate, prepared: Prepared, planner: Planner, report: Report) -> Point:
    """What was measured, fused; large weights lie on the disk, because all points wait for each other."""
    fused, _ = run_passes(measured.network.module, FUSION)
    program = on_disk(replace(prepared.program, module=fused), report)
    network = replace(measured.network, name=kind, program=program)
    return Point(network, measured.scores.error(planner.metric), measured.scores.interval(planner.metric))


def _deletion(plan: Plan, prepared: Prepared, planner: Planner) -> Candidate:
    """The best deletion to the depth of a plan, with the refit that the search allows."""
    data, module = prepared.data, prepared.program.module
    chosen = deletion_plan(module, plan.with_refit(planner.options.refit), data.fit, data.held_out, planner.metric)
    return planner.candidate(chosen)


def _timed(points: Sequence[Point], prepared: Prepared, options: PlanOptions, report: Report) -> list[Point]:
    """The points with their latency, timed in turn, where that was asked for."""
    if not options.latency:
        return list(points)
    with tempfile.TemporaryDirectory() as folder:
        files, shared = {}, SharedWeights()
        for number, point in enumerate(points):
            report("writing ONNX to time", number / len(points))
            files[str(number)] = path = Path(folder) / f"{number}.onnx"
            write_onnx(point.network.program, path, shared=shared)
        report("timing", None)
        times, _ = onnx_latencies(files, prepared.data.held_out, options.rounds, options.threads)
    return [replace(point, latency=times[str(number)].median) for number, point in enumerate(points)]


def _predicted(points: Sequence[Point], prepared: Prepared, asked_for: AskedFor | None) -> list[Point]:
    """The points with their latency on a target, where one was asked for."""
    if asked_for is None:
        return list(points)
    samples = prepared.data.held_out
    return [replace(point, predicted=asked_for.milliseconds(point.network.program, samples)) for point in points]


def _content(prepared: Prepared, metric: Metric, every: Sequence[Point], options: PlanOptions) -> dict[str, Any]:
    unbeaten, best = set(frontier(every)), set(by_depth(every[1:]))
    return {
        "format": FORMAT,
        "model": prepared.program.origin,
        "measured_on": machine(options.threads),
        "device": described(device_of(prepared.program.module)),
        "metric": {"name": str(metric), "meaning": metric.meaning},
        "data": {"fit": len(prepared.data.fit), "held_out": len(prepared.data.held_out)},
        "points": [
            {
                "plan_file": f"plans/{number:02}.json",
                **point.as_dict(),
                "on_frontier": point in unbeaten,
                "best_of_its_depth": point in best,
            }
            for number, point in enumerate(every)
        ],
    }


def table(content: Mapping[str, Any]) -> Table:
    """Every measured schedule as a row; a star marks those that no other one beats."""
    metric, points = content["metric"]["name"], content["points"]
    timed = points[0]["latency_ms"] is not None
    target = content["target"]
    caption = f"*: no other schedule is as good in error, parameters and {'latency' if timed else 'depth'}. 95 %:"
    result = Table(
        title=Text(f"{content['model']}: {content['data']['held_out']} held-out samples", "table.title"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        caption=f"{caption} bootstrap interval.{_of_target(target)}",
        caption_justify="left",
    )
    for heading in ("plan", "network"):
        result.add_column(heading, no_wrap=True)
    headings = ["blocks\ndeep", "para-\nmeters", metric, "95 %", *(["median\nms", "speed\nup"] if timed else [])]
    for heading in [*headings, *(["pre-\ndicted\nms", "speed\nup"] if target else [])]:
        result.add_column(Text(heading), justify="right", no_wrap=True)
    for point in points:
        result.add_row(*_row(point, points[0]["latency_ms"], points[0]["predicted_ms"]))
    return result


def _of_target(target: Mapping[str, Any] | None) -> str:
    """What the columns that nobody measured are."""
    if target is None:
        return ""
    return (
        f"\nPredicted, not measured: {target['gpu']} in {target['precision']} at batch 1, from the kernels of a CUDA"
        f" graph; median error {target['error']:.0%} on {target['error_of']}."
    )


def _row(point: Mapping[str, Any], serial_ms: float | None, serial_predicted: float | None) -> Iterator[str]:
    low, high = point["error_interval"]
    yield point["plan_file"]
    yield point["kind"] + (" *" if point["on_frontier"] else "")
    yield str(point["depth_blocks"])
    yield f"{point['parameters']:,}"
    yield f"{point['error']:.4f}"
    yield f"{low:.4f}..{high:.4f}"
    if serial_ms is not None:
        yield f"{point['latency_ms']:.2f}"
        yield f"{serial_ms / point['latency_ms']:.2f}x"
    if serial_predicted is not None:
        yield f"{point['predicted_ms']:.3f}"
        yield f"{serial_predicted / point['predicted_ms']:.2f}x"
