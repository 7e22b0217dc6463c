"""What a conversion leaves beside its model: the result, the plan, and both schedules as pictures and on a page."""

from __future__ import annotations

from pathlib import Path

from parallelize.conversion.result import Result
from parallelize.conversion.writing import write
from passes.plan import Plan
from passes.stacks.find import find_stacks
from passes.stacks.stack_graph import StackGraph, stack_graph
from tests.parallelize.conversion.small_result import result
from tests.parallelize.small_models import pairs, vision


def graph() -> StackGraph:
    return stack_graph(find_stacks(vision(2).module).stacks)


def test_every_file_is_written_and_read_back_and_the_page_has_both_pictures(tmp_path: Path) -> None:
    found = result(plan=pairs("none", 2))
    write(found, graph(), tmp_path)
    names = {"report.json", "report.html", "before.svg", "after.svg", "plan.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    text = {name: (tmp_path / name).read_text() for name in names}
    assert Result.from_json(text["report.json"]) == found
    assert Plan.from_json(text["plan.json"]) == found.plan
    assert "<title>small: serial: depth 4 of 4 terms (2 of 2 blocks)</title>" in text["before.svg"]
    assert "<title>small: rewritten: depth 2 of 4 terms (1 of 2 blocks)</title>" in text["after.svg"]
    assert text["before.svg"].strip() in text["report.html"]
    assert text["after.svg"].strip() in text["report.html"]


def test_a_network_that_was_not_scheduled_is_not_called_rewritten(tmp_path: Path) -> None:
    write(result(plan=graph().serial_plan, unscheduled="it is one block deep"), graph(), tmp_path)
    assert "<title>small: as it was captured, branches fused: depth 4" in (tmp_path / "after.svg").read_text()
