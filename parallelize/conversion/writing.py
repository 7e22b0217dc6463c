"""What a conversion leaves in its directory beside models and engine: what was found, diagrams and the plan.

report.json    the result
report.html    the same as a page
before.svg     the schedule as it was captured
after.svg      the schedule that runs
plan.json      the plan, for `--plan`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from parallelize.conversion.page import page
from parallelize.conversion.result import Result
from parallelize.inspecting.diagrams import draw, schedule_graph
from passes.plan import Plan, serial
from passes.stacks.terms import Stack


def write(result: Result, stacks: Sequence[Stack], directory: Path) -> None:
    """Write the files.

    Args:
        result: of the conversion.
        stacks: of the model as it was captured.
        directory: where.
    """
    (directory / "report.json").write_text(result.to_json())
    (directory / "plan.json").write_text(result.plan.to_json())
    before, after = directory / "before.svg", directory / "after.svg"
    as_captured = Plan(tuple(serial(len(stack.terms)) for stack in stacks))
    draw(schedule_graph(stacks, as_captured, f"{result.model}: serial"), before)
    what = "rewritten" if result.unscheduled is None else "as it was captured, branches fused"
    draw(schedule_graph(stacks, result.plan, f"{result.model}: {what}"), after)
    (directory / "report.html").write_text(page(result, before.read_text(), after.read_text()))
