"""The result is what report.json says, read back to the byte, and a file that is none is refused with its place."""

from __future__ import annotations

import json
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import pytest

from parallelize.conversion.result import SCHEMA, Result, Searched
from parallelize.metrics.scores import PlainScores
from passes.errors import ParallelizeError
from passes.plan import Level, Plan, StackPlan
from passes.runner import PassRecord, Skip
from tests.parallelize.conversion.small_result import BACKEND, ENGINE, HEALING, network, result

WRITTEN = (Path(__file__).parent / "report.json").read_text()  # by a conversion, when a report was no typed value yet


def test_a_report_that_a_conversion_wrote_is_read_and_written_again_to_the_byte() -> None:
    read = Result.from_json(WRITTEN)
    assert read.to_json() == WRITTEN
    assert list(read.as_dict()) == list(json.loads(WRITTEN))
    assert read.names == (
        "serial",
        "rewrite, as is",
        "rewrite, unfused",
        "rewrite, refitted",
        "deletion, as is",
        "deletion, refitted",
    )
    assert (read.serial.depth_blocks, read.product.depth_blocks) == (4, 2)
    assert read.product == read["rewrite, refitted"]


def test_everything_that_a_result_may_hold_is_read_back_as_it_was() -> None:
    plan = Plan((StackPlan(3, (Level(((0,), (1,)), shared=True), Level(((2,),)))),), seed=7)
    record = PassRecord("fuse-width", True, ("a",), (Skip("n", "why"),), 9, 8, 0.5, None)
    made = result(
        plan=plan,
        deletion_plan=plan.with_refit("full"),
        healing=HEALING,
        passes=(record,),
        search=(Searched(2, 0.5, PlainScores(20, 0.1)),),
        unfused_stacks={"layers": "shapes differ"},
        backend=replace(BACKEND, engine=ENGINE, onnx_against_graph=None, onnx_not_run="no kernel"),
    )
    assert Result.from_json(made.to_json()) == made


def test_a_cost_that_no_group_foretold_stays_no_number() -> None:
    made = result(search=(Searched(2, nan, PlainScores(20, 0.1)),))
    assert isnan(Result.from_json(made.to_json()).search[0].predicted)


@pytest.mark.parametrize(
    ("names", "product"),
    [
        (("serial", "fused"), "fused"),
        (("serial", "rewrite, as is", "deletion, as is"), "rewrite, as is"),
        (("serial", "rewrite, as is", "rewrite, unfused", "rewrite, refitted"), "rewrite, refitted"),
        (("serial", "rewrite, as is", "rewrite, healed", "deletion, as is"), "rewrite, healed"),
    ],
)
def test_the_product_is_the_rewrite_with_all_that_helped(names: tuple[str, ...], product: str) -> None:
    assert result(networks=tuple(map(network, names))).product.name == product


@pytest.mark.parametrize("text", ["[]", "{}", json.dumps({"schema": "parallelize-report/9"})])
def test_another_schema_is_refused(text: str) -> None:
    with pytest.raises(ParallelizeError, match=f"has the schema .*, not '{SCHEMA}'"):
        Result.from_json(text)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ParallelizeError, match=r"out/report\.json is no JSON"):
        Result.from_json("{", "out/report.json")
