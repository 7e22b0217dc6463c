"""What a conversion leaves in its directory beside models and engine: what was found, diagrams and the plan.

report.json    the result
report.html    the same as a page
before.svg     the schedule as it was captured
after.svg      the schedule that runs
prefixes.svg   accuracy against latency of prefixes, where there are any
plan.json      the plan, for `--plan`
"""

from __future__ import annotations

from pathlib import Path

from parallelize.conversion.page import page
from parallelize.conversion.prefix_report import CURVE, draw_curve
from parallelize.conversion.result import Result
from parallelize.inspecting.diagrams import draw, schedule_graph
from passes.stacks.stack_graph import StackGraph


def write(result: Result, graph: StackGraph, directory: Path) -> None:
    """Write the files.

    Args:
        result: of the conversion.
        graph: of the model's stacks, as it was captured.
        directory: where.
    """
    (directory / "report.json").write_text(result.to_json())
    (directory / "plan.json").write_text(result.plan.to_json())
    before, after = directory / "before.svg", directory / "after.svg"
    draw(schedule_graph(graph.stacks, graph.serial_plan, f"{result.model}: serial"), before)
    what = "rewritten" if result.unscheduled is None else "as it was captured, branches fused"
    draw(schedule_graph(graph.stacks, result.plan, f"{result.model}: {what}"), after)
    curve = ""
    if result.prefixes is not None:
        draw_curve(result, directory / CURVE)
        curve = (directory / CURVE).read_text().partition("<svg")[2]
        curve = f"<svg{curve}"
    (directory / "report.html").write_text(page(result, before.read_text(), after.read_text(), curve))
